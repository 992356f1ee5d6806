"""One shard of a zoo: a safetensors file of stacked networks, written whole and read warily.

A shard of B networks holds every parameter of the architecture as float32 ``[B, *shape]`` under its
own name, and a column per fact about each network, ``[B]``, under the names of :data:`COLUMNS`.
What a shard must hold follows from the architecture and B, so that a file is checked to the byte
before its data are read.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError, DataFileError
from nngraph.files import write_atomically
from nngraph.graph import Architecture

__all__ = [
    "COLUMNS",
    "check_shard",
    "expected_tensors",
    "read_columns",
    "read_shard",
    "write_shard",
]

#: Facts about each network: its label, its image and which fit of it, its split and its PSNR in dB.
COLUMNS: dict[str, torch.dtype] = {
    "network.label": torch.int64,
    "network.image": torch.int64,
    "network.view": torch.int64,
    "network.split": torch.int64,
    "network.psnr": torch.float32,
}
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
_MAX_HEADER = 2**20


def expected_tensors(
    architecture: Architecture, count: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of everything in a shard of ``count`` networks, by name.

    Raises:
        ArchitectureError: if a parameter has the name of a column.
    """
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for parameter in architecture.parameters:
        if parameter.name in COLUMNS:
            raise ArchitectureError(
                f"parameter {parameter.name!r} has the name of a column of the zoo; rename it."
            )
        tensors[parameter.name] = (torch.float32, (count, *parameter.shape))
    tensors.update({name: (dtype, (count,)) for name, dtype in COLUMNS.items()})
    return tensors


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a shard atomically and return its SHA-256 in hexadecimal."""
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes``.

    Raises:
        DataFileError: if it is missing, not a regular file (a link is none), larger, or unreadable.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataFileError(f"{path} is not a regular file; expected one.")
        if status.st_size > max_bytes:
            raise DataFileError(f"{path} has {status.st_size} bytes; expected at most {max_bytes}.")
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        raise DataFileError(f"{path} is missing; expected a file of the zoo.") from None
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None


def check_shard(path: Path, architecture: Architecture, count: int) -> dict[str, int]:
    """Check type, length and header of a shard without reading its data.

    Returns:
        For each tensor the position of its first byte in the file.

    Raises:
        DataFileError: naming the file, if it does not hold exactly the tensors of ``count``
            networks of the architecture.
    """
    expected = expected_tensors(architecture, count)
    total = sum(_nbytes(dtype, shape) for dtype, shape in expected.values())
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataFileError(f"{path} is not a regular file; expected a shard of the zoo.")
        size = status.st_size
        if not total + 8 <= size <= total + 8 + _MAX_HEADER:
            raise DataFileError(
                f"{path} has {size} bytes; {count} networks of {architecture} take "
                f"{total} and a header. The file is truncated, or of another zoo."
            )
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length != size - 8 - total:
                raise DataFileError(
                    f"{path} declares a header of {length} bytes; expected {size - 8 - total}. "
                    "The file is damaged, or not a safetensors file of this zoo."
                )
            header = file.read(length)
    except FileNotFoundError:
        raise DataFileError(f"{path} is missing; expected a shard of the zoo.") from None
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None
    return _offsets(path, header, expected, 8 + length)


def _offsets(
    path: Path,
    header: bytes,
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]],
    base: int,
) -> dict[str, int]:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        raise DataFileError(f"{path} has a header that is not JSON; the file is damaged.") from None
    if not isinstance(entries, dict):
        raise DataFileError(f"{path} has a header that is not a JSON object; the file is damaged.")
    entries.pop("__metadata__", None)
    if set(entries) != set(expected):
        different = sorted(set(entries) ^ set(expected))[0]
        what = "unknown" if different in entries else "missing"
        raise DataFileError(
            f"{path}: tensor {different[:80]!r} is {what}; expected {', '.join(expected)}."
        )
    spans: list[tuple[int, int]] = []
    for name, (dtype, shape) in expected.items():
        entry: Any = entries[name]
        wanted = (_DTYPES[dtype], list(shape))
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
        found = (fields.get("dtype"), fields.get("shape"))
        if found != wanted:
            raise DataFileError(f"{path}: tensor {name!r} is {found!s:.200}; expected {wanted}.")
        span: Any = fields.get("data_offsets")
        valid = isinstance(span, list) and len(span) == 2 and all(type(s) is int for s in span)
        if not valid or span[1] - span[0] != _nbytes(dtype, shape):
            raise DataFileError(
                f"{path}: tensor {name!r} lies at {span!s:.80}; expected "
                f"{_nbytes(dtype, shape)} bytes. The file is damaged."
            )
        spans.append((span[0], span[1]))
    ordered = sorted(spans)
    if [stop for _, stop in ordered[:-1]] != [start for start, _ in ordered[1:]] or ordered[0][0]:
        raise DataFileError(f"{path}: tensors overlap or leave gaps; the file is damaged.")
    return {name: base + start for name, (start, _) in zip(expected, spans, strict=True)}


def read_columns(path: Path, architecture: Architecture, count: int) -> dict[str, Tensor]:
    """Read the columns of a shard alone, after :func:`check_shard`; raises as that does."""
    offsets = check_shard(path, architecture, count)
    columns: dict[str, Tensor] = {}
    with path.open("rb") as file:
        for name, dtype in COLUMNS.items():
            file.seek(offsets[name])
            data = file.read(_nbytes(dtype, (count,)))
            if len(data) != _nbytes(dtype, (count,)):
                raise DataFileError(f"{path} was truncated while it was read.")
            columns[name] = torch.frombuffer(bytearray(data), dtype=dtype)
    return columns


def read_shard(
    path: Path, architecture: Architecture, count: int, sha256: str
) -> dict[str, Tensor]:
    """Read a whole shard and hold it against its checksum.

    Raises:
        DataFileError: as :func:`check_shard`, or if the checksum differs.
    """
    check_shard(path, architecture, count)
    expected = expected_tensors(architecture, count)
    total = sum(_nbytes(dtype, shape) for dtype, shape in expected.values())
    data = read_bounded(path, total + 8 + _MAX_HEADER)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataFileError(
            f"{path} has SHA-256 {found}; the manifest says {sha256}. The file is damaged or was "
            "changed. Delete it and run the same fit again to make it anew."
        )
    return safetensors.torch.load(data)


def _nbytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(shape)
