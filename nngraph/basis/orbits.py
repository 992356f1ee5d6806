"""Orbits by brute force: the group's generators, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nngraph.basis.maps import FACTORS, Maps
from nngraph.basis.weight_space import WeightSpace, common_sizes
from nngraph.errors import ArchitectureError

#: Most coordinates or pairs that brute force visits unless told otherwise: a few seconds.
LIMIT = 4_000_000

Labels = NDArray[np.int64]


def coordinate_orbits(space: WeightSpace, limit: int = LIMIT) -> Labels:
    """Orbit of each coordinate: ``[n]``, numbered from 0.

    Their number is the dimension of the invariant vectors, and of the linear invariants.

    Raises:
        ArchitectureError: if there are more than ``limit`` coordinates.
    """
    _refuse_above(limit, space.numel, "coordinates")
    return _components(space.numel, (images(space, g) for g in generators(space.sizes)))


def pair_orbits(
    source: WeightSpace, target: WeightSpace | None = None, limit: int = LIMIT
) -> Labels:
    """Orbit of each pair (coordinate of target, coordinate of source): ``[m, n]``, from 0.

    A matrix commutes with the group exactly when it is constant on these orbits, so that their
    number is the dimension of the equivariant linear maps from source to target.

    Raises:
        ArchitectureError: if there are more than ``limit`` pairs.
    """
    target = source if target is None else target
    m, n = target.numel, source.numel
    _refuse_above(limit, m * n, f"pairs of coordinates ({m} x {n})")
    moves = (
        (images(target, g)[:, None] * n + images(source, g)[None, :]).reshape(-1)
        for g in generators(common_sizes(source, target))
    )
    return _components(m * n, moves).reshape(m, n)


def map_orbits(
    source: WeightSpace, target: WeightSpace, maps: Maps, scaled: Collection[str],
    limit: int = LIMIT,
) -> Labels:  # fmt: skip
    """Orbit of each pair that maps of neurons leave alone, from 0; -1 for all others: ``[m, n]``.

    A matrix commutes with relabelling and maps exactly when it is constant on these orbits and 0
    elsewhere. One neuron of each space is multiplied, by -1 or by 2: relabelling makes it any.

    Args:
        source, target, limit: as in :func:`pair_orbits`.
        maps: signs or positive scales.
        scaled: spaces whose neurons have them.
    """
    labels = pair_orbits(source, target, limit)
    moved = np.zeros(labels.max(initial=-1) + 1, bool)
    for name in scaled:
        to, at = (_factors(space, name, FACTORS[maps]) for space in (target, source))
        moved[labels[to[:, None] != at[None, :]]] = True
    numbers = np.where(moved, -1, np.cumsum(~moved) - 1)
    return np.asarray(numbers[labels], np.int64)


def _factors(space: WeightSpace, name: str, by: float) -> NDArray[np.float64]:
    """By what each coordinate is multiplied where the first neuron of a space is: ``[n]``."""
    parts = []
    for tensor in space.tensors:
        value = np.ones(tensor.shape)
        for place, axis in enumerate(tensor.axes):
            if axis.space == name:
                first = np.where(np.arange(axis.size) == 0, by**axis.power, 1.0)
                value = value * first.reshape(-1, *[1] * (len(tensor.axes) - 1 - place))
        parts.append(value.reshape(-1))
    return np.concatenate(parts) if parts else np.ones(0)


def generators(sizes: dict[str, int]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """For each space one transposition and one cycle through all neurons: they generate S_d."""
    for name, size in sizes.items():
        if size > 1:
            swap = np.arange(size)
            swap[:2] = 1, 0
            yield name, swap
        if size > 2:
            yield name, np.roll(np.arange(size), 1)


def images(space: WeightSpace, move: tuple[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Where a relabelling of one space takes each coordinate: ``[n]``."""
    name, permutation = move
    parts = []
    for tensor, start in zip(space.tensors, space.starts, strict=False):
        numbers = np.arange(tensor.numel).reshape(tensor.shape)
        for place, axis in enumerate(tensor.axes):
            if axis.space == name:
                numbers = np.take(numbers, permutation, axis=place)
        parts.append(start + numbers.reshape(-1))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _components(size: int, moves: Iterator[NDArray[np.int64]]) -> Labels:
    labels = np.arange(size, dtype=np.int64)
    count = size
    # One generator at a time, on the orbits so far: memory stays at one edge per element.
    for move in moves:
        edges = coo_array((np.ones(size, np.int8), (labels, labels[move])), shape=(count, count))
        count, merged = connected_components(edges, directed=False)
        labels = merged.astype(np.int64)[labels]
    return labels


def _refuse_above(limit: int, size: int, what: str) -> None:
    if size > limit:
        raise ArchitectureError(
            f"brute force was asked for the orbits of {size} {what}; at most {limit} are visited. "
            "Count with dimension(), which is exact at any size, or raise limit."
        )
