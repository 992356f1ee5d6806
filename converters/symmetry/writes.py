"""What is overwritten before anything reads it: a program without it.

``out[:, :4] = a`` is traced as ``slice_scatter(out, copy(slice(out), a))``: the copy reads nothing
of the slice. And ``torch.empty`` holds what nobody knows, so that all that is computed of it would
be fixed; but where every entry is written before it is read, any numbers do. To see that, the
operations that write to such a tensor and those that arrange it run on a mask of what is unwritten.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from converters.symmetry.program import Operation, Program, Ref, references

#: Tensors with more entries than this are taken to be read before they are written.
MAX_ENTRIES = 2**24

_EMPTY = (
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted",
)
_WRITES = ("slice_scatter", "select_scatter")
_ARRANGES = (
    "slice", "select", "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute",
    "transpose", "t", "unsqueeze", "squeeze", "split", "split_with_sizes", "chunk", "unbind",
    "alias", "detach", "clone", "contiguous", "narrow", "movedim",
)


def settle_writes(program: Program) -> None:
    """Let copies be what they copy, uninitialised tensors that are filled zeros, and drop the rest.

    The program computes the same as before; what nothing reads any more is left out.
    """
    _replace_copies(program)
    _fill_uninitialised(program)
    needed = {*program.outputs, *(ref for pair in program.updates for ref in pair)}
    kept = []
    for operation in reversed(program.operations):
        if not needed.isdisjoint(operation.outputs):
            needed.update(references((operation.args, operation.kwargs)))
            kept.append(operation)
    program.operations = kept[::-1]


def _replace_copies(program: Program) -> None:
    """Broadcast and convert what is copied; nothing of what it is copied over is left."""
    operations: list[Operation] = []
    for operation in program.operations:
        if operation.name == "aten.copy" and isinstance(operation.args[1], Ref):
            operations += _copied(program, operation, operation.args[1])
        else:
            operations.append(operation)
    program.operations = operations


def _copied(program: Program, operation: Operation, source: Ref) -> list[Operation]:
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


def _fill_uninitialised(program: Program) -> None:
    found = _Unwritten(program)
    for operation in program.operations:
        found.follow(operation)
    found.read(*program.outputs, *(ref for pair in program.updates for ref in pair))
    program.operations = [
        _zeros(program, operation) if found.is_filled(operation) else operation
        for operation in program.operations
    ]


def _zeros(program: Program, operation: Operation) -> Operation:
    (ref,) = operation.outputs
    assert ref is not None
    known = program.results[ref]
    zeros = torch.ops.aten.zeros.default
    return replace(operation, target=zeros, args=(known.shape,), kwargs={"dtype": known.dtype})


@dataclass
class _Unwritten:
    """Follows what is unwritten through a program.

    Attributes:
        masks: for each tensor with entries that may be unwritten, which, and where it was made.
        made: uninitialised tensors.
        was_read: those of them of which something is read.
    """

    program: Program
    masks: dict[Ref, tuple[Ref, Tensor]] = field(default_factory=dict)
    made: set[Ref] = field(default_factory=set)
    was_read: set[Ref] = field(default_factory=set)

    def is_filled(self, operation: Operation) -> bool:
        return operation.outputs[0] in self.made - self.was_read

    def follow(self, operation: Operation) -> None:
        name = operation.name.removeprefix("aten.")
        outputs = operation.outputs
        if name in _EMPTY and outputs[0] is not None:
            shape = self.program.results[outputs[0]].shape
            if torch.Size(shape).numel() <= MAX_ENTRIES:
                self.made.add(outputs[0])
                self.masks[outputs[0]] = (outputs[0], torch.ones(shape, dtype=torch.bool))
            return
        base = operation.args[0] if operation.args else None
        if isinstance(base, Ref) and base in self.masks and name in (*_WRITES, *_ARRANGES):
            self.read(*references((operation.args[1:], operation.kwargs)))
            self._arrange(operation, *self.masks[base])
        else:
            self.read(*references((operation.args, operation.kwargs)))

    def read(self, *refs: Ref) -> None:
        """Note that tensors are read."""
        self.was_read.update(self.masks[ref][0] for ref in refs if ref in self.masks)

    def _arrange(self, operation: Operation, origin: Ref, mask: Tensor) -> None:
        def written(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return torch.zeros(self.program.results[argument].shape, dtype=torch.bool)
            return argument

        found = operation.target(mask, *map(written, operation.args[1:]), **operation.kwargs)
        every = found if isinstance(found, (list, tuple)) else [found]
        for ref, left in zip(operation.outputs, every, strict=True):
            if ref is not None and left.any():
                self.masks[ref] = (origin, left)
