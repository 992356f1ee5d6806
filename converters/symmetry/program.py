"""A traced network as a list of operations: what both ways of tracing give, and the rules read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: Operations that lay the entries of one tensor out anew, or take some of them.
ARRANGING = frozenset((
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t",
    "movedim", "unsqueeze", "squeeze", "slice", "select", "narrow", "split", "split_with_sizes",
    "chunk", "unbind", "clone", "alias", "detach", "contiguous",
))  # fmt: skip


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
    """One operation on tensors, which its arguments have as :class:`Ref`, possibly inside lists."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: the results in order; ``None`` for one that is no tensor or is never used
    outputs: tuple[Ref | None, ...]
    #: path of the module whose forward holds the operation, and the line there, as far as known
    module_path: str = ""
    line: str = ""

    @property
    def name(self) -> str:
        """Name of the operator without its overload, such as ``aten.linear``."""
        packet = getattr(self.target, "overloadpacket", None)
        return str(packet or getattr(self.target, "__name__", self.target))

    @property
    def short_name(self) -> str:
        """Name of the operator without ``aten.``."""
        return self.name.removeprefix("aten.")

    @property
    def operands(self) -> list[Ref]:
        """The tensors in its arguments, in order."""
        return list(references((self.args, self.kwargs)))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by the names of the operator's schema and in its order, with defaults."""
        schema = getattr(self.target, "_schema", None)
        if schema is None:
            names = [f"argument_{i}" for i in range(len(self.args))]
            return {**dict(zip(names, self.args, strict=True)), **self.kwargs}
        given = dict(zip([a.name for a in schema.arguments], self.args, strict=False))
        given.update(self.kwargs)
        return {
            a.name: given.get(a.name, a.default_value) for a in schema.arguments
            if a.name in given or a.has_default_value()
        }

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in getattr(self.target, "tags", ())

    @property
    def is_pointwise(self) -> bool:
        """Whether torch tags it as going entry by entry."""
        return torch.Tag.pointwise in getattr(self.target, "tags", ())


@dataclass
class Program:
    """Operations in order, and where tensors come from and go to."""

    #: parameters and persistent buffers that the operations use, and what the caller gives
    parameters: dict[str, Ref] = field(default_factory=dict)
    inputs: dict[str, Ref] = field(default_factory=dict)
    #: tensors that are neither, with their values
    constants: dict[Ref, Tensor] = field(default_factory=dict)
    #: of every tensor
    results: dict[Ref, Result] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    #: what the caller gets
    outputs: list[Ref] = field(default_factory=list)
    #: (buffer, its new value) for buffers that the forward writes to
    updates: list[tuple[Ref, Ref]] = field(default_factory=list)
    #: numbers that stand for sizes which depend on the data
    unknown: set[float] = field(default_factory=set)

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Ref:
        """Return the number of a new tensor."""
        ref = Ref(len(self.results))
        self.results[ref] = Result(shape, dtype)
        return ref

    @property
    def kept(self) -> set[Ref]:
        """What is left of a forward: its results, and buffers before and after it."""
        return {*self.outputs, *(ref for pair in self.updates for ref in pair)}


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


def run_on(operation: Operation, tensor_of: Callable[[Ref], Tensor]) -> list[Tensor]:
    """Run an operation on these tensors; return its results."""
    args, kwargs = replaced((operation.args, operation.kwargs), tensor_of)
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    with torch.no_grad():
        outcome = operation.target(*args, **kwargs)
    return list(outcome) if isinstance(outcome, (list, tuple)) else [outcome]


def replaced(value: Any, change: Callable[[Ref], Any]) -> Any:
    """Return an argument with others in place of its tensors."""
    if isinstance(value, Ref):
        return change(value)
    if isinstance(value, (list, tuple)):
        return [replaced(item, change) for item in value]
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    return value
