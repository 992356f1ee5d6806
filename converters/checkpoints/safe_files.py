"""Safetensors files, and checkpoints in several files with an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from converters.checkpoints.limits import MemoryBudget, damage_told, file_beside, read_json
from converters.checkpoints.requests import Held, Request
from converters.checkpoints.tables import as_value
from nngraph.errors import DataFileError


def read_safe(path: Path, request: Request) -> Held:
    """Return the tensors of a safetensors file; what its metadata says are facts."""
    request.budget.take(path.stat().st_size, path)
    tensors, metadata = read_safetensors(path)
    return Held(tensors, {key: as_value(value) for key, value in metadata.items()})


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    A tensor that ``safetensors.torch.save_model`` left out, since it is tied to another, is there
    under both names.
    """
    with damage_told(path, "safetensors file"), safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    tied = {name: tensors[kept] for name, kept in metadata.items() if kept in tensors}
    return {**tied, **tensors}, metadata


def read_index(path: Path, budget: MemoryBudget, read: Callable[[Path], Any]) -> Held:
    """Read the files that the index of a checkpoint names, from its own folder.

    Args:
        read: returns what one of the files holds.

    Raises:
        DataFileError: if it is no index, names files elsewhere, or one lacks what it should have.
    """
    held = read_json(path, budget)
    places = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(places, dict) or not places or not _all_texts(places):
        raise DataFileError(
            f"{path} is JSON, and no index of a sharded checkpoint; expected a 'weight_map' from "
            "names of tensors to files beside it, as in model.safetensors.index.json."
        )
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        found = read(file_beside(path, name))
        for key in (key for key, place in places.items() if place == name):
            if not isinstance(found, Mapping) or not isinstance(found.get(key), Tensor):
                raise DataFileError(
                    f"{path} expects the tensor {key!r:.99} in {name!r}; it has none."
                )
            tensors[key] = found[key]
    return Held({key: tensors[key] for key in places}, files=places)


def _all_texts(places: Mapping[str, Any]) -> bool:
    return all(isinstance(place, str) for place in places.values())
