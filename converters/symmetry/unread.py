"""Which entries of stored tensors a program never reads: later positions of a table, of a cache.

Every entry of a parameter has a number, and the numbers go through all operations that only move
entries. Where any other operation takes them, or the caller gets them, they are read; and so are
those that are written over, since the same place is. A buffer's next value is no reader: what is
only kept is not used.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import torch
from torch import Tensor

from converters.symmetry.program import Operation, Program, Ref, references

#: consecutive indices of an axis: how many, and whether nothing reads them
Runs: TypeAlias = "list[tuple[int, bool]]"

#: Operations whose results are entries of their arguments, each moved to its place.
_MOVES = frozenset(
    "aten." + name for name in (
        "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t",
        "squeeze", "unsqueeze", "expand", "slice", "select", "split", "split_with_sizes", "chunk",
        "unbind", "cat", "stack", "slice_scatter", "select_scatter", "narrow", "clone", "alias",
        "contiguous", "detach", "detach_", "lift_fresh_copy", "flip", "roll", "repeat", "diagonal",
        "copy", "_to_copy", "to", "movedim", "swapaxes", "view_as", "expand_as", "unfold",
    )
)  # fmt: skip

_OVERWRITES = ("aten.slice_scatter", "aten.select_scatter", "aten.copy")

#: Tensors with more entries than this are taken to be read.
MAX_ENTRIES = 2**24
_NONE = -1


def find_unread(program: Program) -> dict[Ref, tuple[Runs, ...]]:
    """Return for parameters that are read in part, along each axis, what is and what is not."""
    numbers: dict[Ref, Tensor] = {}
    starts: list[tuple[int, int, Ref]] = []
    total, taken_apart = 0, _taken_apart(program)
    for ref in program.parameters.values():
        shape = program.results[ref].shape
        size = torch.Size(shape).numel()
        if 0 < size <= MAX_ENTRIES and ref in taken_apart:
            numbers[ref] = torch.arange(total, total + size).reshape(shape)
            starts.append((total, total + size, ref))
            total += size
    read = torch.zeros(total, dtype=torch.bool)

    def reads(ref: Ref, but: Ref | None = None) -> None:
        """Note that a tensor is read, except for the entries that it leaves to another."""
        if ref in numbers:
            found = numbers[ref]
            if but is not None:
                found = found[found != numbers[but]]
            read[found[found != _NONE]] = True

    for operation in program.operations if numbers else ():
        sources = list(references((operation.args, operation.kwargs)))
        if not any(source in numbers for source in sources):
            continue
        followed = _follow(operation, program, numbers)
        for source in sources if not followed else sources[:1] * (operation.name in _OVERWRITES):
            reads(source, operation.outputs[0] if followed else None)
    for ref in program.outputs:
        reads(ref)
    return {
        ref: tuple(_runs(seen, axis) for axis in range(seen.dim()))
        for start, stop, ref in starts
        if not bool((seen := read[start:stop].reshape(program.results[ref].shape)).all())
    }


def _taken_apart(program: Program) -> set[Ref]:
    """Return tensors that only operations take which move entries; most tensors are weights."""
    taken: set[Ref] = set()
    others: set[Ref] = set()
    for operation in program.operations:
        found = taken if operation.name in _MOVES else others
        found.update(references((operation.args, operation.kwargs)))
    return taken - others


def _follow(operation: Operation, program: Program, numbers: dict[Ref, Tensor]) -> bool:
    """Move the numbers as an operation moves entries; whether it does no more than that."""
    if operation.name not in _MOVES:
        return False

    def numbered(argument: Any) -> Any:
        if isinstance(argument, Ref):
            blank = torch.full((), _NONE).expand(program.results[argument].shape)
            return numbers.get(argument, blank)
        if isinstance(argument, (list, tuple)):
            return [numbered(item) for item in argument]
        return argument

    if operation.name in ("aten._to_copy", "aten.to"):
        moved = [numbered(operation.args[0])]
    else:
        try:
            kwargs = {name: numbered(value) for name, value in operation.kwargs.items()}
            result = operation.target(*map(numbered, operation.args), **kwargs)
        except (RuntimeError, TypeError, ValueError):
            return False
        moved = list(result) if isinstance(result, (list, tuple)) else [result]
    outputs = [(ref, value) for ref, value in zip(operation.outputs, moved, strict=False) if ref]
    if any(tuple(value.shape) != program.results[ref].shape for ref, value in outputs):
        return False
    numbers.update(outputs)
    return True


def _runs(seen: Tensor, axis: int) -> Runs:
    others = [place for place in range(seen.dim()) if place != axis]
    along = seen.any(dim=others) if others else seen
    return [(len(list(run)), not is_read) for is_read, run in itertools.groupby(along.tolist())]
