"""GGUF files, of llama.cpp: their tensors of plain numbers.

Read here and not by the package ``gguf``, whose reader goes through as many entries as a file
claims to have.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from converters.checkpoints.limits import MemoryBudget, damage_told
from converters.checkpoints.requests import Held, Request
from converters.checkpoints.tables import Value, as_value
from nngraph.errors import DataFileError

MAGIC = b"GGUF"
#: Codes of values in the header: how ``struct`` reads them.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _LIST = 8, 9
_DTYPES = {
    0: torch.float32, 1: torch.float16, 24: torch.int8, 25: torch.int16, 26: torch.int32,
    27: torch.int64, 28: torch.float64, 30: torch.bfloat16,
}  # fmt: skip
_QUANTISED = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
#: Memory that an entry of the header takes, at most, beside its bytes.
_ENTRY = 512


class _Header:
    """Reads the header of a file step by step, never more than the file has."""

    def __init__(self, file: BinaryIO, path: Path, budget: MemoryBudget) -> None:
        self.file, self.path, self.budget = file, path, budget

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{code}") * count
        return struct.unpack(f"<{count}{code}", self.data(size))

    def data(self, size: int) -> bytes:
        self.budget.take(size, self.path)
        data = self.file.read(size)
        if len(data) < size:
            raise ValueError("its header is cut short")
        return data

    def text(self) -> str:
        (size,) = self.numbers("Q")
        return self.data(size).decode()

    def value(self, code: int, depth: int = 0) -> Value:
        """Read a value; of lists only that they are there."""
        if code == _TEXT:
            return as_value(self.text())
        if code != _LIST:
            return as_value(self.numbers(_SCALARS[code])[0])
        inner, count = (*self.numbers("I"), *self.numbers("Q"))
        if inner in _SCALARS:
            self.data(struct.calcsize(_SCALARS[inner]) * count)
        elif depth > 4:
            raise ValueError("it has lists within lists within lists")
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return None


def read_gguf(path: Path, request: Request) -> Held:
    """Return the tensors of a GGUF file, ``[out, in]`` as in torch, and the values in its header.

    Raises:
        DataFileError: if it is damaged, too large, or has quantised tensors; the message names one.
    """
    budget = request.budget
    with damage_told(path, "GGUF file"), path.open("rb") as file:
        header = _Header(file, path, budget)
        header.data(len(MAGIC))
        (version,) = header.numbers("I")
        if version not in (2, 3):
            raise DataFileError(f"{path} is GGUF of version {version}; expected 2 or 3.")
        tensor_count, fact_count = header.numbers("Q", 2)
        facts: dict[str, Value] = {}
        for _ in range(fact_count):
            budget.take(_ENTRY, path)
            name = header.text()
            facts[name] = header.value(*header.numbers("I"))
        infos = []
        for _ in range(tensor_count):
            budget.take(_ENTRY, path)
            name = header.text()
            (dims,) = header.numbers("I")
            shape = header.numbers("Q", dims)[::-1]  # the fastest axis stands first
            kind, offset = (*header.numbers("I"), *header.numbers("Q"))
            infos.append((name, shape, kind, offset))
        step = facts.get("general.alignment", 32)
        if not isinstance(step, int) or step <= 0:
            raise ValueError("its alignment is no count")
        start = -(-file.tell() // step) * step
        size = path.stat().st_size
        found: dict[str, Tensor] = {}
        for name, shape, kind, offset in infos:
            found[name] = _tensor(header, name, shape, kind, start + offset, size)
    return Held(found, {name: value for name, value in facts.items() if value is not None})


def _tensor(
    header: _Header, name: str, shape: tuple[int, ...], kind: int, start: int, size: int
) -> Tensor:
    if kind not in _DTYPES:
        raise DataFileError(
            f"{header.path}: tensor {name!r:.99} is quantised, as "
            f"{_QUANTISED.get(kind, f'type {kind}')}; only plain numbers are read. Take the file "
            "of F32, F16 or BF16, or dequantise it with llama.cpp's tools."
        )
    dtype = _DTYPES[kind]
    length = math.prod(shape) * dtype.itemsize
    if start + length > size:
        raise ValueError(f"tensor {name!r:.99} of shape {shape} reaches behind its end")
    header.budget.take(length, header.path)
    header.file.seek(start)
    data = bytearray(header.file.read(length))
    value = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return value.reshape(shape)
