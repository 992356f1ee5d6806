"""One node of an ONNX graph, read off its message: names and plain attributes, no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from torch import Tensor

from nngraph.errors import UnsupportedModuleError


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: its type, the values it reads and writes, and its attributes.

    An input ``""`` is an optional one that is left out. An attribute is an ``int``, a ``float``, a
    ``str``, a tuple of one of these, an array or, in a ``Constant``, a tensor.
    """

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    #: values that no later node reads
    last_reads: tuple[str, ...] = field(default=())

    @property
    def where(self) -> str:
        """The node as messages name it."""
        return f"node {self.name or self.outputs[0]!r} ({self.op_type}, opset {self.opset})"

    def refuse(self, reason: str) -> UnsupportedModuleError:
        """Return the error that says what of this node cannot be run."""
        return UnsupportedModuleError(f"{self.where}: {reason}")

    def has(self, attribute: str) -> bool:
        """Return whether an attribute is given."""
        return attribute in self.attributes

    def integer(self, attribute: str, default: int) -> int:
        """Return an integer attribute."""
        return cast(int, self.attributes.get(attribute, default))

    def listed(self, attribute: str) -> list[Any] | None:
        """Return a list of numbers or strings, or ``None`` if it is not given."""
        value = self.attributes.get(attribute)
        return None if value is None else list(value)

    def real(self, attribute: str, default: float) -> float:
        """Return a floating-point attribute."""
        return cast(float, self.attributes.get(attribute, default))

    def text(self, attribute: str, default: str) -> str:
        """Return a string attribute."""
        return cast(str, self.attributes.get(attribute, default))

    def array(self, attribute: str) -> np.ndarray[Any, Any] | None:
        """Return an array, or ``None`` if it is not given."""
        return cast("np.ndarray[Any, Any] | None", self.attributes.get(attribute))

    def tensor(self, attribute: str) -> Tensor | None:
        """Return the tensor of a ``Constant``, or ``None`` if it is not given."""
        return cast("Tensor | None", self.attributes.get(attribute))
