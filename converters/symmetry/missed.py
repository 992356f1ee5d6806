"""Searching a small network for symmetry that its spec forbids.

A candidate is a swap of two indices in some of the segments that have one structure: all of them,
or a subset, since the spec may tie more than it must. Segments that the outputs do not depend on
(the bias of keys, which softmax cancels) are left out. A candidate that the spec forbids and that
leaves the outputs unchanged was missed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from converters.symmetry.axes import Segment, segment_size
from converters.symmetry.checking import under_all_names
from converters.symmetry.running import Draw
from converters.symmetry.spec import PermutationSpec

#: Subsets of at most this many segments are all tried; of more, only few.
MAX_ALL_SUBSETS = 7
#: Pairs of indices that are tried in each structure.
PAIRS = 3


@dataclass(frozen=True)
class Missed:
    """A swap that leaves the function unchanged though the spec forbids it.

    Args:
        pair: the two indices, counted within the segment.
        segments: (parameter, axis, first index) of each segment in which they are swapped.
    """

    pair: tuple[int, int]
    segments: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        where = ", ".join(f"{name}[{axis}] from {start}" for name, axis, start in self.segments)
        return f"swapping {self.pair[0]} and {self.pair[1]} of {where}"


@dataclass(frozen=True)
class _Unit:
    name: str
    axis: int
    start: int
    segment: Segment

    @property
    def structure(self) -> object:
        """What segments have in common that may be swapped together."""
        counts = any(factor.space or factor.parts for factor in self.segment)
        return self.segment if counts else segment_size(self.segment)


def search_missed(
    spec: PermutationSpec, runners: Sequence[Draw], confirm: Callable[[], Sequence[Draw]],
    generator: torch.Generator, tolerance: float,
) -> tuple[Missed, ...]:  # fmt: skip
    """Try swaps that the spec forbids; return those that leave the outputs unchanged.

    Args:
        spec: what is allowed.
        runners: the network with a few sets of parameters.
        confirm: gives it with further ones, on which a finding must hold as well: two neurons that
            are dead on one set may be swapped there by accident.
        generator: chooses pairs.
        tolerance: what counts as unchanged.
    """
    further: list[Draw] = []
    groups: dict[object, list[_Unit]] = {}
    for unit in _units(spec):
        if runners[0].state[unit.name].is_floating_point():
            groups.setdefault(unit.structure, []).append(unit)
    missed = []
    for units in groups.values():
        size = segment_size(units[0].segment)
        chosen = _pairs(size, PAIRS, generator)
        units = [u for u in units if not _unchanged(spec, runners, [u], chosen, tolerance)]
        if not units:
            continue
        for pair in chosen:
            # Where few may be swapped together, one pair tells what the others would.
            for subset in _subsets(units, every=pair == chosen[0]):
                if len(subset) == len(units) and _allowed(spec, units[0].segment, pair):
                    continue
                if not _unchanged(spec, runners, subset, [pair], tolerance):
                    continue
                further = further or list(confirm())
                if _unchanged(spec, further, subset, [pair], tolerance) and any(
                    _depends(spec, draw, unit, pair, tolerance)
                    for draw in further for unit in subset
                ):
                    missed.append(Missed(pair, tuple((u.name, u.axis, u.start) for u in subset)))
                    break
    return tuple(missed)


def _units(spec: PermutationSpec) -> Iterator[_Unit]:
    for name, axes in spec.parameters.items():
        if name in spec.unused:
            continue
        for place, axis in enumerate(axes):
            start = 0
            for segment in axis:
                size = segment_size(segment)
                if size > 1:
                    yield _Unit(name, place, start, segment)
                start += size


def _pairs(size: int, count: int, generator: torch.Generator) -> list[tuple[int, int]]:
    every = math.comb(size, 2)
    if every <= count:
        return list(itertools.combinations(range(size), 2))
    # Neighbours, one far apart, and random ones.
    found = {(0, 1), (0, size - 1)}
    while len(found) < count:
        one, other = torch.randperm(size, generator=generator)[:2].tolist()
        found.add((min(one, other), max(one, other)))
    return sorted(found)


def _subsets(units: Sequence[_Unit], every: bool) -> Iterator[Sequence[_Unit]]:
    """Iterate over subsets, the largest first: every one of a few, or those without one."""
    if every and len(units) <= MAX_ALL_SUBSETS:
        for count in range(len(units), 0, -1):
            yield from itertools.combinations(units, count)
        return
    yield units
    for left_out in units:
        yield [unit for unit in units if unit is not left_out]


def _allowed(spec: PermutationSpec, segment: Segment, pair: tuple[int, int]) -> bool:
    """Whether the spec has the swap of two indices of a segment, wherever it is counted."""
    sizes = [factor.size for factor in segment]
    one, other = (np.unravel_index(index, sizes) for index in pair)
    differing = [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(differing) != 1:
        return False
    others = list(segment)
    moved = others.pop(differing[0]).space
    if moved is None or spec.by_name[moved].fixed:
        return False
    return all(factor.space in spec.by_name[moved].within for factor in others)


def _depends(
    spec: PermutationSpec, draw: Draw, unit: _Unit, pair: tuple[int, int], tolerance: float
) -> bool:
    """Whether the outputs depend on what stands at a pair; positions that nothing reads do not."""
    value = draw.state[unit.name].clone()
    for index in pair:
        place = value.select(unit.axis, unit.start + index)
        place += torch.linspace(0.5, 1.5, place.numel()).reshape(place.shape).to(place)
    return draw.change(under_all_names(spec, {unit.name: value})) > tolerance


def _unchanged(
    spec: PermutationSpec, runners: Sequence[Draw], units: Sequence[_Unit],
    pairs: Sequence[tuple[int, int]], tolerance: float,
) -> bool:  # fmt: skip
    """Whether each swap leaves the outputs as they are."""
    for runner, (one, other) in itertools.product(runners, pairs):
        changed: dict[str, Tensor] = {}
        for unit in units:
            tensor = changed.get(unit.name, runner.state[unit.name])
            index = torch.arange(tensor.shape[unit.axis])
            a, b = unit.start + one, unit.start + other
            index[a], index[b] = b, a
            swapped = tensor.index_select(unit.axis, index)
            changed |= under_all_names(spec, {unit.name: swapped})
        if runner.change(changed) > tolerance:
            return False
    return True
