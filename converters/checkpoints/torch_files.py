"""Files of ``torch.save``: zip archives, and the older form, a pickle with storages behind."""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from converters.checkpoints.limits import MemoryBudget, damage_told, open_archive, read_entry
from converters.checkpoints.pickles import Named, load_pickle, storage_dtype
from converters.checkpoints.requests import Held, Request
from nngraph.errors import DataFileError

#: How a file of the older form starts: a pickle of torch's own number for it.
OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_torch(path: Path, request: Request) -> Held:
    """Return what ``torch.save`` put into a file, of plain containers, numbers, texts and tensors.

    Objects of other classes become :class:`~converters.checkpoints.pickles.Record`, if they are
    harmless or named; nothing is imported or called.

    Raises:
        DataFileError: if the file is damaged, holds other objects, or takes more than the budget.
    """
    budget, known = request.budget, request.records
    with damage_told(path, "file of torch.save"):
        if zipfile.is_zipfile(path):
            with open_archive(path, budget) as archive:
                return Held(_read_archive(path, archive, budget, known))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Held(_read_old(path, data, budget, known))  # type: ignore[arg-type]


def _read_archive(
    path: Path, archive: zipfile.ZipFile, budget: MemoryBudget, known: Collection[str]
) -> Any:
    entries = {e.filename.partition("/")[2]: e for e in archive.infolist()}
    if "data.pkl" not in entries:
        raise DataFileError(
            f"{path} is a zip archive without the 'data.pkl' of torch.save; unpack it, if the "
            "files with weights are in it."
        )
    if "byteorder" in entries and read_entry(archive, entries["byteorder"]) != b"little":
        raise DataFileError(f"{path} is of a big-endian machine; save it on a little-endian one.")
    storages: dict[str, Tensor] = {}

    def storage(args: tuple[Any, ...]) -> Tensor:
        key, dtype, count = _storage_of(args)
        if key not in storages:
            size = entries[f"data/{key}"].file_size
            if size != count * dtype.itemsize:
                raise ValueError(f"storage {key!r:.40} claims {count} numbers of {size} bytes")
            data = read_entry(archive, entries[f"data/{key}"])
            storages[key] = torch.frombuffer(data, dtype=torch.uint8) if data else _none()
        return storages[key].view(dtype)

    text = io.BytesIO(read_entry(archive, entries["data.pkl"]))
    return load_pickle(text, path, budget, storage, known)


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


def _storage_of(args: Any) -> tuple[str, torch.dtype, int]:
    kind, named, key, _, count, *_ = args
    if kind != "storage" or type(named) is not Named or type(count) is not int or count < 0:
        raise ValueError("it names something that is no storage")
    return str(key), storage_dtype(named), count


def _read_old(path: Path, file: BinaryIO, budget: MemoryBudget, known: Collection[str]) -> Any:
    """Read the older form: four pickles, the keys of storages, then each as a count and numbers."""
    if file.read(len(OLD_MAGIC)) != OLD_MAGIC:
        raise ValueError("it does not begin as one")
    storages: dict[str, Tensor] = {}

    def storage(args: tuple[Any, ...]) -> Tensor:
        key, dtype, count = _storage_of(args)
        if key not in storages:
            budget.take(count * dtype.itemsize, path)
            if count * dtype.itemsize > path.stat().st_size:
                raise ValueError(f"storage {key!r:.40} claims {count} numbers, more than it has")
            storages[key] = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        whole = storages[key].view(dtype)
        if args[5] is not None:
            _, offset, size = args[5]
            return whole.narrow(0, offset, size)
        return whole

    def none(args: tuple[Any, ...]) -> Tensor:
        raise ValueError("it has a storage where there is none")

    version, _ = (load_pickle(file, path, budget, none, known) for _ in range(2))
    if version != 1001:
        raise ValueError(f"its version is {version!r:.40}")
    held = load_pickle(file, path, budget, storage, known)
    for key in load_pickle(file, path, budget, none, known):
        target = storages.pop(str(key))
        count = int.from_bytes(file.read(8), "little")
        data = file.read(len(target))
        if len(data) < len(target) or (len(target) % count if count else len(target)):
            raise ValueError(f"storage {key!r:.40} is cut short")
        if data:
            target.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    if storages:
        raise ValueError("it lacks the numbers of a storage")
    return held
