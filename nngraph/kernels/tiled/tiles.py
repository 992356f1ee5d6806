"""Passing over the edges tile by tile: how a bucket is cut, and how sums of tiles are put together.

A tile is some networks, some arrays, or some rows of one, of a bucket ``[B, count, rows,
columns]``: few enough edges that what is made of them stays in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nngraph.graph import Bucket, Nodes, Topology
from nngraph.kernels.backends.arrays import assemble, block_rows, sets_of

#: Under the root of the norm, as in ``torch.nn.LayerNorm``.
EPS = 1e-5
#: Numbers of a tile on a CPU: a few arrays of this size stay in a core's own cache.
TILE = 2**18


class Tile(NamedTuple):
    """A slice of networks, of arrays and of rows of a bucket."""

    networks: slice
    arrays: slice
    rows: slice

    def edges(self, array: Tensor) -> Tensor:
        """Its part of ``[B, count, rows, columns, C]``, a view."""
        return array[self.networks, self.arrays, self.rows]

    def targets(self, array: Tensor) -> Tensor:
        """Its part of ``[B, count, rows, C]``."""
        return self.edges(array)

    def sources(self, array: Tensor) -> Tensor:
        """Its part of ``[B, count, columns, C]``."""
        return array[self.networks, self.arrays]

    def ends(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Return what both ends of its edges say together, ``[b, k, r, c, C]``."""
        return torch.add(self.targets(targets).unsqueeze(-2), self.sources(sources).unsqueeze(-3))


def _steps(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def tiles(bucket: Bucket, networks: int, channels: int, whole: bool = False) -> Iterator[Tile]:
    """Cut a bucket of B networks into tiles of ``TILE`` numbers, C an edge, or one, if whole."""
    if whole:
        yield Tile(slice(None), slice(None), slice(0, None))
        return
    rows = max(1, TILE // (bucket.columns * channels))
    arrays = max(1, rows // bucket.rows)
    for some in _steps(networks, max(1, arrays // bucket.count)):
        for part in _steps(bucket.count, arrays):
            for row in _steps(bucket.rows, rows):
                yield Tile(some, part, row)


def accumulate(tile: Tile, edges: Tensor, out: Tensor) -> None:
    """Add edges ``[b, k, r, c, C]`` up over their rows; a tile may hold some of the rows only."""
    if tile.rows.start:
        tile.sources(out).add_(edges.sum(-3))
    else:
        torch.sum(edges, -3, out=tile.sources(out))


def at_ends(
    bucket: Bucket, source: Tensor, target: Tensor, block: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Node features at a bucket's sources and targets; those of its blocks join the targets."""
    at_source, at_target = sets_of(source, bucket.source), sets_of(target, bucket.target)
    if block is not None:
        own = block_rows(block, bucket).unsqueeze(2)
        at_target = at_target + own.expand(-1, -1, bucket.parts, -1).flatten(1, 2).unsqueeze(2)
    return at_source, at_target


def over_blocks(bucket: Bucket, at_target: Tensor) -> Tensor:
    """Sum of ``[B, count, rows, C]`` over each block, ``[B, blocks, C]``."""
    return torch.unflatten(at_target.sum(2), 1, (-1, bucket.parts)).sum(2)


def flat(value: Tensor, lead: torch.Size) -> Tensor:
    """Features of a leading shape ``[*, n, C]`` as ``[B, n, C]``."""
    return value.expand(*lead, *value.shape[-2:]).reshape(-1, *value.shape[-2:])


class Sums:
    """The sums of a pass at targets, at sources and over blocks, brought together by buckets.

    Args:
        like: of the batch, channels and type of the sums, ``[B, 0, C]``.
    """

    def __init__(self, topology: Topology, like: Tensor) -> None:
        self.topology, self.like = topology, like
        self.targets: list[tuple[Nodes, Tensor]] = []
        self.sources: list[tuple[Nodes, Tensor]] = []
        self.blocks: list[Tensor] = []

    def add(self, bucket: Bucket, at_target: Tensor, at_source: Tensor) -> None:
        """Take in the sums of a bucket, ``[B, count, rows, C]`` and ``[B, count, columns, C]``."""
        self.targets.append((bucket.target, at_target))
        self.sources.append((bucket.source, at_source))
        self.blocks.append(over_blocks(bucket, at_target))

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums at targets and sources ``[B, N, C]``, and over blocks ``[B, K, C]``."""
        nodes = self.topology.num_nodes
        return (
            assemble(nodes, self.like, self.targets),
            assemble(nodes, self.like, self.sources),
            torch.cat([self.like, *self.blocks], dim=1),
        )

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums over the numbers of edges."""
        found = zip(self.all(), self._counts(), strict=True)
        incoming, outgoing, blocks = (total / count for total, count in found)
        return incoming, outgoing, blocks

    def gradients(self, of_means: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of the sums at sources, at targets and over blocks."""
        to_target, to_source, to_block = (
            None if gradient is None else gradient.to(self.like.dtype) / count
            for gradient, count in zip(of_means, self._counts(), strict=True)
        )
        none = self.like.new_zeros(len(self.like), self.topology.num_nodes, self.like.shape[-1])
        return (
            none if to_source is None else to_source,
            none if to_target is None else to_target,
            to_block,
        )

    def _counts(self) -> list[Tensor]:
        """Edges into and out of each neuron ``[N, 1]``, and of each block ``[K, 1]``; from 1."""
        nodes, blocks = self.topology.nodes, self.topology.blocks
        every = (nodes.in_degree, nodes.out_degree, blocks.size)
        return [count.clamp(min=1).to(self.like.dtype).unsqueeze(-1) for count in every]
