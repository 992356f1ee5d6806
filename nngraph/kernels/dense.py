"""The primitives on blocks as dense arrays: views, broadcasts, axis sums and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from operator import le

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.topology import Bucket, Nodes, Topology

__all__ = [
    "edge_affine",
    "gather",
    "multiply_blocks",
    "propagate",
    "propagate_level",
    "reduce_extreme",
    "reduce_sum",
]

_FOLDS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.sum, "max": torch.amax, "min": torch.amin
}


def _buckets(topology: Topology) -> tuple[Bucket, ...]:
    if topology.buckets is None:
        raise InvalidGraphError(
            "the backend 'dense' was asked of an irregular graph, whose edges are in no blocks; "
            "expected 'scatter', 'reference' or 'auto'."
        )
    return topology.buckets


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


def _rows(nodes: Nodes, device: torch.device) -> Tensor:
    if nodes.index is None:
        return torch.arange(nodes.start, nodes.stop, device=device)
    return nodes.index


def _assemble(
    num_nodes: int, like: Tensor, parts: list[tuple[Nodes, Tensor]], op: str = "sum"
) -> Tensor:
    """Bring parts ``[*, count, size, C]`` together at their nodes: ``[*, N, C]``."""
    if not parts:
        return like.new_zeros(*like.shape[:-2], num_nodes, like.shape[-1])
    first = parts[0][1]
    lead, channels = first.shape[:-3], first.shape[-1]
    if all(n.index is None for n, _ in parts):
        ordered = sorted(parts, key=lambda part: part[0].start)
        starts, stops = [n.start for n, _ in ordered], [n.stop for n, _ in ordered]
        if all(map(le, [0, *stops], [*starts, num_nodes])):
            # Disjoint slices, as in any chain: set side by side, nothing is added.
            pieces, at = [], 0
            for nodes, part in ordered:
                if nodes.start > at:
                    pieces.append(part.new_zeros(*lead, nodes.start - at, channels))
                pieces.append(part.flatten(-3, -2))
                at = nodes.stop
            if at < num_nodes:
                pieces.append(first.new_zeros(*lead, num_nodes - at, channels))
            return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
    # One operation for all parts: one each would copy all neurons once per bucket.
    index = torch.cat([_rows(n, first.device) for n, _ in parts])
    values = torch.cat([part.flatten(-3, -2) for _, part in parts], dim=-2)
    out = values.new_zeros(*lead, num_nodes, channels)
    if op == "sum":
        return out.index_add(-2, index, values)
    at_rows = index.unsqueeze(-1).expand_as(values)
    return out.scatter_reduce(-2, at_rows, values, f"a{op}", include_self=False)


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.gather`."""
    pieces, first = [], 0
    for bucket in _buckets(topology):
        edges = bucket.count * bucket.rows * bucket.columns
        if side == "block":
            count = bucket.count // bucket.parts
            rows = x[..., first : first + count, :].unsqueeze(-2)
            first += count
            pieces.append(rows.expand(*rows.shape[:-2], edges // count, -1).flatten(-3, -2))
            continue
        if side == "target":
            rows = _take(x, bucket.target).unsqueeze(-2)
        else:
            rows = _take(x, bucket.source).unsqueeze(-3)
        shape = (*rows.shape[:-4], bucket.count, bucket.rows, bucket.columns, rows.shape[-1])
        pieces.append(rows.expand(shape).flatten(-4, -2))
    if not pieces:
        return x[..., :0, :]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def _reduce(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    fold = _FOLDS[op]
    if side == "block":
        pieces = []
        for bucket in _buckets(topology):
            size = bucket.parts * bucket.rows * bucket.columns
            edges = e[..., bucket.start : bucket.stop, :]
            pieces.append(fold(torch.unflatten(edges, -2, (-1, size)), -2))
        if not pieces:
            return e[..., :0, :]
        return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
    parts = [
        (bucket.target, fold(_edges(e, bucket), -2)) if side == "target"
        else (bucket.source, fold(_edges(e, bucket), -3))
        for bucket in _buckets(topology)
    ]
    return _assemble(topology.num_nodes, e, parts, op)


def reduce_sum(topology: Topology, e: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`."""
    return _reduce(topology, e, side, "sum")


def reduce_extreme(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`; ``op`` is ``"max"`` or ``"min"``."""
    return _reduce(topology, e, side, op)


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.edge_affine`."""
    pieces = []
    for bucket in _buckets(topology):
        piece = _take(target, bucket.target).unsqueeze(-2) + _take(
            source, bucket.source
        ).unsqueeze(-3)
        if e is not None:
            piece = piece + _edges(e, bucket)
        pieces.append(piece.flatten(-4, -2))
    if not pieces:
        return source[..., :0, :]
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def multiply_blocks(topology: Topology, e: Tensor, weight: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.multiply_blocks`."""
    pieces, first = [], 0
    for bucket in _buckets(topology):
        count = bucket.count // bucket.parts
        edges = torch.unflatten(e[..., bucket.start : bucket.stop, :], -2, (count, -1))
        pieces.append((edges @ weight[first : first + count].mT).flatten(-3, -2))
        first += count
    if not pieces:
        return e.new_zeros(*e.shape[:-1], weight.shape[1])
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def _matrix(weight: Tensor, bucket: Bucket) -> Tensor:
    """Weights of a bucket as matrices ``[*, count, rows, columns]``, a view of ``[*, E]``."""
    shape = (*weight.shape[:-1], bucket.count, bucket.rows, bucket.columns)
    return weight[..., bucket.start : bucket.stop].reshape(shape)


def propagate(topology: Topology, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """See :func:`nngraph.kernels.propagate`."""
    parts = []
    for bucket in _buckets(topology):
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
