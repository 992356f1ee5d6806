"""The primitives on blocks as dense arrays: views, broadcasts, axis sums and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from nngraph.graph import Bucket, Topology
from nngraph.kernels.backends.arrays import (
    assemble,
    block_rows,
    buckets_of,
    edges_of,
    ends_of,
    sets_of,
)
from nngraph.kernels.backends.reference import heard_levels
from nngraph.kernels.modes import follows_operations

_FOLDS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.sum, "max": torch.amax, "min": torch.amin
}
_LARGER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max": torch.maximum, "min": torch.minimum
}

#: Channels from which a row of features is long enough to be copied by itself.
_LONG = 32


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.gather`."""
    if follows_operations(x):
        return _joined(topology, x, side)
    return _Gather.apply(topology, x, side)  # type: ignore[no-any-return, no-untyped-call]


def reduce_sum(topology: Topology, e: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`."""
    if follows_operations(e):
        return _fold(topology, e, side, "sum")
    return _Sum.apply(topology, e, side)  # type: ignore[no-any-return, no-untyped-call]


def reduce_extreme(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`; ``op`` is ``"max"`` or ``"min"``."""
    if follows_operations(e):
        return _fold(topology, e, side, op)
    return _Extreme.apply(topology, e, side, op)  # type: ignore[no-any-return, no-untyped-call]


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.edge_affine`."""
    if follows_operations(source):
        ends = gather(topology, source, "source") + gather(topology, target, "target")
        return ends if e is None else ends + e
    given = [value for value in (source, target, e) if value is not None]
    lead = torch.broadcast_shapes(*(v.shape[:-2] for v in given))  # type: ignore[no-untyped-call]
    wide = [value.expand(*lead, *value.shape[-2:]) for value in given]
    return _EdgeAffine.apply(topology, *wide)  # type: ignore[no-any-return, no-untyped-call]


class _Gather(torch.autograd.Function):
    """Gather and sum are each other's derivative, so that both have derivatives of any order.

    Of the size of the edges, each makes its result and nothing else.
    """

    @staticmethod
    def forward(ctx: Any, topology: Topology, x: Tensor, side: str) -> Tensor:
        ctx.topology, ctx.side = topology, side
        return _broadcast(topology, x, side)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, reduce_sum(ctx.topology, grad, ctx.side), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, topology: Topology, e: Tensor, side: str) -> Tensor:
        ctx.topology, ctx.side = topology, side
        return _fold(topology, e, side, "sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, gather(ctx.topology, grad, ctx.side), None


class _Extreme(torch.autograd.Function):
    """The largest or smallest value; edges that have it share its gradient."""

    @staticmethod
    def forward(ctx: Any, topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
        ctx.topology, ctx.side = topology, side
        found = _fold(topology, e, side, op)
        ctx.save_for_backward(e, found)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        e, found = ctx.saved_tensors
        with torch.no_grad():
            has_it = (e == _broadcast(ctx.topology, found, ctx.side)).to(e.dtype)
            count = _fold(ctx.topology, has_it, ctx.side, "sum").clamp_(min=1)
        return None, has_it * gather(ctx.topology, grad / count, ctx.side), None, None


class _EdgeAffine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, topology: Topology, source: Tensor, target: Tensor, e: Tensor | None = None
    ) -> Tensor:
        ctx.topology, ctx.has_edges = topology, e is not None
        given = [source, target, *([] if e is None else [e])]
        dtype = reduce(torch.promote_types, [value.dtype for value in given])
        total = _broadcast(topology, target.to(dtype), "target")
        for bucket in buckets_of(topology):
            edges_of(total, bucket).add_(ends_of(source, bucket, "source"))
        return total if e is None else total.add_(e)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ends = [reduce_sum(ctx.topology, grad, side) for side in ("source", "target")]
        return None, *ends, *([grad] if ctx.has_edges else [])


def _joined(topology: Topology, x: Tensor, side: str) -> Tensor:
    """What :func:`_broadcast` writes, in operations that torch differentiates itself."""
    pieces = [x[..., :0, :]]
    for bucket in buckets_of(topology):
        if side == "block":
            rows = block_rows(x, bucket).unsqueeze(-2)
            size = bucket.parts * bucket.rows * bucket.columns
            rows = rows.expand(*rows.shape[:-2], size, -1)
            pieces.append(rows.flatten(-3, -2))
            continue
        shape = (bucket.count, bucket.rows, bucket.columns)
        rows = ends_of(x, bucket, side)
        pieces.append(rows.expand(*rows.shape[:-4], *shape, -1).flatten(-4, -2))
    return torch.cat(pieces, dim=-2)


def _broadcast(topology: Topology, x: Tensor, side: str) -> Tensor:
    """Write what edges read of their end or block next to one another: ``-> [*, E, C]``."""
    out = x.new_empty(*x.shape[:-2], topology.num_edges, x.shape[-1])
    for bucket in buckets_of(topology):
        if side == "block":
            edges = out[..., bucket.start : bucket.stop, :]
            edges = torch.unflatten(edges, -2, (bucket.blocks, -1))
            edges.copy_(block_rows(x, bucket).unsqueeze(-2))
        elif side == "source":
            edges_of(out, bucket).copy_(ends_of(x, bucket, side))
        else:
            _repeat(edges_of(out, bucket), sets_of(x, bucket.target))
    return out


def _repeat(edges: Tensor, rows: Tensor) -> None:
    """Write ``rows [*, C]`` to ``edges [*, columns, C]`` at every column."""
    columns, channels = edges.shape[-2:]
    done = columns if channels >= _LONG else min(1, columns)
    edges[..., :done, :] = rows.unsqueeze(-2)
    while done < columns:
        # Few numbers at a time are copied slowly: what is there already doubles.
        more = min(done, columns - done)
        edges[..., done : done + more, :] = edges[..., :more, :]
        done += more


def _fold(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    """Reduce edges to their ends or blocks, by the name of the operation."""
    fold = _FOLDS[op]
    if side == "block":
        pieces = []
        for bucket in buckets_of(topology):
            size = bucket.parts * bucket.rows * bucket.columns
            edges = e[..., bucket.start : bucket.stop, :]
            pieces.append(fold(torch.unflatten(edges, -2, (-1, size)), -2))
        return torch.cat(pieces, dim=-2) if pieces else e[..., :0, :]
    parts = [
        (bucket.target, fold(_halved(edges_of(e, bucket), op), -2)) if side == "target"
        else (bucket.source, fold(edges_of(e, bucket), -3))
        for bucket in buckets_of(topology)
    ]
    return assemble(topology.num_nodes, e, parts, op)


def _halved(edges: Tensor, op: str) -> Tensor:
    """Reduce ``[*, columns, C]`` by halves, keeping a few columns, where torch would be slow.

    Its extremes along an axis before a short last one take ten times as long as its sums.
    """
    while op in _LARGER and edges.shape[-1] < _LONG < edges.shape[-2] * edges.shape[-1]:
        columns = edges.shape[-2]
        half = (columns + 1) // 2
        edges = _LARGER[op](edges[..., :half, :], edges[..., columns - half :, :])
    return edges


def inner(topology: Topology, source: Tensor, target: Tensor, heads: int) -> Tensor:
    """See :func:`nngraph.kernels.inner`: one matrix product for each block and head."""
    # The heads come first, so that they are one more axis of the products.
    sources, targets = (
        torch.unflatten(x, -1, (heads, -1)).movedim(-2, 0) for x in (source, target)
    )
    pieces = []
    for bucket in buckets_of(topology):
        product = sets_of(targets, bucket.target) @ sets_of(sources, bucket.source).mT
        pieces.append(product.flatten(-3).movedim(0, -1))
    if not pieces:
        return source.new_zeros(*source.shape[:-2], 0, heads)
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def multiply_blocks(topology: Topology, e: Tensor, weight: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.multiply_blocks`."""
    buckets = buckets_of(topology)
    if not buckets:
        return e.new_zeros(*e.shape[:-1], weight.shape[1])
    counts = [bucket.blocks for bucket in buckets]
    # Split at once, so that the gradient of the edges is put together in one step.
    edges = torch.split(e, [bucket.stop - bucket.start for bucket in buckets], dim=-2)
    pieces = []
    for part, matrices in zip(edges, torch.split(weight, counts), strict=True):
        if len(matrices) == 1:
            pieces.append(part @ matrices[0].mT)
        else:
            parts = torch.unflatten(part, -2, (len(matrices), -1)) @ matrices.mT
            pieces.append(parts.flatten(-3, -2))
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]


def normalise_blocks(
    topology: Topology, e: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """See :func:`nngraph.kernels.normalise_blocks`; a block's numbers are one layer to torch."""
    buckets = buckets_of(topology)
    counts = [bucket.blocks for bucket in buckets]
    dtype = torch.promote_types(e.dtype, weight.dtype)
    e, weight, bias = e.to(dtype), weight.to(dtype), bias.to(dtype)
    pieces = []
    for part, scale, shift in zip(
        torch.split(e, [bucket.stop - bucket.start for bucket in buckets], dim=-2),
        torch.split(weight, counts),
        torch.split(bias, counts),
        strict=True,
    ):
        blocks = torch.unflatten(part, -2, (len(scale), -1))
        shape = blocks.shape[-2:]
        if len(scale) == 1:
            out = layer_norm(blocks, shape, scale.expand(shape), shift.expand(shape), eps)
        else:
            own = layer_norm(blocks, shape, eps=eps)
            out = torch.addcmul(shift.unsqueeze(-2), own, scale.unsqueeze(-2))
        pieces.append(out.flatten(-3, -2))
    return torch.cat(pieces, dim=-2) if pieces else e


def _matrix(weight: Tensor, bucket: Bucket) -> Tensor:
    """Weights of a bucket as matrices ``[*, count, rows, columns]``, a view of ``[*, E]``."""
    shape = (*weight.shape[:-1], bucket.count, bucket.rows, bucket.columns)
    return weight[..., bucket.start : bucket.stop].reshape(shape)


def propagate(topology: Topology, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """See :func:`nngraph.kernels.propagate`."""
    parts = []
    buckets = buckets_of(topology)
    sizes = [bucket.stop - bucket.start for bucket in buckets]
    for bucket, own in zip(buckets, torch.split(weight, sizes, dim=-1), strict=True):
        matrix = torch.unflatten(own, -1, (bucket.count, bucket.rows, bucket.columns))
        if to == "target":
            parts.append((bucket.target, matrix @ sets_of(x, bucket.source)))
        else:
            parts.append((bucket.source, matrix.mT @ sets_of(x, bucket.target)))
    return assemble(topology.num_nodes, x, parts)


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """See :func:`nngraph.kernels.propagate_level`."""
    buckets = topology.levels[level].buckets
    if to == "target":
        size = topology.levels[level].size
        parts = [(b.target, _matrix(weight, b) @ sets_of(x, b.source)) for b in buckets]
    else:
        size = sum(topology.levels[before].size for before in heard_levels(topology, level))
        parts = [(b.source, _matrix(weight, b).mT @ sets_of(x, b.target)) for b in buckets]
    return assemble(size, x, parts)
