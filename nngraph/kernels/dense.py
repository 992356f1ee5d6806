"""The primitives on blocks as dense arrays: views, broadcasts, axis sums and matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.graph.topology import Bucket, Nodes, Topology

__all__ = ["edge_affine", "gather", "pool_blocks", "propagate", "reduce_sum"]


def _take(x: Tensor, nodes: Nodes) -> Tensor:
    """Rows of ``[*, N, C]`` as ``[*, count, size, C]``; a view where they are contiguous."""
    if nodes.index is None:
        rows = x[..., nodes.start : nodes.stop, :]
    else:
        rows = x.index_select(-2, nodes.index)
    return rows.unflatten(-2, (nodes.count, nodes.size))


def _edges(e: Tensor, bucket: Bucket) -> Tensor:
    """Edges of a bucket as ``[*, count, rows, columns, C]``, a view of ``[*, E, C]``."""
    return e[..., bucket.start : bucket.stop, :].unflatten(
        -2, (bucket.count, bucket.rows, bucket.columns)
    )


def _assemble(num_nodes: int, like: Tensor, parts: list[tuple[Nodes, Tensor]]) -> Tensor:
    """Add parts ``[*, count, size, C]`` up at their nodes: ``[*, N, C]``."""
    if not parts:
        return like.new_zeros(*like.shape[:-2], num_nodes, like.shape[-1])
    shape, lead = parts[0][1].shape, parts[0][1].shape[:-3]
    ends = [0, *(nodes.stop for nodes, _ in parts)]
    if all(n.index is None and n.start >= end for (n, _), end in zip(parts, ends[:-1], strict=True)):
        # Disjoint slices in order, as in any chain: set side by side, nothing is added.
        pieces, at = [], 0
        for nodes, part in parts:
            if nodes.start > at:
                pieces.append(part.new_zeros(*lead, nodes.start - at, shape[-1]))
            pieces.append(part.flatten(-3, -2))
            at = nodes.stop
        if at < num_nodes:
            pieces.append(parts[0][1].new_zeros(*lead, num_nodes - at, shape[-1]))
        return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
    out = parts[0][1].new_zeros(*lead, num_nodes, shape[-1])
    for nodes, part in parts:
        index = nodes.index
        if index is None:
            index = torch.arange(nodes.start, nodes.stop, device=part.device)
        out = out.index_add(-2, index, part.flatten(-3, -2))
    return out


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


def propagate(
    topology: Topology, weight: Tensor, x: Tensor, to: str, buckets: tuple[Bucket, ...]
) -> Tensor:
    """See :func:`nngraph.kernels.propagate`."""
    parts = []
    for bucket in buckets:
        matrix = weight[..., bucket.start : bucket.stop].unflatten(
            -1, (bucket.count, bucket.rows, bucket.columns)
        )
        if to == "target":
            parts.append((bucket.target, matrix @ _take(x, bucket.source)))
        else:
            parts.append((bucket.source, matrix.mT @ _take(x, bucket.target)))
    return _assemble(topology.num_nodes, x, parts)


def pool_blocks(topology: Topology, e: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.pool_blocks`."""
    pieces = [_edges(e, bucket).mean((-3, -2)) for bucket in topology.buckets]
    if not pieces:
        return e[..., :0, :]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
