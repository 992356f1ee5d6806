"""Where a tensor counts a space: each occurrence on an axis, and which indices it covers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from converters.symmetry.dims import ATOM, Dim, expand, find
from converters.symmetry.values import Value

#: (axis, first index, index after the last)
Range = tuple[int, int, int]


@dataclass(frozen=True)
class Occurrence:
    """One place where a tensor counts a space.

    Args:
        space: the space.
        axis: on which axis.
        number: how many occurrences of the space come before it on this axis.
        ranges: what it covers of its own axis, and of those along which the tensor is in pieces.
    """

    space: Dim
    axis: int
    number: int
    ranges: tuple[Range, ...]

    def lies_in(self, axis: int, start: int, stop: int) -> bool | None:
        """Whether some indices of an axis hold all of it; ``None`` where they hold a part.

        What says nothing of the axis is held by all of them.
        """
        for own, first, last in self.ranges:
            if own == axis:
                inside = start <= first and last <= stop
                return inside if inside or last <= start or stop <= first else None
        return True


def occurrences(value: Value) -> list[Occurrence]:
    """Return where a tensor counts spaces that may be relabelled, piece by piece and in order."""
    found: list[Occurrence] = []
    numbers: dict[tuple[int, Dim], int] = {}
    for cell, ranges in _cells(value, ()):
        for axis, dim in enumerate(cell):
            origin = next((start for own, start, _ in ranges if own == axis), 0)
            others = tuple(r for r in ranges if r[0] != axis)
            for part, start, stop in _of(dim):
                if part.size > 1 and not part.reasons:
                    number = numbers.get((axis, part), 0)
                    numbers[axis, part] = number + 1
                    covered = (axis, origin + start, origin + stop)
                    found.append(Occurrence(part, axis, number, (covered, *others)))
    return found


def _cells(
    value: Value, ranges: tuple[Range, ...]
) -> Iterator[tuple[tuple[Dim, ...], tuple[Range, ...]]]:
    """Iterate over the dimensions of pieces, with what they cover of axes in pieces."""
    if value.blocks is None:
        yield value.dims, ranges
        return
    axis, pieces = value.blocks
    start = next((start for own, start, _ in ranges if own == axis), 0)
    for piece in pieces:
        stop = start + piece.shape[axis]
        yield from _cells(piece, (*(r for r in ranges if r[0] != axis), (axis, start, stop)))
        start = stop


def _of(dim: Dim) -> Iterator[tuple[Dim, int, int]]:
    """Iterate over the atoms of a dimension, with the indices of the segment that holds them."""
    start = 0
    for segment in expand(dim):
        stop = start + math.prod(term.size for term in segment)
        for term in segment:
            inner = find(term)
            parts = [inner] if inner.kind == ATOM else [part for part, _, _ in _of(inner)]
            for part in parts:
                yield part, start, stop
        start = stop
