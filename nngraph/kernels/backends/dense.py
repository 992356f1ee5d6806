"""The primitives on blocks as dense arrays: views, broadcasts, axis sums and matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from nngraph.graph import Bucket, Nodes, Topology
from nngraph.kernels.backends.arrays import (
    assemble,
    axes_of,
    buckets_of,
    edges_of,
    ends_of,
    sets_of,
)
from nngraph.kernels.backends.reference import heard_levels
from nngraph.kernels.modes import follows_operations

_FOLDS: dict[str, Callable[..., Tensor]] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}
_LARGER: dict[str, Callable[..., Tensor]] = {"max": torch.maximum, "min": torch.minimum}
#: Channels from which a row of features is long enough to be copied by itself.
_LONG = 32


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    if follows_operations(x):
        return _joined(topology, x, side)
    return _Gather.apply(topology, x, side)  # type: ignore[no-any-return, no-untyped-call]


def reduce_sum(topology: Topology, e: Tensor, side: str) -> Tensor:
    if follows_operations(e):
        return _fold(topology, e, side, "sum")
    return _Sum.apply(topology, e, side)  # type: ignore[no-any-return, no-untyped-call]


def reduce_extreme(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    if follows_operations(e):
        return _fold(topology, e, side, op)
    return _Extreme.apply(topology, e, side, op)  # type: ignore[no-any-return, no-untyped-call]


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
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
        shape = (*x.shape[:-2], *axes_of(bucket, side), x.shape[-1])
        pieces.append(ends_of(x, bucket, side).expand(shape).flatten(x.dim() - 2, -2))
    return torch.cat(pieces, dim=-2)


def _broadcast(topology: Topology, x: Tensor, side: str) -> Tensor:
    """Write what edges read of their end or block next to one another: ``-> [*, E, C]``."""
    out = x.new_empty(*x.shape[:-2], topology.num_edges, x.shape[-1])
    for bucket in buckets_of(topology):
        edges = edges_of(out, bucket, side)
        if side == "target":
            _repeat(edges, sets_of(x, bucket.target))
        else:
            edges.copy_(ends_of(x, bucket, side))
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
    buckets = buckets_of(topology)
    edges = (edges_of(e, bucket, side) for bucket in buckets)
    if side == "source":
        folded = [_FOLDS[op](part, -3) for part in edges]
    else:
        folded = [_FOLDS[op](_halved(part, op), -2) for part in edges]
    if side == "block":
        return _beside(folded, e[..., :0, :])
    nodes = [bucket.target if side == "target" else bucket.source for bucket in buckets]
    return assemble(topology.num_nodes, e, list(zip(nodes, folded, strict=True)), op)


def _beside(pieces: list[Tensor], none: Tensor) -> Tensor:
    """Pieces ``[*, n, C]`` one after another; ``none`` if there are none."""
    return torch.cat(pieces, dim=-2) if len(pieces) > 1 else [*pieces, none][0]


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
    """One matrix product for each block and head."""
    # The heads come first, so that they are one more axis of the products.
    sources, targets = (
        torch.unflatten(x, -1, (heads, -1)).movedim(-2, 0) for x in (source, target)
    )
    pieces = []
    for bucket in buckets_of(topology):
        product = sets_of(targets, bucket.target) @ sets_of(sources, bucket.source).mT
        pieces.append(product.flatten(-3).movedim(0, -1))
    return _beside(pieces, source.new_zeros(*source.shape[:-2], 0, heads))


def _split(e: Tensor, buckets: Sequence[Bucket], dim: int = -2) -> tuple[Tensor, ...]:
    """Edges by bucket: split at once, so that their gradient is put together in one step."""
    return torch.split(e, [bucket.stop - bucket.start for bucket in buckets], dim)


def multiply_blocks(topology: Topology, e: Tensor, weight: Tensor) -> Tensor:
    buckets = buckets_of(topology)
    pieces = []
    for part, matrices in zip(
        _split(e, buckets), torch.split(weight, [b.blocks for b in buckets]), strict=True
    ):
        if len(matrices) == 1:
            pieces.append(part @ matrices[0].mT)
        else:
            parts = torch.unflatten(part, -2, (len(matrices), -1)) @ matrices.mT
            pieces.append(parts.flatten(-3, -2))
    return _beside(pieces, e.new_zeros(*e.shape[:-1], weight.shape[1]))


def normalise_blocks(
    topology: Topology, e: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """A block's numbers are one layer to torch."""
    buckets = buckets_of(topology)
    counts = [bucket.blocks for bucket in buckets]
    dtype = torch.promote_types(e.dtype, weight.dtype)
    e, weight, bias = e.to(dtype), weight.to(dtype), bias.to(dtype)
    pieces = []
    for part, scale, shift in zip(
        _split(e, buckets), torch.split(weight, counts), torch.split(bias, counts), strict=True
    ):
        blocks = torch.unflatten(part, -2, (len(scale), -1))
        shape = blocks.shape[-2:]
        if len(scale) == 1:
            out = layer_norm(blocks, shape, scale.expand(shape), shift.expand(shape), eps)
        else:
            own = layer_norm(blocks, shape, eps=eps)
            out = torch.addcmul(shift.unsqueeze(-2), own, scale.unsqueeze(-2))
        pieces.append(out.flatten(-3, -2))
    return _beside(pieces, e)


def _messages(
    buckets: Sequence[Bucket], weights: Iterable[Tensor], x: Tensor, to: str
) -> list[tuple[Nodes, Tensor]]:
    """Products of buckets with their weights ``[*, edges]``, and the neurons that they reach."""
    parts = []
    for bucket, own in zip(buckets, weights, strict=True):
        matrix = torch.unflatten(own, -1, axes_of(bucket))
        if to == "target":
            parts.append((bucket.target, matrix @ sets_of(x, bucket.source)))
        else:
            parts.append((bucket.source, matrix.mT @ sets_of(x, bucket.target)))
    return parts


def propagate(topology: Topology, weight: Tensor, x: Tensor, to: str) -> Tensor:
    buckets = buckets_of(topology)
    parts = _messages(buckets, _split(weight, buckets, -1), x, to)
    return assemble(topology.num_nodes, x, parts)


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor, to: str) -> Tensor:
    buckets = topology.levels[level].buckets
    reached = [level] if to == "target" else heard_levels(topology, level)
    parts = _messages(buckets, (weight[..., b.start : b.stop] for b in buckets), x, to)
    return assemble(sum(topology.levels[one].size for one in reached), x, parts)
