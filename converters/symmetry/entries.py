"""Which entries of tensors are written before they are read, and which are never read.

``out[:, :4] = a`` is traced as ``slice_scatter(out, copy(slice(out), a))``: the copy reads nothing
of the slice. And all that is computed of ``torch.empty`` would be fixed; but where every entry is
written before it is read, any numbers do. To see that, the operations that write to such a tensor
and those that arrange it run on a mask of what is unwritten.

Nor are all entries of stored tensors read: later positions of a table, of a cache. Every entry of a
parameter has a number, and the numbers go through all operations that only move entries. They are
read where any other operation takes them, where the caller gets them, and where they are written
over. A buffer's next value is no reader: what is only kept is not used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from converters.symmetry.program import ARRANGING, Operation, Program, Ref, references, run_on

#: consecutive indices of an axis: how many, and whether nothing reads them
Runs: TypeAlias = "list[tuple[int, bool]]"

#: Tensors with more entries than this are taken to be read, and before they are written.
MAX_ENTRIES = 2**24

_EMPTY = (
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted",
)
_WRITES = ("slice_scatter", "select_scatter")

#: Operations whose results are entries of their arguments, each moved to its place.
_MOVES = frozenset((
    *ARRANGING, *_WRITES, "copy", "_to_copy", "to", "expand", "expand_as", "repeat", "cat", "stack",
    "detach_", "lift_fresh_copy", "flip", "roll", "diagonal", "swapaxes", "view_as", "unfold",
))  # fmt: skip


def _run(
    operation: Operation, program: Program, known: Mapping[Ref, Tensor], blank: Tensor
) -> list[Tensor]:
    """Run an operation on what is known of its operands, and one number for all other entries."""

    def stand_in(ref: Ref) -> Tensor:
        return known[ref] if ref in known else blank.expand(program.results[ref].shape)

    return run_on(operation, stand_in)


# -- written before they are read ------------------------------------------------------------------


def settle_writes(program: Program) -> None:
    """Let copies be what they copy, uninitialised tensors that are filled zeros, and drop the rest.

    The program computes the same as before; what nothing reads any more is left out.
    """
    copied = [_without_copy(program, operation) for operation in program.operations]
    program.operations = list(itertools.chain.from_iterable(copied))
    filled = _filled(program)
    needed, kept = program.kept, []
    for operation in reversed(program.operations):
        if not needed.isdisjoint(operation.outputs):
            first = operation.outputs[0]
            if first is not None and first in filled:
                result, zeros = program.results[first], torch.ops.aten.zeros.default
                args, kwargs = (result.shape,), {"dtype": result.dtype}
                operation = replace(operation, target=zeros, args=args, kwargs=kwargs)
            kept.append(operation)
            needed.update(operation.operands)
    program.operations = kept[::-1]


def _without_copy(program: Program, operation: Operation) -> list[Operation]:
    """Broadcast and convert what is copied; nothing of what it is copied over is left."""
    if operation.name != "aten.copy" or not isinstance(source := operation.args[1], Ref):
        return [operation]
    (target,) = operation.outputs
    if target is None:
        return []
    wanted = program.results[target]
    wide = program.new(wanted.shape, program.results[source].dtype)
    expand, convert = torch.ops.aten.expand.default, torch.ops.aten._to_copy.default
    return [
        replace(operation, target=expand, args=(source, wanted.shape), kwargs={}, outputs=(wide,)),
        replace(operation, target=convert, args=(wide,), kwargs={"dtype": wanted.dtype}),
    ]


def _filled(program: Program) -> set[Ref]:
    """Return uninitialised tensors of which every entry is written before it is read."""
    # For each tensor with entries that may be unwritten, which, and where it was made.
    masks: dict[Ref, Tensor] = {}
    origins: dict[Ref, Ref] = {}
    was_read: set[Ref] = set()

    def read(refs: Iterable[Ref]) -> None:
        was_read.update(origins[ref] for ref in refs if ref in origins)

    for operation in program.operations:
        name, first = operation.short_name, operation.outputs[0]
        base = operation.args[0] if operation.args else None
        if name in _EMPTY and first is not None:
            shape = program.results[first].shape
            if torch.Size(shape).numel() <= MAX_ENTRIES:
                masks[first], origins[first] = torch.ones(shape, dtype=torch.bool), first
        elif isinstance(base, Ref) and base in masks and name in (*_WRITES, *ARRANGING):
            read(references((operation.args[1:], operation.kwargs)))
            written = torch.zeros((), dtype=torch.bool)
            found = _run(operation, program, {base: masks[base]}, written)
            for ref, left in zip(operation.outputs, found, strict=True):
                if ref is not None and left.any():
                    masks[ref], origins[ref] = left, origins[base]
        else:
            read(operation.operands)
    read(program.kept)
    return set(origins.values()) - was_read


# -- never read ------------------------------------------------------------------------------------

_NONE = -1


def find_unread(program: Program) -> dict[Ref, tuple[Runs, ...]]:
    """Return for parameters that are read in part, along each axis, what is and what is not."""
    numbers: dict[Ref, Tensor] = {}
    starts: list[tuple[int, int, Ref]] = []
    # Only what operations alone take that move entries; most tensors are weights.
    others = {
        ref for operation in program.operations if operation.short_name not in _MOVES
        for ref in operation.operands
    }
    taken_apart = {ref for operation in program.operations for ref in operation.operands} - others
    total = 0
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
        sources = operation.operands
        if numbers.keys().isdisjoint(sources):
            continue
        followed = _follow(operation, program, numbers)
        overwrites = operation.short_name in (*_WRITES, "copy")
        for source in sources if not followed else sources[:1] * overwrites:
            reads(source, operation.outputs[0] if followed else None)
    for ref in program.outputs:
        reads(ref)
    return {
        ref: tuple(_runs(seen, axis) for axis in range(seen.dim()))
        for start, stop, ref in starts
        if not bool((seen := read[start:stop].reshape(program.results[ref].shape)).all())
    }


def _follow(operation: Operation, program: Program, numbers: dict[Ref, Tensor]) -> bool:
    """Move the numbers as an operation moves entries; whether it does no more than that."""
    if operation.short_name not in _MOVES:
        return False
    if operation.short_name in ("_to_copy", "to"):
        # A conversion that the numbers would not survive.
        operation = replace(operation, target=torch.clone, args=operation.args[:1], kwargs={})
    try:
        moved = _run(operation, program, numbers, torch.tensor(_NONE))
    except (RuntimeError, TypeError, ValueError):
        return False
    outputs = [(ref, value) for ref, value in zip(operation.outputs, moved, strict=False) if ref]
    if any(tuple(value.shape) != program.results[ref].shape for ref, value in outputs):
        return False
    numbers.update(outputs)
    return True


def _runs(seen: Tensor, axis: int) -> Runs:
    others = [place for place in range(seen.dim()) if place != axis]
    along = seen.any(dim=others) if others else seen
    return [(len(list(run)), not is_read) for is_read, run in itertools.groupby(along.tolist())]
