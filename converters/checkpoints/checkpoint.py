"""Checkpoints of any kind as one state dict, and what else was in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from converters.checkpoints.adapters import merged
from converters.checkpoints.folders import ADAPTER, HUB, fetched, weights_in
from converters.checkpoints.kinds import read_held
from converters.checkpoints.limits import MAX_BYTES, MemoryBudget, read_json
from converters.checkpoints.pickles import Record, plain
from converters.checkpoints.requests import Held, Request
from converters.checkpoints.tables import Value, flattened
from nngraph.errors import DataFileError

#: Keys under which training scripts put the state dict among other things, in this order.
NESTED = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params"
)
#: In place of a key: every state dict, under its own key as a prefix.
EVERY = "*"
#: How names end under which modules keep what is no tensor.
_EXTRA = "_extra_state"
_DEPTH = 16


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and what lay beside them.

    Args:
        tensors: by the names in the file.
        container: what kind of file it was, such as ``"safetensors"`` or ``"torch"``.
        nested: keys under which the state dict lay.
        facts: numbers and texts beside it, such as ``epoch`` and ``hyper_parameters.lr``.
        aside: how many tensors were left aside, by the key that they lay under: states of an
            optimiser, averages of the weights that were not chosen.
        tied: names that are one tensor.
        notes: what else is to be known.
        files: of a checkpoint in several files the one that each tensor is in.
    """

    tensors: dict[str, Tensor]
    container: str
    nested: tuple[str, ...] = ()
    facts: dict[str, Value] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


def read_checkpoint(
    source: str | Path,
    *,
    nested: str | None = None,
    base: str | Path | None = None,
    layout: str | Path | None = None,
    records: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
) -> Checkpoint:
    """Read the weights in a file, a folder or under an ``hf://`` address, on the CPU.

    What a file is its content says, whatever its ending; :data:`CONTAINERS` lists the kinds. No
    code in a file is run. A folder is a checkout of Hugging Face (one ``model.safetensors``, or an
    index, ...), or an adapter of peft, put into its ``base``.

    Args:
        nested: key of the state dict among other things, ``"ema"`` for instance; keys within one
            another are joined by ``/``; ``"*"`` takes all, under their keys as prefixes. Default:
            the first of ``state_dict``, ``model_state_dict``, ``model``, ``net``, ``network``,
            ``module``, ``weights``, ``params`` that is there, or the only one.
        base: of an adapter, read as ``source`` is.
        layout: table of the tensors in rows of an ``.npy`` file.
        records: names of classes, ``"my_package.Config"``, that settings beside the weights are
            made of; what they were made of is read, their code is not run.
        max_bytes: more is neither read nor unpacked; memory is bounded by a small multiple of it.

    Raises:
        DataFileError: if it is missing, of a kind that is not read, damaged or too large, or holds
            no state dict, or several; the message says which and what to do.
        MissingDependencyError: if a package is needed that is not installed.
    """
    table = None if layout is None else Path(layout)
    request = Request(MemoryBudget(max_bytes), table, tuple(records))
    return _read(source, request, nested, base)


def read_factors(folder: Path, max_bytes: int = MAX_BYTES) -> Checkpoint:
    """Read the low-rank factors of an adapter of peft, without a base; its settings are facts.

    Raises:
        DataFileError: as :func:`read_checkpoint` does.
    """
    found = read_checkpoint(weights_in(folder), max_bytes=max_bytes)
    config = flattened(read_json(folder / ADAPTER, MemoryBudget(max_bytes)))
    return replace(found, facts={**config, **found.facts})


def _read(
    source: str | Path, request: Request, nested: str | None, base: str | Path | None
) -> Checkpoint:
    path = fetched(str(source)) if str(source).startswith(HUB) else Path(source)
    folder = path if path.is_dir() else None
    if folder is not None:
        path = weights_in(folder)
    container, held = read_held(path, request)
    checkpoint = checkpoint_of(path, held, container, nested, request.budget.max_bytes)
    settings = path.parent / "config.json"
    if folder is not None and settings.is_file():
        told = flattened(read_json(settings, request.budget))
        checkpoint = replace(checkpoint, facts={**told, **checkpoint.facts})
    if folder is not None and (path.parent / ADAPTER).is_file():
        checkpoint = _with_base(path.parent, checkpoint, base, request)
    elif base is not None:
        raise DataFileError(f"{source} is no folder of an adapter, and has no base; leave it out.")
    return replace(checkpoint, tied=_tied(checkpoint.tensors))


