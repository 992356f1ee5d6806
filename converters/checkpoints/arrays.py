"""Arrays of NumPy: ``.npz`` archives, and single ``.npy`` arrays that a table lays out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from converters.checkpoints.axes import to_torch_order, torch_name
from converters.checkpoints.limits import MemoryBudget, checked_path, damage_told, open_archive
from converters.checkpoints.requests import Held, Request
from converters.checkpoints.tables import read_table
from nngraph.errors import DataFileError

#: Kinds of NumPy's dtypes that are numbers.
_NUMBERS = "fiubc"
#: Kinds that are texts, and bytes that a short text takes in memory.
_TEXTS, _TEXT_BYTES = "US", 64


class Header(NamedTuple):
    """What an array is, by its first bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: BinaryIO, kinds: str = _NUMBERS) -> Header:
    """Return what an ``.npy`` file says that it holds.

    Raises:
        ValueError: if it holds anything but numbers.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version is {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in kinds or any(n < 0 for n in shape):
        raise ValueError(f"it holds {dtype} of shape {shape}, and no numbers")
    return Header(shape, fortran, dtype, file.tell())


def read_arrays(path: Path, request: Request) -> Held:
    """Read an ``.npz`` archive of numbers and texts, without pickles; texts become lists.

    Raises:
        DataFileError: if it is damaged, too large, or holds anything else.
    """
    expected = "archive of plain numbers, as numpy.savez writes it of arrays without objects"
    with damage_told(path, expected), open_archive(path, request.budget) as archive:
        found: dict[str, Any] = {}
        for entry in archive.infolist():
            with archive.open(entry) as file:
                try:
                    header = read_header(file, _NUMBERS + _TEXTS)  # type: ignore[arg-type]
                except ValueError as error:
                    raise ValueError(f"{error}, in its array {entry.filename!r:.99}") from None
                if header.start + header.size != entry.file_size:
                    raise ValueError(f"its array {entry.filename!r:.99} is not as long as it says")
                data = bytearray(file.read())
            name = entry.filename.removesuffix(".npy")
            if header.dtype.kind in _TEXTS:
                request.budget.take(math.prod(header.shape) * _TEXT_BYTES, path)
                found[name] = _texts(data, header, name)
            else:
                found[name] = _tensor(data, header)
    return Held(found)


def _texts(data: bytearray, header: Header, name: str) -> str | list[str]:
    if len(header.shape) > 1 and header.shape[1:] != (1,):
        raise ValueError(f"its texts {name!r:.99} have the shape {header.shape}; expected a list")
    held = np.frombuffer(data, header.dtype).tolist()
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in held]
    return texts if header.shape else texts[0]


def _tensor(data: bytearray, header: Header) -> Tensor:
    array = np.frombuffer(data, header.dtype)
    array = array.reshape(header.shape, order="F" if header.fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array.astype(header.dtype.newbyteorder("="))))


def map_array(path: Path, budget: MemoryBudget) -> np.ndarray[Any, Any]:
    """Map an ``.npy`` file into memory; nothing of it is read yet."""
    with damage_told(path, "array of NumPy"):
        with path.open("rb") as file:
            header = read_header(file)
        if header.start + header.size > checked_path(path, budget.max_bytes).stat().st_size:
            raise ValueError(f"it has fewer numbers than its shape {header.shape} says")
        rows: np.ndarray[Any, Any] = np.memmap(
            path, header.dtype, "r", header.start, header.shape, "F" if header.fortran else "C"
        )
    return rows


class RowPart(NamedTuple):
    """Where one tensor lies in a row of numbers, and how."""

    name: str
    start: int
    shape: tuple[int, ...]
    kernel: bool


def read_layout(path: Path, budget: MemoryBudget) -> tuple[RowPart, ...]:
    """Read a table of the tensors in a row of numbers: name, start, shape of each.

    Columns are ``varname`` or ``name``, ``start_idx`` or ``start``, and ``shape``; one for the end,
    if there is one, must agree. Names of Keras (``sequential/conv2d/kernel:0``) become torch's
    (``conv2d.weight``), and their kernels are turned into torch's order when read.

    Raises:
        DataFileError: if a column is missing, or a row makes no sense.
    """
    table = read_table(path, budget)
    names, starts, shapes, ends = (
        next((table[key] for key in keys if key in table), None)
        for keys in (("varname", "name"), ("start_idx", "start"), ("shape",), ("end_idx", "end"))
    )
    if names is None or starts is None or shapes is None:
        raise DataFileError(
            f"{path} has the columns {', '.join(map(repr, list(table)[:9]))}; expected 'varname', "
            "'start_idx' and 'shape', one row for each tensor."
        )
    slots = []
    for row, (name, start, words) in enumerate(zip(names, starts, shapes, strict=True)):
        shape = tuple(map(int, re.findall(r"\d{1,9}", str(words))))
        end = start + math.prod(shape) if isinstance(start, int) and start >= 0 else None
        kernel = str(name).endswith("kernel:0")
        sound = isinstance(name, str) and end is not None and len(shape) >= 2 * kernel
        if not sound or (ends is not None and ends[row] != end):
            raise DataFileError(f"{path}: row {row + 1} does not say where a tensor lies.")
        slots.append(RowPart(torch_name(str(name)), cast(int, start), shape, kernel))
    if len({slot.name for slot in slots}) < len(slots):
        raise DataFileError(f"{path} has the same name in two rows.")
    return tuple(slots)


def laid_out(path: Path, rows: np.ndarray[Any, Any], slots: Sequence[RowPart]) -> dict[str, Tensor]:
    """Return the tensors in a row of numbers ``[D]``, or in several ``[B, D]``, stacked.

    Raises:
        DataFileError: if the rows are shorter than the layout.
    """
    sizes = [math.prod(slot.shape) for slot in slots]
    ends = [slot.start + size for slot, size in zip(slots, sizes, strict=True)]
    length = max(sum(sizes), *ends, 0)  # more than they have where tensors overlap
    if rows.ndim not in (1, 2) or rows.shape[-1] < length or not slots:
        raise DataFileError(
            f"{path} has rows of shape {rows.shape}; its layout is of {length} numbers in a row."
        )
    found = {}
    with damage_told(path, "array of torch's numbers"):  # which are not all of NumPy's
        for slot in slots:
            part = rows[..., slot.start : slot.start + math.prod(slot.shape)]
            value = torch.from_numpy(np.array(part, part.dtype.newbyteorder("=")))
            value = value.reshape((*rows.shape[:-1], *slot.shape))
            found[slot.name] = to_torch_order(value, rows.ndim - 1) if slot.kernel else value
    return found


def read_array(path: Path, request: Request) -> Held:
    """Read one array of parameters, laid out by a table beside it.

    Raises:
        DataFileError: if it is damaged, or there is no layout.
    """
    if request.layout is None:
        raise DataFileError(
            f"{path} is one NumPy array, which does not say what its numbers are. Give a table of "
            "names, starts and shapes (layout=), or save arrays under the names of parameters, "
            "with numpy.savez."
        )
    rows = map_array(path, request.budget)
    request.budget.take(rows.nbytes, path)
    return Held(laid_out(path, rows, read_layout(request.layout, request.budget)))
