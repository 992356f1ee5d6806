"""Networks in other people's files: what they are called, and what is known of them at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from converters.checkpoints import (
    ADAPTER,
    Checkpoint,
    Value,
    is_cached,
    is_checkout,
    kind_of,
    read_checkpoint,
    read_factors,
    snapshot_in,
    weights_in,
)
from converters.collections import check_manifest, open_collection
from converters.onnx_files import OnnxModule, load_onnx
from converters.populations.joining import listed
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.settings import ImportSettings

#: Endings of files that hold one network each in a folder.
SINGLE = (
    ".bin", ".ckpt", ".gguf", ".h5", ".index.json", ".keras", ".npz", ".onnx", ".pt", ".pth",
    ".pth.tar", ".safetensors",
)  # fmt: skip
#: Endings of files that are fetched of a folder elsewhere: networks, and what is known of them.
FETCHED = (*SINGLE, ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".npy", ".onnx.data")
#: Parts of a checkpoint, which its index names.
_PART = re.compile(r"-\d{5}-of-\d{5}\.[a-z]+$")


@dataclass(frozen=True)
class WholeNetwork(Checkpoint):
    """Weights in a file that holds the network that they are of, too."""

    module: OnnxModule = field(kw_only=True)


@dataclass(frozen=True)
class ForeignNetworks:
    """Networks that may be imported.

    Args:
        names: paths within a folder, or ``"network 3"`` of one file.
        read: returns the weights of one, and what lay beside them.
        digest: of what there is.
        columns: what is known of the networks before they are read.
        groups, splits: of each, where a layout says so.
        notes: what was left aside.
        paths: whether the names are paths.
        stacked: parameters of all, ``[B, *shape]``, where they are kept so.
    """

    names: tuple[str, ...]
    read: Callable[[int], Checkpoint]
    digest: str
    columns: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None
    splits: tuple[str | None, ...] | None = None
    notes: tuple[str, ...] = ()
    paths: bool = True
    stacked: Mapping[str, Tensor] | None = None


def of_folder(folder: Path, settings: ImportSettings) -> ForeignNetworks:
    """Return the networks that lie in a folder at any depth, one in a file or in a checkout.

    Raises:
        DataFileError: if there are none.
        InvalidGraphError: if the pattern of the files is none.
    """
    places, beside, links = _entries(folder)
    found = {file.relative_to(folder).as_posix(): file for file in sorted(places)}
    if settings.files is not None:
        try:
            wanted = re.compile(settings.files)
        except re.error as error:
            raise InvalidGraphError(
                f"files is {settings.files!r:.99}, which is no regular expression: {error}."
            ) from None
        found = {name: file for name, file in found.items() if wanted.search(name)}
    if not found:
        that = f" that match {settings.files!r:.99}" if settings.files is not None else ""
        raise DataFileError(f"{folder} has no files ending in {', '.join(SINGLE)}{that}.")
    digest = hashlib.sha256()
    for name, file in found.items():
        try:
            size = file.stat().st_size if file.exists() else -1  # a link to nothing
            digest.update(f"{name}\0{size}\0".encode())
        except UnicodeEncodeError:
            raise DataFileError(
                f"{folder} has a file {name!r:.99}, whose name is no UTF-8; rename it."
            ) from None

    paths = [places[file] for file in found.values()]

    def read(number: int) -> Checkpoint:
        file, most = paths[number], settings.max_bytes
        if file.is_dir() and (file / ADAPTER).is_file():
            return read_factors(file, most)
        if file.is_file() and kind_of(file, most).name == "onnx":
            module = load_onnx(file, max_bytes=most).eval()
            return WholeNetwork(module.state_dict(), "onnx", module=module)
        return read_checkpoint(file, nested=settings.nested, max_bytes=most)

    notes = listed("files beside the weights of a checkout", beside)
    notes += listed("links to folders, which are not entered", links)
    return ForeignNetworks(tuple(found), read, digest.hexdigest(), notes=notes)


def _entries(folder: Path) -> tuple[dict[Path, Path], list[str], list[str]]:
    """Return files with weights, what each is read by, files beside those of a checkout, links."""
    found: dict[Path, Path] = {}
    beside: list[str] = []
    links: list[str] = []
    for place, inner, names in os.walk(folder):
        here = Path(place)
        if is_cached(here):
            try:
                inner[:] = [str(snapshot_in(here).relative_to(here))]
            except DataFileError:  # told when it is read
                inner.clear()
                found[here] = here
            continue
        linked = (here / name for name in inner if (here / name).is_symlink())
        links += [link.relative_to(folder).as_posix() for link in linked]
        ones = [here / name for name in names if _is_one(here / name)]
        if not is_checkout(here):
            found.update({file: file for file in ones})
            continue
        weights = here
        with suppress(DataFileError):  # told when it is read
            weights = weights_in(here)
        found[weights] = here
        beside += [file.relative_to(folder).as_posix() for file in ones if file != weights]
    return found, sorted(beside), sorted(links)


def _is_one(file: Path) -> bool:
    part = _PART.search(file.name) and any(file.parent.glob("*.index.json"))
    there = file.is_file() or file.is_symlink()  # of a link to nothing its reader tells
    return file.name.lower().endswith(SINGLE) and not part and there


def of_layout(folder: Path, settings: ImportSettings) -> ForeignNetworks:
    """Return the networks of a public collection, opened by its own layout.

    Raises:
        DataFileError: if it is not kept in it, or not as its manifest says.
    """
    assert settings.layout is not None
    found = open_collection(settings.layout, folder, max_bytes=settings.max_bytes)
    if settings.manifest is not None:
        check_manifest(found, folder, Path(settings.manifest))
    digest = hashlib.sha256(json.dumps([found.names, found.groups]).encode())
    for file in found.files:
        digest.update(f"{file.stat().st_size}\0".encode())
    splits = found.splits if any(split is not None for split in found.splits) else None
    return ForeignNetworks(
        found.names, lambda number: Checkpoint(found.read(number), found.layout),
        digest.hexdigest(), found.facts, found.groups, splits, found.notes,
    )  # fmt: skip
