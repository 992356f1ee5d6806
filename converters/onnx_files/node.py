"""One node of an ONNX graph, and what its handler is given: its values, in the form it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from converters.onnx_files.tensors import ELEMENTS, Array, element_name
from nngraph.errors import UnsupportedModuleError

Number = float | int | bool
#: What flows along an edge of the graph; an array is known without running the network.
Value = Tensor | Array
#: Runs one node: one value, or as many as the node has outputs.
Handler = Callable[["NodeCall"], Value | Sequence[Value]]

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: its type, the values it reads and writes, and its attributes."""

    op_type: str
    name: str
    #: ``""`` is an optional one that is left out
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: numbers, strings, tuples of these, arrays or, in a ``Constant``, a tensor
    attributes: Mapping[str, Any]
    opset: int
    #: values that no later node reads
    last_reads: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The node as messages name it."""
        return f"node {self.name or self.outputs[0]!r} ({self.op_type}, opset {self.opset})"

    def refuse(self, reason: str) -> UnsupportedModuleError:
        """Return the error that says what of this node cannot be run."""
        return UnsupportedModuleError(f"{self.where}: {reason}")

    def get(self, attribute: str, default: _T) -> _T:
        """Return an attribute of the type of its default."""
        return cast(_T, self.attributes.get(attribute, default))

    def listed(self, attribute: str) -> list[Any] | None:
        """Return a list of numbers or strings, or ``None`` if it is not given."""
        value = self.attributes.get(attribute)
        return None if value is None else list(value)


@dataclass(frozen=True, eq=False, slots=True)
class NodeCall:
    """One node with the values of its inputs."""

    node: Node
    values: Sequence[Value | None]
    #: the floating-point type that the file's weights have, and the one that they have now, after
    #: ``module.double()``, say: where the file names the first, the second is meant
    working: torch.dtype = torch.float32
    present: torch.dtype = torch.float32
    #: where tensors are made
    device: torch.device | str = "cpu"

    def has(self, place: int) -> bool:
        """Return whether an input is given."""
        return place < len(self.values) and self.values[place] is not None

    def value(self, place: int) -> Value:
        """Return an input that must be there."""
        value = self.values[place] if place < len(self.values) else None
        if value is None:
            raise self.refuse(f"input {place} is left out, which the operator needs.")
        return value

    def tensor(self, place: int) -> Tensor:
        """Return an input as a tensor."""
        value = self.value(place)
        return value if isinstance(value, Tensor) else self.as_tensor(value)

    def optional(self, place: int) -> Tensor | None:
        """Return an input as a tensor, or ``None`` if it is left out."""
        return self.tensor(place) if self.has(place) else None

    def tensors(self) -> list[Tensor]:
        """Return all inputs as tensors."""
        return [self.tensor(place) for place in range(len(self.values))]

    def operands(self) -> list[Tensor | Number]:
        """Return the inputs of a pointwise operation, known scalars of smaller rank as numbers."""
        values = [self.value(place) for place in range(len(self.values))]
        rank = max((v.dim() for v in values if isinstance(v, Tensor)), default=-1)
        return [
            v.item()
            if not isinstance(v, Tensor) and v.size == 1 and v.ndim <= rank
            else self.tensor(place)
            for place, v in enumerate(values)
        ]

    def array(self, place: int) -> Array:
        """Return an input that must be known without running the network."""
        value = self.value(place)
        if isinstance(value, Tensor):
            raise self.refuse(
                f"input {place} ({self.node.inputs[place]!r}) is computed from data or trained; "
                "here only a value is supported that is known from the file and the input's shape."
            )
        return value

    def numbers(self, place: int) -> list[float]:
        """Return a known input as a flat list of numbers."""
        return [float(number) for number in self.array(place).reshape(-1)]

    def integers(self, place: int) -> list[int]:
        """Return a known input as a flat list of integers."""
        return [int(number) for number in self.array(place).reshape(-1)]

    def number(self, place: int) -> Number:
        """Return a known input of one number."""
        array = self.array(place)
        if array.size != 1:
            raise self.refuse(f"input {place} holds {array.size} numbers; expected one.")
        return cast(Number, array.item())

    def integer(self, place: int) -> int:
        """Return a known input of one number as an integer."""
        return int(self.number(place))

    def integers_or(self, place: int, attribute: str) -> list[int] | None:
        """Return what newer operator sets have as an input and older ones as an attribute."""
        return self.integers(place) if self.has(place) else self.node.listed(attribute)

    def as_tensor(self, array: Array) -> Tensor:
        """Return a known value as a tensor, on the device of the weights."""
        tensor = torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)
        return tensor.to(self.device, self._meant(tensor.dtype))

    def dtype(self, number: int) -> torch.dtype:
        """Return the type for a number of ``TensorProto.DataType``."""
        if number not in ELEMENTS:
            raise self.refuse(f"the type {element_name(number)} is not supported.")
        return self._meant(ELEMENTS[number].torch)

    def _meant(self, dtype: torch.dtype) -> torch.dtype:
        """The type that the file means by a type: the weights' may have been changed."""
        converted = self.present != self.working and dtype.is_floating_point
        return self.present if converted else dtype

    def refuse(self, reason: str) -> UnsupportedModuleError:
        """Return the error that says what of this node cannot be run."""
        return self.node.refuse(reason)

    def only_first_output(self, hint: str = "") -> None:
        """Refuse a node whose further outputs are read."""
        if any(self.node.outputs[1:]):
            raise self.refuse(f"only its first output is supported. {hint}".rstrip())
