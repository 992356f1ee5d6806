"""Tensors of ONNX files, checked against what they declare before anything is allocated.

Those that a model keeps in files beside it are checked, then mapped into memory.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import DataFileError, UnsupportedModuleError

if TYPE_CHECKING:
    from onnx import TensorProto

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ElementType:
    """One element type."""

    torch: torch.dtype
    #: how the bytes of an element are read
    stored: type[np.generic]
    #: where a message keeps the values that are not raw bytes
    field: str
    #: the type as a known value; bfloat16 has none in numpy
    array: type[np.generic]


#: number in ``TensorProto.DataType`` -> element type
ELEMENTS: dict[int, ElementType] = {
    1: ElementType(torch.float32, np.float32, "float_data", np.float32),
    2: ElementType(torch.uint8, np.uint8, "int32_data", np.uint8),
    3: ElementType(torch.int8, np.int8, "int32_data", np.int8),
    4: ElementType(torch.uint16, np.uint16, "int32_data", np.uint16),
    5: ElementType(torch.int16, np.int16, "int32_data", np.int16),
    6: ElementType(torch.int32, np.int32, "int32_data", np.int32),
    7: ElementType(torch.int64, np.int64, "int64_data", np.int64),
    9: ElementType(torch.bool, np.bool_, "int32_data", np.bool_),
    10: ElementType(torch.float16, np.uint16, "int32_data", np.float16),
    11: ElementType(torch.float64, np.float64, "double_data", np.float64),
    12: ElementType(torch.uint32, np.uint32, "uint64_data", np.uint32),
    13: ElementType(torch.uint64, np.uint64, "uint64_data", np.uint64),
    16: ElementType(torch.bfloat16, np.uint16, "int32_data", np.float32),
}

_OTHERS = {
    0: "no type", 8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn",
    18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2",
}  # fmt: skip


def element_name(number: int) -> str:
    """Return the name of any element type, also of one that is not read, for messages."""
    if number in ELEMENTS:
        return str(ELEMENTS[number].torch).removeprefix("torch.")
    return _OTHERS.get(number, f"unknown type {number}")


def array_of(tensor: torch.Tensor) -> Array:
    """Return a tensor on the CPU as an array of its own; numpy has no bfloat16."""
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


_EXTERNAL = 1
_FIELDS = (
    "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data",
    "raw_data",
)  # fmt: skip


#: A link made after the check is not followed, and a pipe does not make the reader wait; systems
#: without these have neither as files.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class TensorStore:
    """The files that the tensors of one model may lie in, and the bytes that they may take.

    Only regular files in the model's own folder, or below it, are opened: no absolute paths, no
    ``..``, no symbolic links. They are mapped: writing to a tensor never changes a file.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self.total, self.left = folder, max_bytes, max_bytes
        self._maps: dict[str, mmap.mmap] = {}
        # For each file, the starts and ends of the regions handed out, in increasing order.
        self._regions: dict[str, list[tuple[int, int]]] = {}

    def spend(self, size: int, what: str) -> None:
        """Count ``size`` bytes, and refuse what is too much."""
        self.left -= size
        if self.left < 0:
            raise DataFileError(
                f"{what} brings the tensors to more than {self.total} bytes, which are the most "
                "that are read. Pass a larger max_bytes if that is right."
            )

    def mapped(
        self, entries: Mapping[str, str], dtype: torch.dtype, count: int, what: str
    ) -> Tensor:
        """Map ``count`` numbers; ``entries`` are the keys and values that the model gives."""
        location = entries.get("location", "")
        size = count * dtype.itemsize
        offset = _number(entries, "offset", 0, what)
        length = _number(entries, "length", size, what)
        if length != size:
            raise DataFileError(
                f"{what} is kept in {location!r} with {length} bytes; its shape and type need "
                f"{size}."
            )
        if location not in self._maps:
            self._maps[location] = self._open(location, what)
        found = self._maps[location]
        if offset + size > len(found):
            raise DataFileError(
                f"{what} is kept in {location!r} from byte {offset} to {offset + size}; that file "
                f"has {len(found)} bytes."
            )
        if count == 0:
            return torch.empty(0, dtype=dtype)
        tensor = torch.frombuffer(found, dtype=dtype, count=count, offset=offset)
        # Tensors that share bytes must not become one tied parameter; unaligned ones are slow.
        if self._overlaps(location, offset, offset + size) or offset % dtype.itemsize:
            return tensor.clone()
        return tensor

    def _overlaps(self, location: str, start: int, end: int) -> bool:
        """Whether a region overlaps one handed out before; if not, note it."""
        regions = self._regions.setdefault(location, [])
        place = bisect_left(regions, (start, end))
        before, after = regions[max(place - 1, 0) : place], regions[place : place + 1]
        overlaps = any(own[1] > start for own in before) or any(own[0] < end for own in after)
        if not overlaps:
            regions.insert(place, (start, end))
        return overlaps

    def _open(self, location: str, what: str) -> mmap.mmap:
        parts = PurePosixPath(location).parts
        foreign = location.startswith("/") or any(c in location for c in "\\:\0")
        if not parts or foreign or ".." in parts:
            raise DataFileError(
                f"{what} is kept in {location!r}; expected the relative path of a file in the "
                "model's own folder, with no '..', no drive and no backslash."
            )
        path = self._folder
        try:
            for part in parts:
                path = path / part
                if path.is_symlink():
                    raise DataFileError(
                        f"{what} is kept in {location!r}, and {str(path)!r} is a symbolic link; "
                        "links are not followed. Put the file itself beside the model."
                    )
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            raise DataFileError(
                f"{what} is kept in {location[:200]!r}, which cannot be read: {error.strerror}. "
                "Models with external data consist of several files: put them in one folder."
            ) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                raise DataFileError(
                    f"{what} is kept in {location!r}, which is empty or no regular file."
                )
            return mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)


