"""Zoos back out of what was exported of them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoints import read_checkpoint
from converters.state_dicts import under_first_names
from nngraph.errors import ArchitectureError, DataFileError, InvalidGraphError
from nngraph.files import read_bounded
from nngraph.graph import check_parameters
from nngraph.zoo import Fact, Malformed, Manifest, Zoo, write_zoo

#: Name of the file, without its ending, that says what an export is of; and its format.
EXPORT = "nngraph.export"
TABLE = "table.csv"
_MAX_BYTES = 2**30


def is_exported(source: Path) -> bool:
    """Whether a folder is an export of a zoo that keeps all there is to know, or a zoo."""
    if (source / f"{EXPORT}.json").is_file():
        return True
    try:  # other programs have manifests, too
        return '"format": "nngraph.zoo"' in (source / "manifest.json").read_text()[:200]
    except (OSError, UnicodeDecodeError):
        return False


def networks_of(manifest: Manifest) -> list[tuple[int, Tensor]]:
    """Return architecture and numbers of the networks of each shard, in order."""
    counts = [shard.count for shard in manifest.shards]
    parts = torch.split(torch.arange(sum(counts)), counts) if counts else ()
    return [(s.architecture, part) for s, part in zip(manifest.shards, parts, strict=True)]


def import_exported(path: Path, source: Path, given: Sequence[str]) -> Zoo:
    """Make the zoo again that an export was made of.

    Args:
        given: names of what was said of the networks, which an export says itself.

    Raises:
        InvalidGraphError: if something was said.
        DataFileError: if the export is damaged or was changed.
    """
    if given:
        raise InvalidGraphError(
            f"{source} is of a zoo, and says itself what its networks are; leave out "
            f"{', '.join(given)}. Without its {EXPORT}.json or manifest.json it is a folder as any "
            "other."
        )
    if not (source / f"{EXPORT}.json").is_file():
        return _copied(path, Zoo.open(source))
    manifest, rows = _read(source)
    (key, *_), parts = rows[0], networks_of(manifest)
    if len(rows) - 1 != sum(len(part) for _, part in parts):
        raise DataFileError(f"{source / TABLE} has not a row for each network of the export.")
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    files = [_inside(source, name) for name in columns.get(key, ())]
    facts = {fact.key: _numbers(source, fact, columns) for fact in manifest.facts}

    def make(index: int) -> dict[str, Tensor]:
        kind, numbers = parts[index]
        own = manifest.architectures[kind]
        held = [under_first_names(own, read_checkpoint(files[n]).tensors) for n in numbers.tolist()]
        for file, values in zip((files[n] for n in numbers.tolist()), held, strict=True):
            try:
                check_parameters(own, values, ())
            except (ArchitectureError, InvalidGraphError) as error:
                raise type(error)(f"{file}: {error}") from None
        stacked = {p.name: torch.stack([v[p.name] for v in held]) for p in own.parameters}
        return {**stacked, **{name: value[numbers] for name, value in facts.items()}}

    write_zoo(path, manifest, make)
    return Zoo.open(path)


def _copied(path: Path, zoo: Zoo) -> Zoo:
    missing = tuple(shard.missing() for shard in zoo.shards)
    write_zoo(path, replace(zoo.manifest, shards=missing), lambda index: dict(zoo.mapped(index)))
    return Zoo.open(path)


def _read(source: Path) -> tuple[Manifest, list[list[str]]]:
    """Return the manifest of an export, and the rows of its table, the header first."""
    path = source / f"{EXPORT}.json"
    text, table = read_bounded(path, _MAX_BYTES), read_bounded(source / TABLE, _MAX_BYTES)
    try:
        told = json.loads(text)
        if told["format"] != EXPORT or told["version"] != 1:
            raise Malformed(f"its format is {told['format']!r:.80}, of version {told['version']!r}")
        manifest, digest = Manifest.from_plain(told["manifest"]), told["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError, Malformed) as error:
        raise DataFileError(f"{path} is no export of a zoo: {error!s:.300}.") from None
    if hashlib.sha256(table).hexdigest() != digest:
        raise DataFileError(
            f"{source / TABLE} was changed since it was exported. Delete {path.name}, and the "
            "folder is imported as any other, with the table as facts."
        )
    try:
        rows = list(csv.reader(io.StringIO(table.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(f"{source / TABLE} is damaged: {error}.") from None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise DataFileError(f"{source / TABLE} has rows that are not as long as its header.")
    return manifest, rows


def _inside(source: Path, name: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataFileError(f"{source / TABLE} names the file {name!r:.99}, outside of the folder.")
    return source / path


def _numbers(source: Path, fact: Fact, columns: Mapping[str, Sequence[str]]) -> Tensor:
    """Return a column of the table as the fact that it was."""
    order = {name: number for number, name in enumerate(fact.values)}
    try:
        cells = columns[fact.name]
        if fact.values:
            return torch.tensor([order[cell] for cell in cells], dtype=torch.int64)
        if fact.dtype == "int64":
            return torch.tensor([int(cell) for cell in cells], dtype=torch.int64)
        numbers = [float(cell) if cell else math.nan for cell in cells]
        return torch.tensor(numbers, dtype=torch.float64).float()
    except (KeyError, ValueError, OverflowError, RuntimeError) as error:
        raise DataFileError(
            f"{source / TABLE}: {fact.name!r} is not as it was exported: {error}."
        ) from None
