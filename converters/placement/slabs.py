r"""From the axes of a parameter to its slabs: which entries land on which edges or nodes.

Each axis of a parameter falls into *pieces*, one per segment of a concatenation, wherever that
stands. A piece of one axis counts the neurons of one group; every choice of a piece from each axis
is a slab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from converters.symmetry.axes import Axis, AxisFactor, Segment, segment_size
from nngraph.graph import Factor, Slab

#: Features per edge; a larger kernel becomes several parallel blocks, so that the one such kernel
#: of a network does not widen all of its edges.
MAX_TAPS = 9
#: Parallel blocks that a kernel becomes at most, before its edges get more features than that.
MAX_PARALLEL = 64


@dataclass(frozen=True)
class Piece:
    """One segment of an axis: a window of it, the factors of that, and a part of each of them."""

    window: tuple[int, int]
    split: tuple[int, ...]
    part: tuple[tuple[int, int], ...]
    #: what the part of each factor counts, a product
    factors: tuple[tuple[Factor, ...], ...]

    @property
    def flat(self) -> tuple[Factor, ...]:
        """All factors in a row, without those of size 1."""
        return tuple(f for factors in self.factors for f in factors if f.size > 1)

    @property
    def size(self) -> int:
        """Number of indices."""
        return math.prod(factor.size for factor in self.flat)

    @property
    def is_fixed(self) -> bool:
        """Whether no factor counts a space."""
        return are_fixed(self.flat)

    @property
    def counts(self) -> tuple[Factor, ...]:
        """The factors of a group that it counts."""
        return self.flat or (Factor(1),)

    def cut(self, count: int) -> Piece | None:
        """Cut fixed factors so that some of the outermost count to ``count``; ``None`` if not."""
        split, part, factors = list(self.split), list(self.part), list(self.factors)
        at = 0
        while count > 1 and at < len(split):
            size = math.prod(factor.size for factor in factors[at])
            whole = part[at] == (0, split[at])
            if size > count and size % count == 0 and whole and are_fixed(factors[at]):
                split[at : at + 1] = [count, size // count]
                part[at : at + 1] = [(0, count), (0, size // count)]
                factors[at : at + 1] = [(Factor(count),), (Factor(size // count),)]
                size = count
            if count % size:
                return None
            count //= size
            at += 1
        if count > 1:
            return None
        return replace(self, split=tuple(split), part=tuple(part), factors=tuple(factors))


def are_fixed(factors: Sequence[Factor]) -> bool:
    """Whether none of these counts a space."""
    return all(factor.space is None for factor in factors)


def pieces(axis: Axis) -> tuple[Piece, ...]:
    """Return the pieces of an axis, in order; those inside of products one after another."""
    found = []
    for window, segment in _windows(axis):
        choices = [
            [(own, tuple(map(_plain, parts))) for own, parts in _windows(factor.parts)]
            if factor.parts else [((0, factor.size), (_plain(factor),))]
            for factor in segment
        ]
        split = tuple(factor.size for factor in segment)
        found += [
            Piece(window, split, tuple(p for p, _ in choice), tuple(f for _, f in choice))
            for choice in product(*choices)
        ]
    return tuple(found)


def _windows(axis: Axis) -> Iterator[tuple[tuple[int, int], Segment]]:
    start = 0
    for segment in axis:
        stop = start + segment_size(segment)
        yield (start, stop), segment
        start = stop


def _plain(factor: AxisFactor) -> Factor:
    if factor.parts:  # a concatenation in a concatenation in a product: never seen
        raise ValueError(f"an axis has the nested factor {factor}")
    return Factor(factor.size, factor.space)


def slab_of(chosen: Sequence[Piece], letters: Sequence[str], **where: object) -> Slab:
    """Return the slab of one piece per axis, with a letter per factor or one for all."""
    named = zip(chosen, letters, strict=True)
    return Slab(
        "".join(own * len(piece.split) if len(own) == 1 else own for piece, own in named),
        window=tuple(piece.window for piece in chosen),
        split=tuple(piece.split for piece in chosen),
        part=tuple(part for piece in chosen for part in piece.part),
        **where,  # type: ignore[arg-type]
    )


def cut_taps(slab: Slab) -> Iterator[Slab]:
    """Cut a slab on edges into such of at most ``MAX_TAPS`` features."""
    sizes = [stop - start for start, stop in slab.part]
    taps = [i for i, letter in enumerate(slab.axes) if letter == "f"]
    total = math.prod(sizes[i] for i in taps)
    most = max(MAX_TAPS, -(-total // MAX_PARALLEL))
    ranges: list[list[tuple[int, int]]] = [[bounds] for bounds in slab.part]
    inner = total
    for i in taps:
        if inner <= most:
            break
        inner //= sizes[i]
        step = max(1, most // inner)
        first, last = slab.part[i]
        ranges[i] = [(at, min(at + step, last)) for at in range(first, last, step)]
        inner *= step
        if step > 1:
            break
    for part in product(*ranges):
        yield replace(slab, part=part)