def checkpoint_of(
    path: Path, held: Held, container: str, nested: str | None, max_bytes: int
) -> Checkpoint:
    """Return the state dict in what a file holds, or in a part of it, and what lay beside it.

    Raises:
        DataFileError: as :func:`read_checkpoint` does, naming ``path``.
    """
    tensors, keys, found = _chosen(path, held.value, nested)
    return Checkpoint(
        _checked(path, tensors, max_bytes), container, keys, {**held.facts, **_facts(found)},
        {**held.aside, **_aside(found)}, notes=held.notes, files=held.files,
    )  # fmt: skip


def _with_base(
    folder: Path, adapter: Checkpoint, base: str | Path | None, request: Request
) -> Checkpoint:
    config = read_json(folder / ADAPTER, request.budget)
    if base is None:
        name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        raise DataFileError(
            f"{folder} is an adapter, which changes the weights of a base. Give the base (base=), "
            f"of {name!r:.99} as it says, or name its file to read the factors alone."
        )
    whole = _read(base, request, None, None)
    tensors = merged(folder, config, adapter.tensors, whole.tensors)
    return replace(whole, tensors=tensors, facts={**whole.facts, **flattened(config)})


# -- a state dict among other things -------------------------------------------------------------


def _chosen(
    path: Path, held: Any, nested: str | None
) -> tuple[dict[str, Tensor], tuple[str, ...], list[tuple[str, Any]]]:
    """Return the state dict in what a file holds, its keys, and what lay beside it."""
    keys: list[str] = []
    beside: list[tuple[str, Any]] = []
    wanted = [] if nested is None else nested.split("/")
    held = _opened(held)
    while isinstance(held, Mapping) and (wanted or not _is_state_dict(held)):
        mappings = {
            k: m for k, v in held.items()
            if isinstance(m := _opened(v), Mapping) and m and not str(k).endswith(_EXTRA)
        }
        if wanted == [EVERY]:
            every = {k: m for k, m in mappings.items() if _is_state_dict(m)}
            beside += [(str(k), v) for k, v in held.items() if k not in every]
            return _joined(path, every), (*keys, EVERY), beside
        key = wanted.pop(0) if wanted else _key(path, mappings)
        if key is None:
            break
        if key not in mappings or len(keys) == _DEPTH:
            raise DataFileError(
                f"{path} has nothing under {key!r:.99} to read; it has "
                f"{', '.join(f'{k!r:.40}' for k in list(held)[:9]) or 'nothing'}."
            )
        beside += [(str(k), v) for k, v in held.items() if k != key]
        keys.append(str(key))
        held = mappings[key]
    if isinstance(held, Mapping) and not _is_state_dict(held):
        # A module's own extra state, numbers and settings among the tensors.
        rest = {k: v for k, v in held.items() if not isinstance(v, Tensor)}
        if len(rest) < len(held) and all(_is_aside(k, v) for k, v in rest.items()):
            beside += [(str(k), v) for k, v in rest.items()]
            held = {k: v for k, v in held.items() if k not in rest}
    if not isinstance(held, Mapping) or not held:
        raise DataFileError(
            f"{path} holds a {_kind(held)}, and no state dict; expected a mapping from names to "
            "tensors, as torch.save(module.state_dict(), path) writes it."
        )
    return dict(held), tuple(keys), beside


def _kind(held: Any) -> str:
    return held.name if isinstance(held, Record) else type(held).__name__


def _opened(value: Any) -> Any:
    """Return a mapping with arrays of NumPy as tensors; a record is no mapping."""
    if isinstance(value, Record):
        value = plain(value) if value.name.startswith(("numpy.", "collections.")) else value
        return value if isinstance(value, Tensor) or type(value) is dict else None
    if isinstance(value, Mapping) and any(isinstance(v, Record) for v in value.values()):
        arrays = {k: plain(v) for k, v in value.items() if isinstance(v, Record)}
        return {**value, **{k: v for k, v in arrays.items() if isinstance(v, Tensor)}}
    return value


