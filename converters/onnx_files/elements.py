"""The element types of ONNX tensors that nngraph reads, as torch and numpy know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class ElementType:
    """One element type.

    ``stored`` is how the bytes of an element are read, ``field`` where a message keeps the values
    that are not raw bytes, ``array`` the type as a known value (bfloat16 has none in numpy).
    """

    torch: torch.dtype
    stored: type[np.generic]
    field: str
    array: type[np.generic]

    @property
    def bytes(self) -> int:
        """Size of one number."""
        return np.dtype(self.stored).itemsize

    @property
    def floating(self) -> bool:
        """Whether its numbers are real."""
        return self.torch.is_floating_point


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


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor on the CPU as an array of its own."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.array(tensor.numpy())
