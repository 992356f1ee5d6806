"""One file of many networks: parameters stacked, or in lists, and what is known beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.checkpoints import (
    Checkpoint,
    Held,
    MemoryBudget,
    Request,
    Value,
    checkpoint_of,
    columns_of,
    flattened,
    has_tensors,
    plain,
    read_held,
)
from converters.populations.networks import ForeignNetworks
from nngraph.errors import InvalidGraphError
from nngraph.settings import ImportSettings

#: Last parts of the names of parameters and buffers, by which they are told from facts.
_PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
#: What lists of tensors are called, one for each layer, and the parameter that each holds.
_LISTS = {"weight": "weight", "weights": "weight", "bias": "bias", "biases": "bias"}


def of_stack(file: Path, settings: ImportSettings, known: frozenset[str]) -> ForeignNetworks:
    """Return the networks of one file, and its entries of one value a network as columns.

    It holds every parameter as ``[B, *shape]``; or lists of these, a tensor for each layer, or a
    list of tensors for each network; or a list of checkpoints. Entries ``[B]``, ``[B, 1]`` and
    lists of B numbers, names or mappings of these are columns, as is what lies beside the weights
    in a checkpoint.

    Args:
        known: names of parameters, where the architecture is given.

    Raises:
        DataFileError: if one of a list of checkpoints is none.
        InvalidGraphError: if there are no networks, or entries are not of one length.
    """
    layout = None if settings.layout is None else Path(settings.layout)
    held = read_held(file, Request(MemoryBudget(settings.max_bytes), layout))[1].value
    found = _Found(file, settings, known)
    found.take(held, "")
    if found.states:
        count = len(found.states)
    elif found.parameters:
        count = len(next(iter(found.parameters.values())))
    else:
        raise InvalidGraphError(
            f"{file} holds no stacked networks; expected every parameter as (B, *shape)."
        )
    if not count:
        raise InvalidGraphError(f"{file} has no networks; expected at least one.")
    parameters = found.parameters if not found.states else {}
    for name, values in (*parameters.items(), *found.columns.items()):
        if len(values) != count:
            raise InvalidGraphError(
                f"{file}: {name!r} has {len(values)} entries; expected {count}, one per network."
            )
    columns = {name: _column(file, name, values) for name, values in found.columns.items()}
    if settings.labels_key in columns and settings.label is None:
        marks = columns[settings.labels_key]
        if not all(isinstance(mark, int | str) for mark in marks):
            raise InvalidGraphError(
                f"{file} has {count} networks, and labels {settings.labels_key!r} that are no "
                "whole numbers (B,), or names."
            )
    names = tuple(f"network {i}" for i in range(count))
    states = found.states
    if states:
        digest = _digest(
            {f"{i}.{n}": v for i, each in enumerate(states) for n, v in each.tensors.items()}
        )
        return ForeignNetworks(names, states.__getitem__, digest, columns, paths=False)
    return ForeignNetworks(
        names, lambda number: Checkpoint({n: v[number] for n, v in parameters.items()}, "torch"),
        _digest(parameters), columns, paths=False, stacked=parameters,
    )  # fmt: skip


class _Found:
    """Parameters and columns, gathered from what a file holds."""

    def __init__(self, file: Path, settings: ImportSettings, known: frozenset[str]) -> None:
        self.file, self.settings, self.known = file, settings, known
        self.parameters: dict[str, Tensor] = {}
        self.columns: dict[str, Any] = {}
        self.states: list[Checkpoint] = []

    def take(self, held: Any, name: str) -> None:
        """Sort an entry in, and those within it."""
        held = plain(held)
        if isinstance(held, Mapping):
            for key, value in held.items():
                self.take(value, str(key))
        elif isinstance(held, Tensor):
            tensors = self.parameters if self._is_parameter(name, held) else self.columns
            if held.dim():  # one number is of the whole file
                self._check_new(name)
                tensors[name] = held
        elif isinstance(held, list | tuple) and held:
            self._take_list(list(held), name)

    def _take_list(self, held: list[Any], name: str) -> None:
        if all(isinstance(value, Mapping) for value in held):
            self._take_mappings(held, name)
        elif all(isinstance(value, list | tuple) and _are_tensors(value) for value in held):
            self._take_list(self._by_layer(held, name), name)
        elif all(isinstance(value, Tensor) and value.dim() > 1 for value in held):
            last = _LISTS.get(name, name)
            for number, value in enumerate(held):
                while last == "weight" and value.dim() > 3 and value.shape[-1] == 1:
                    value = value.squeeze(-1)  # a channel, as metanetworks keep it
                value = value.flatten(1) if last == "bias" else value
                self.parameters[f"layers.{number}.{last}"] = value
        else:
            one = (isinstance(v, Tensor) and v.numel() == 1 for v in held)
            self.columns[name] = [v.item() if o else v for v, o in zip(held, one, strict=True)]

    def _check_new(self, name: str) -> None:
        if name in self.parameters or name in self.columns:
            raise InvalidGraphError(
                f"{self.file} has {name!r:.99} twice, within others. Save the networks as a list "
                "of state dicts, or stacked: every parameter once, (B, *shape)."
            )

    def _take_mappings(self, held: list[Mapping[Any, Any]], name: str) -> None:
        if not any(map(has_tensors, held)):
            self.columns |= columns_of(flattened(value, name) for value in held)
            return
        if self.states:
            raise InvalidGraphError(
                f"{self.file}: {name!r:.99} is a second list of state dicts; expected one. Save "
                "the networks that are meant in a file of their own."
            )
        settings = self.settings
        for number, value in enumerate(held):
            place = Path(f"{self.file}, network {number}")
            own = Held(_with_layers(value))
            self.states.append(
                checkpoint_of(place, own, "torch", settings.nested, settings.max_bytes)
            )
        self.columns |= columns_of(state.facts for state in self.states)

    def _by_layer(self, held: list[Any], name: str) -> list[Tensor]:
        """Return a list of tensors for each network as a stack for each layer."""
        if len({tuple(tensor.shape for tensor in each) for each in held}) > 1:
            raise InvalidGraphError(
                f"{self.file}: {name!r:.99} has a list of tensors for each network, and they are "
                "not of the same shapes; expected them to be, or a list of state dicts."
            )
        return [torch.stack(layer) for layer in zip(*held, strict=True)]

    def _is_parameter(self, name: str, value: Tensor) -> bool:
        ends = _is_named(name)
        if self.known:
            ends = any(name == known or name.endswith(f".{known}") for known in self.known)
        one_each = value.dim() == 1 or (value.dim() == 2 and value.shape[1] == 1)
        return ends or not one_each


def _are_tensors(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def _with_layers(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return lists of tensors, one for each layer, as parameters; single numbers as such."""
    found: dict[Any, Any] = {}
    for key, value in state.items():
        if isinstance(value, list | tuple) and _are_tensors(value):
            last = _LISTS.get(str(key), str(key))
            found |= {f"layers.{i}.{last}": tensor for i, tensor in enumerate(value)}
        elif isinstance(value, Tensor) and not value.dim() and not _is_named(str(key)):
            found[key] = value.item()
        else:
            found[key] = value
    return found


def _is_named(name: str) -> bool:
    return name.rpartition(".")[2] in _PARAMETERS


def _column(file: Path, name: str, values: Any) -> Sequence[Value]:
    if isinstance(values, Tensor):
        if values.is_complex():
            raise InvalidGraphError(f"{file}: {name!r} is complex; expected real numbers.")
        return list(values.flatten().tolist())
    if not all(isinstance(value, int | float | str | bool | None) for value in values):
        raise InvalidGraphError(
            f"{file}: {name!r} is a list of {type(values[0]).__name__}; expected numbers or texts, "
            "one per network. Save several of a network as columns of their own, or leave it out."
        )
    return list(values)


def _digest(parameters: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parameters):
        data = parameters[name].contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(name.encode() + b"\0" + data.tobytes())
    return digest.hexdigest()
