"""One file of many networks: parameters stacked, or in lists, and what is known beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.checkpoints import Checkpoint, MemoryBudget, Request, Value, plain, read_held
from converters.populations.networks import ForeignNetworks
from nngraph.errors import InvalidGraphError
from nngraph.settings import ImportSettings

#: Last parts of the names of parameters and buffers, by which they are told from facts.
_PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
#: What lists of tensors are called, one for each layer, and the parameter that each holds.
_LISTS = {"weight": "weight", "weights": "weight", "bias": "bias", "biases": "bias"}


def of_stack(file: Path, settings: ImportSettings, known: frozenset[str]) -> ForeignNetworks:
    """Return the networks of one file, and its entries of one value a network as columns.

    It holds every parameter as ``[B, *shape]``; or lists of these, a tensor for each layer; or a
    list of state dicts. Entries ``[B]``, ``[B, 1]`` and lists of B numbers or names beside them are
    columns.

    Args:
        known: names of parameters, where the architecture is given.

    Raises:
        InvalidGraphError: if there are no networks, or entries are not of one length.
    """
    layout = None if settings.layout is None else Path(settings.layout)
    held = read_held(file, Request(MemoryBudget(settings.max_bytes), layout))[1].value
    found = _Found(known)
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
        digest = _digest({f"{i}.{n}": v for i, each in enumerate(states) for n, v in each.items()})
        return ForeignNetworks(
            names, lambda number: Checkpoint(dict(states[number]), "torch"), digest, columns,
            paths=False,
        )  # fmt: skip
    return ForeignNetworks(
        names, lambda number: Checkpoint({n: v[number] for n, v in parameters.items()}, "torch"),
        _digest(parameters), columns, paths=False, stacked=parameters,
    )  # fmt: skip


class _Found:
    """Parameters and columns, gathered from what a file holds."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known
        self.parameters: dict[str, Tensor] = {}
        self.columns: dict[str, Any] = {}
        self.states: list[Mapping[str, Tensor]] = []

    def take(self, held: Any, name: str) -> None:
        """Sort an entry in, and those within it."""
        held = plain(held)
        if isinstance(held, Mapping):
            for key, value in held.items():
                self.take(value, str(key))
        elif isinstance(held, Tensor):
            tensors = self.parameters if self._is_parameter(name, held) else self.columns
            if held.dim():  # one number is of the whole file
                tensors[name] = held
        elif isinstance(held, list | tuple) and held:
            self._take_list(list(held), name)

    def _take_list(self, held: list[Any], name: str) -> None:
        if all(isinstance(value, Mapping) for value in held):
            self.states = [{str(k): v for k, v in value.items()} for value in held]
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

    def _is_parameter(self, name: str, value: Tensor) -> bool:
        ends = name.rpartition(".")[2] in _PARAMETERS
        if self.known:
            ends = any(name == known or name.endswith(f".{known}") for known in self.known)
        one_each = value.dim() == 1 or (value.dim() == 2 and value.shape[1] == 1)
        return ends or not one_each


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
