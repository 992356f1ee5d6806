"""A traced network as a list of operations: what both ways of tracing give, and the rules read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ref:
    """A tensor of the program, by number."""

    index: int


@dataclass(frozen=True)
class Result:
    """What is known about a tensor without running the network: its shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Operation:
    """One operation on tensors.

    Args:
        target: the operator.
        args: positional arguments, with tensors as :class:`Ref`, possibly inside lists.
        kwargs: keyword arguments likewise.
        outputs: the results in order; ``None`` for one that is no tensor or is never used.
        module_path: path of the module whose forward holds the operation.
        line: file and line of that forward, as far as known.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref | None, ...]
    module_path: str = ""
    line: str = ""

    @property
    def name(self) -> str:
        """Name of the operator without its overload, such as ``aten.linear``."""
        packet = getattr(self.target, "overloadpacket", None)
        if packet is not None:
            return str(packet)
        return str(getattr(self.target, "__name__", self.target))


@dataclass
class Program:
    """Operations in order, and where tensors come from and go to.

    Attributes:
        parameters: name -> tensor, parameters and persistent buffers that the operations use.
        inputs: the tensors that the caller gives.
        constants: tensors that are neither, with their values.
        results: shape and type of every tensor.
        outputs: the tensors that the caller gets.
        updates: (buffer, its new value) for buffers that the forward writes to.
        unknown: numbers that stand for sizes which depend on the data.
    """

    parameters: dict[str, Ref] = field(default_factory=dict)
    inputs: dict[str, Ref] = field(default_factory=dict)
    constants: dict[Ref, Tensor] = field(default_factory=dict)
    results: dict[Ref, Result] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    updates: list[tuple[Ref, Ref]] = field(default_factory=list)
    unknown: set[float] = field(default_factory=set)

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Ref:
        """Return the number of a new tensor."""
        ref = Ref(len(self.results))
        self.results[ref] = Result(shape, dtype)
        return ref


def references(value: Any) -> Iterator[Ref]:
    """Iterate over the tensors in an argument."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
