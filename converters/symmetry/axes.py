"""What each axis of a tensor counts: concatenations of products of factors, as data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AxisFactor:
    """One factor of a segment.

    Args:
        size: number of indices.
        space: name of the neuron space that it counts; ``None`` if it is fixed.
        parts: a concatenation inside of a product, in place of a space, as in a projection that is
            laid out head by head, each with its query, key and value.
    """

    size: int
    space: str | None = None
    parts: Axis = ()

    def __str__(self) -> str:
        if self.parts:
            return "(" + " | ".join(map(segment_text, self.parts)) + ")"
        return str(self.size) if self.space is None else f"{self.size} {self.space}"


#: A row-major product, outermost factor first.
Segment = tuple[AxisFactor, ...]
#: A concatenation of segments.
Axis = tuple[Segment, ...]


def segment_size(segment: Segment) -> int:
    """Return the number of indices of a segment."""
    return math.prod(factor.size for factor in segment)


def axis_size(axis: Axis) -> int:
    """Return the number of indices of an axis."""
    return sum(map(segment_size, axis))


def segment_text(segment: Segment) -> str:
    """Return a segment as people read it."""
    return " x ".join(map(str, segment))


def factors_of(axis: Axis) -> Iterator[AxisFactor]:
    """Iterate over all factors of an axis that have no parts, wherever they stand."""
    for segment in axis:
        for factor in segment:
            if factor.parts:
                yield from factors_of(factor.parts)
            else:
                yield factor


def products_of(axis: Axis) -> list[tuple[int, tuple[tuple[AxisFactor, int], ...]]]:
    """Return an axis as products of factors alone: where each begins, its factors and strides."""
    found: list[tuple[int, tuple[tuple[AxisFactor, int], ...]]] = []
    start = 0
    for segment in axis:
        stride = segment_size(segment)
        products: list[tuple[int, tuple[tuple[AxisFactor, int], ...]]] = [(start, ())]
        start += stride
        for factor in segment if stride else ():
            stride //= factor.size
            inner = products_of(factor.parts) if factor.parts else [(0, ((factor, 1),))]
            products = [
                (begin + at * stride, (*before, *((f, step * stride) for f, step in own)))
                for begin, before in products for at, own in inner
            ]
        found += products if stride else []
    return found


def only_tie(axis: Axis, space: str, number: int) -> Axis:
    """Return an axis in which one of the factors of a space is kept, and all else is fixed."""
    count = itertools.count()

    def kept(factor: AxisFactor) -> AxisFactor:
        here = factor.space == space and next(count) == number
        return factor if here else AxisFactor(factor.size)

    return change_factors(axis, kept)


def change_factors(axis: Axis, change: Callable[[AxisFactor], AxisFactor]) -> Axis:
    """Return an axis with other factors, wherever they stand."""

    def changed(factor: AxisFactor) -> AxisFactor:
        if factor.parts:
            parts = change_factors(factor.parts, change)
            return AxisFactor(axis_size(parts), parts=parts)
        return change(factor)

    return tuple(tuple(map(changed, segment)) for segment in axis)


def held(axis: Axis) -> Axis:
    """Return an axis of the same size of which nothing is relabelled."""
    return ((AxisFactor(axis_size(axis)),),)


def axis_from_list(data: list[Any]) -> Axis:
    """Read an axis from lists and dicts, as a spec in JSON has it."""
    def factor(f: dict[str, Any]) -> AxisFactor:
        return AxisFactor(f["size"], f.get("space"), axis_from_list(f.get("parts", [])))

    return tuple(tuple(map(factor, segment)) for segment in data)