def _is_state_dict(found: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in found.values())


def _is_aside(name: Any, value: Any) -> bool:
    told = value if isinstance(value, list) else [value]
    plain_ones = all(isinstance(one, int | float | str | None) for one in told)
    settings = isinstance(_opened(value), Mapping) and not has_tensors(value)
    return plain_ones or settings or str(name).endswith(_EXTRA)


def _key(path: Path, mappings: Mapping[Any, Any]) -> Any:
    named = [key for key in NESTED if key in mappings]
    keys = named[:1] or [key for key, value in mappings.items() if _is_state_dict(value)]
    if len(keys) > 1:
        raise DataFileError(
            f"{path} holds several state dicts, under {', '.join(f'{k!r:.40}' for k in keys[:9])}; "
            f"expected one, or one under {', '.join(map(repr, NESTED))}. Name the one that is "
            f"meant (nested=), or take them together (nested={EVERY!r})."
        )
    return keys[0] if keys else None


def _joined(path: Path, every: Mapping[Any, Mapping[Any, Any]]) -> dict[str, Tensor]:
    if not every:
        raise DataFileError(f"{path} holds no state dicts side by side.")
    return {f"{key}.{name}": v for key, inner in every.items() for name, v in inner.items()}


def _facts(beside: Sequence[tuple[str, Any]]) -> dict[str, Value]:
    told: dict[str, Value] = {}
    for key, value in beside:
        if not has_tensors(value) or (isinstance(value, Tensor) and value.numel() == 1):
            told.update(flattened(_plain(value), key[:128]))
    return {name: value for name, value in told.items() if value is not None}


def _plain(value: Any, depth: int = 8) -> Any:
    """Return settings as plain mappings and numbers."""
    value = plain(value)
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    if isinstance(value, Mapping) and depth:
        return {str(k)[:128]: _plain(v, depth - 1) for k, v in list(value.items())[:1024]}
    if isinstance(value, list | tuple) and depth:
        return [_plain(v, depth - 1) for v in value[:64]]
    return value


def _aside(beside: Sequence[tuple[str, Any]]) -> dict[str, int]:
    counts = {key: _count(value) for key, value in beside if not isinstance(value, Tensor)}
    return {key: count for key, count in counts.items() if count}


def _count(value: Any) -> int:
    """Return how many tensors there are within a value, each once."""
    return sum(1 for _ in _tensors(value))


def has_tensors(value: Any) -> bool:
    """Whether there is a tensor within a value."""
    return any(True for _ in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    pending, seen = [value], set()
    while pending:
        found = pending.pop()
        if isinstance(found, Mapping | list | tuple | Tensor):
            if id(found) in seen:
                continue
            seen.add(id(found))
        if isinstance(found, Tensor):
            yield found
        elif isinstance(found, Record):
            pending += [found.args, found.state, found.listed, *found.values()]
        elif isinstance(found, Mapping):
            pending += found.values()
        elif isinstance(found, list | tuple):
            pending += found


# -- tensors ---------------------------------------------------------------------------------------


def _checked(path: Path, tensors: Mapping[Any, Any], max_bytes: int) -> dict[str, Tensor]:
    total = 0
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataFileError(
                f"{path}: entry {name!r:.99} is a {type(value).__name__}; expected a mapping from "
                "names to tensors only."
            )
        total += value.numel() * value.element_size()
        if total > max_bytes:
            raise DataFileError(
                f"{path}: entry {name!r:.99} claims {value.numel()} numbers, more than are stored, "
                f"or than the {max_bytes} bytes that are read."
            )
    return dict(tensors)


def _tied(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    places: dict[Any, list[str]] = {}
    for name, value in tensors.items():
        if value.numel():
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            places.setdefault(place, []).append(name)
    return tuple(tuple(names) for names in places.values() if len(names) > 1)
