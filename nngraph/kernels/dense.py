"""The primitives on blocks as dense arrays: views, broadcasts, axis sums and matrix products."""

from __future__ import annotations

from operator import le

import torch
from torch import Tensor

from nngraph.graph.topology import Bucket, Nodes, Topology

__all__ = ["edge_affine", "gather", "pool_blocks", "propagate", "propagate_level", "reduce_sum"]


def _take(x: Tensor, nodes: Nodes) -> Tensor:
    """Rows of ``[*, N, C]`` as ``[*, count, size, C]``; a view where they are contiguous."""
    if nodes.index is None:
        rows = x[..., nodes.start : nodes.stop, :]
    else:
        rows = x.index_select(-2, nodes.index)
    return rows.reshape(*rows.shape[:-2], nodes.count, nodes.size, rows.shape[-1])


def _edges(e: Tensor, bucket: Bucket) -> Tensor:
    """Edges of a bucket as ``[*, count, rows, columns, C]``, a view of ``[*, E, C]``."""
    shape = (*e.shape[:-2], bucket.count, bucket.rows, bucket.columns, e.shape[-1])
    return e[..., bucket.start : bucket.stop, :].reshape(shape)


def _assemble(num_nodes: int, like: Tensor, parts: list[tuple[Nodes, Tensor]]) -> Tensor:
    """Add parts ``[*, count, size, C]`` up at their nodes: ``[*, N, C]``."""
    if not parts:
        return like.new_zeros(*like.shape[:-2], num_nodes, like.shape[-1])
    first = parts[0][1]
    lead, channels = first.shape[:-3], first.shape[-1]
    starts, stops = [n.start for n, _ in parts], [n.stop for n, _ in parts]
    if all(n.index is None for n, _ in parts) and all(map(le, [0, *stops], [*starts, num_nodes])):
        # Disjoint slices in order, as in any chain: set side by side, nothing is added.
        pieces, at = [], 0
        for nodes, part in parts:
            if nodes.start > at:
                pieces.append(part.new_zeros(*lead, nodes.start - at, channels))
            pieces.append(part.flatten(-3, -2))
            at = nodes.stop
        if at < num_nodes:
            pieces.append(first.new_zeros(*lead, num_nodes - at, channels))
        return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
    # One addition for all parts: one each would copy all neurons once per bucket.
    index = torch.cat(
        [
            torch.arange(n.start, n.stop, device=first.device) if n.index is None else n.index
            for n, _ in parts
        ]
    )
    values = torch.cat([part.flatten(-3, -2) for _, part in parts], dim=-2)
    return values.new_zeros(*lead, num_nodes, channels).index_add(-2, index, values)


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.gather`."""
    pieces = []
    for bucket in topology.buckets:
        if side == "target":
            rows = _take(x, bucket.target).unsqueeze(-2)
        else:
            rows = _take(x, bucket.source).unsqueeze(-3)
        shape = (*rows.shape[:-4], bucket.count, bucket.rows, bucket.columns, rows.shape[-1])
        pieces.append(rows.expand(shape).flatten(-4, -2))
    if not pieces:
        return x[..., :0, :]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def reduce_sum(topology: Topology, e: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`."""
    parts = [
        (bucket.target, _edges(e, bucket).sum(-2)) if side == "target"
        else (bucket.source, _edges(e, bucket).sum(-3))
        for bucket in topology.buckets
    ]
    return _assemble(topology.num_nodes, e, parts)


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.edge_affine`."""
    pieces = []
    for bucket in topology.buckets:
        piece = _take(target, bucket.target).unsqueeze(-2) + _take(
            source, bucket.source
        ).unsqueeze(-3)
        if e is not None:
            piece = piece + _edges(e, bucket)
        pieces.append(piece.flatten(-4, -2))
    if not pieces:
        return source[..., :0, :]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def _matrix(weight: Tensor, bucket: Bucket) -> Tensor:
    """Weights of a bucket as matrices ``[*, count, rows, columns]``, a view of ``[*, E]``."""
    shape = (*weight.shape[:-1], bucket.count, bucket.rows, bucket.columns)
    return weight[..., bucket.start : bucket.stop].reshape(shape)


def propagate(topology: Topology, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """See :func:`nngraph.kernels.propagate`."""
    parts = []
    for bucket in topology.buckets:
        matrix = _matrix(weight, bucket)
        if to == "target":
            parts.append((bucket.target, matrix @ _take(x, bucket.source)))
        else:
            parts.append((bucket.source, matrix.mT @ _take(x, bucket.target)))
    return _assemble(topology.num_nodes, x, parts)


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.propagate_level`."""
    nodes = topology.level_nodes[level]
    parts = [
        (bucket.target, _matrix(weight, bucket) @ _take(x, bucket.source))
        for bucket in topology.levels[level - 1]
    ]
    return _assemble(nodes.count * nodes.size, x, parts)


def pool_blocks(topology: Topology, e: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.pool_blocks`."""
    pieces = [_edges(e, bucket).mean((-3, -2)) for bucket in topology.buckets]
    if not pieces:
        return e[..., :0, :]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
