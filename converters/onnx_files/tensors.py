"""Tensors of ONNX files, checked against what they declare before anything is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from converters.onnx_files.elements import ELEMENTS, ElementType, element_name
from converters.onnx_files.external import ExternalData
from nngraph.errors import DataFileError, UnsupportedModuleError

if TYPE_CHECKING:
    from onnx import TensorProto

_EXTERNAL = 1
_FIELDS = (
    "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data",
    "raw_data",
)  # fmt: skip


class Budget:
    """How many bytes the tensors of one model may take together."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.left = total

    def spend(self, size: int, what: str) -> None:
        """Count ``size`` bytes, and refuse what is too much."""
        self.left -= size
        if self.left < 0:
            raise DataFileError(
                f"{what} brings the tensors to more than {self.total} bytes, which are the most "
                "that are read. Pass a larger max_bytes if that is right."
            )


def read_tensor(proto: TensorProto, what: str, budget: Budget, external: ExternalData) -> Tensor:
    """Read one tensor; one in an external file is mapped.

    Args:
        what: how messages name it.

    Raises:
        DataFileError: if it holds more or fewer numbers than its shape says, or is too large.
        UnsupportedModuleError: if its type is none that nngraph reads.
    """
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
    budget.spend(count * element.bytes, what)
    if proto.HasField("segment"):
        raise UnsupportedModuleError(f"{what} is stored in segments, which nothing writes.")
    fields = [name for name in _FIELDS if len(getattr(proto, name))]
    if proto.data_location == _EXTERNAL:
        if fields:
            raise DataFileError(f"{what} is kept in another file and has {fields[0]} as well.")
        entries = {entry.key: entry.value for entry in proto.external_data}
        stored = torch.uint8 if element.torch == torch.bool else element.torch
        return _shaped(external.tensor(entries, stored, count, what), element, dims)
    if len(fields) > 1 or (fields and fields[0] not in ("raw_data", element.field)):
        raise DataFileError(
            f"{what} has values in {' and '.join(fields)}; expected raw_data or {element.field}."
        )
    if count == 0 and not fields:
        return torch.empty(dims, dtype=element.torch)
    if fields == ["raw_data"]:
        found: float = len(proto.raw_data) / element.bytes
        flat = bytearray(proto.raw_data) if found == count else bytearray()
    else:
        found = len(getattr(proto, element.field))
        flat = _typed(proto, element, what) if found == count else bytearray()
    if found != count:
        raise DataFileError(
            f"{what} has the shape {dims}, {count} numbers; {found:g} are stored for it."
        )
    stored = torch.uint8 if element.torch == torch.bool else element.torch
    return _shaped(torch.frombuffer(flat, dtype=stored), element, dims)


def _shaped(flat: Tensor, element: ElementType, dims: list[int]) -> Tensor:
    # A boolean of a hostile file may be any byte; torch knows 0 and 1 only.
    return (flat != 0 if element.torch == torch.bool else flat).reshape(dims)


def _typed(proto: TensorProto, element: ElementType, what: str) -> bytearray:
    values: np.ndarray[Any, Any] = np.array(getattr(proto, element.field))
    stored = values.astype(element.stored)
    if element.stored not in (np.float32, np.float64) and not np.array_equal(
        stored.astype(values.dtype), values
    ):
        raise DataFileError(f"{what} has numbers that {element_name(proto.data_type)} cannot hold.")
    return bytearray(stored.tobytes())