def _number(entries: Mapping[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise DataFileError(f"{what} has the {key} {text[:40]!r}; expected a number of bytes.")
    return int(text)


def read_tensor(proto: TensorProto, what: str, store: TensorStore) -> Tensor:
    """Read one tensor, which messages call ``what``; one in an external file is mapped."""
    if proto.data_type not in ELEMENTS:
        raise UnsupportedModuleError(
            f"{what} holds elements of {element_name(proto.data_type)}; expected real "
            "floating-point numbers, integers or booleans. Quantised and complex weights have no "
            "neural graph."
        )
    element = ELEMENTS[proto.data_type]
    dims = list(proto.dims)
    if any(dim < 0 for dim in dims) or len(dims) > 64:
        raise DataFileError(f"{what} has the shape {dims[:70]}; expected sizes of 0 or more.")
    count = math.prod(dims)
    store.spend(count * element.torch.itemsize, what)
    if proto.HasField("segment"):
        raise UnsupportedModuleError(f"{what} is stored in segments, which nothing writes.")
    fields = [name for name in _FIELDS if len(getattr(proto, name))]
    stored = torch.uint8 if element.torch == torch.bool else element.torch
    if proto.data_location == _EXTERNAL:
        if fields:
            raise DataFileError(f"{what} is kept in another file and has {fields[0]} as well.")
        entries = {entry.key: entry.value for entry in proto.external_data}
        return _shaped(store.mapped(entries, stored, count, what), element, dims)
    if len(fields) > 1 or (fields and fields[0] not in ("raw_data", element.field)):
        raise DataFileError(
            f"{what} has values in {' and '.join(fields)}; expected raw_data or {element.field}."
        )
    if count == 0 and not fields:
        return torch.empty(dims, dtype=element.torch)
    if fields == ["raw_data"]:
        found: float = len(proto.raw_data) / element.torch.itemsize
        flat = bytearray(proto.raw_data) if found == count else bytearray()
    else:
        found = len(getattr(proto, element.field))
        flat = _typed(proto, element, what) if found == count else bytearray()
    if found != count:
        raise DataFileError(
            f"{what} has the shape {dims}, {count} numbers; {found:g} are stored for it."
        )
    return _shaped(torch.frombuffer(flat, dtype=stored), element, dims)


def _shaped(flat: Tensor, element: ElementType, dims: list[int]) -> Tensor:
    # A boolean of a hostile file may be any byte; torch knows 0 and 1 only.
    return (flat != 0 if element.torch == torch.bool else flat).reshape(dims)


def _typed(proto: TensorProto, element: ElementType, what: str) -> bytearray:
    values: Array = np.array(getattr(proto, element.field))
    stored = values.astype(element.stored)
    if element.stored not in (np.float32, np.float64) and not np.array_equal(
        stored.astype(values.dtype), values
    ):
        raise DataFileError(f"{what} has numbers that {element_name(proto.data_type)} cannot hold.")
    return bytearray(stored.tobytes())
