"""A public collection of networks, as its own layout tells of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from converters.checkpoints import (
    MemoryBudget,
    Value,
    checked_path,
    columns_of,
    read_checkpoint,
    read_json,
)
from nngraph.errors import DataFileError

#: Names of splits as they are called in collections, by the names that a zoo has.
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
           "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
_SHOWN = 5


@dataclass(frozen=True)
class NetworkRow:
    """What is known of one network before it is read.

    Args:
        name: what it is called, a path within the collection for instance.
        group: what keeps networks in one split: a training run, or an image.
        split: ``"train"``, ``"val"`` or ``"test"``, where the collection says so.
        facts: numbers and texts.
        path: of its file.
    """

    name: str
    group: str
    split: str | None
    facts: Mapping[str, Value]
    path: Path


@dataclass(frozen=True)
class Collection:
    """Networks and what is known of them, column by column.

    Args:
        layout: name of its layout.
        names: of the networks; all different.
        groups: of each network; networks of one group belong in one split.
        splits: of each network, where the collection says so.
        facts: columns by name; ``None`` where nothing is known of a network.
        read: returns the tensors of one network, by its number.
        notes: rows without a file and files without a row, counted, and what else is to be known.
        files: where the networks lie, for a check by manifest.
    """

    layout: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    splits: tuple[str | None, ...]
    facts: dict[str, tuple[Value, ...]]
    read: Callable[[int], dict[str, Tensor]]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def collected(
    layout: str, rows: Sequence[NetworkRow], max_bytes: int, nested: str | None = None,
    notes: Sequence[str] = (),
) -> Collection:  # fmt: skip
    """Return rows as a collection, whose networks are read from their files.

    Raises:
        DataFileError: if there are none, or two have one name.
    """
    names = tuple(row.name for row in rows)
    if not rows or len(set(names)) < len(names):
        raise DataFileError(f"no networks are found in the layout {layout!r}, or two of one name.")
    paths = tuple(row.path for row in rows)
    return Collection(
        layout, names, tuple(row.group for row in rows), tuple(row.split for row in rows),
        {name: tuple(column) for name, column in columns_of(row.facts for row in rows).items()},
        lambda n: read_checkpoint(paths[n], nested=nested, max_bytes=max_bytes).tensors,
        tuple(notes), paths,
    )  # fmt: skip


def split_named(name: Any) -> str | None:
    """Return the zoo's name of a split that a collection calls ``training`` or ``valid``."""
    return _SPLITS.get(str(name).lower())


def placed(told: Any, names: Container[str]) -> str | None:
    """Return the path within a collection that one of another machine means.

    It is the one that the told path ends with, to the most parts.
    """
    parts = PurePosixPath(told.replace("\\", "/")).parts if isinstance(told, str) else ()
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in names), None)


def listed(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return a note that counts names and shows the first; none if there are none."""
    shown = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
    return (f"{len(names)} {what}: {shown}",) if names else ()


def check_manifest(collection: Collection, root: Path, manifest: Path) -> None:
    """Hold the files of a collection against hashes and a count that were published for it.

    The manifest is JSON: ``{"count": 100, "sha256": {"weights.npy": "ab12..."}}``, either part.

    Raises:
        DataFileError: if a count or a hash differs, or a file is missing; all are named.
    """
    told = read_json(manifest, MemoryBudget(2**30))
    hashes = told.get("sha256", {}) if isinstance(told, dict) else None
    if not isinstance(hashes, dict) or not {"count", "sha256"} & set(told):
        raise DataFileError(f"{manifest} is no manifest; expected 'count', 'sha256', or both.")
    problems = []
    if told.get("count", len(collection)) != len(collection):
        problems.append(f"{len(collection)} networks in place of {told['count']}")
    for name, expected in hashes.items():
        path = root / name
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            problems.append(f"{name!r:.99} is no path within it")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif _hash(path) != str(expected).lower():
            problems.append(f"{name} has another hash")
    if problems:
        raise DataFileError(f"{root} is not as {manifest} says: {'; '.join(problems[:20])}.")


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with checked_path(path, 2**62).open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
