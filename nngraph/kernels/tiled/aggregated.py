r"""Several reductions of the same edges at once, with one gradient for all of them.

.. math::
    \frac{\partial L}{\partial e_j} = \frac{g_{\mathrm{mean}}}{n}
    + \frac{g_{\mathrm{std}}}{n} \frac{e_j - \bar e}{\mathrm{std}}
    + \frac{g_{\mathrm{max}} [e_j = \max]}{\#\max} + \dots

is written once, in place of a tensor as long as the edges for each. Dense blocks only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nngraph.graph import Topology
from nngraph.kernels.backends.arrays import buckets_of, edges_of, ends_of
from nngraph.kernels.backends.dense import _broadcast, _fold
from nngraph.kernels.modes import derivatives


def aggregate(
    plain: Any, topology: Topology, e: Tensor, side: str, ops: tuple[str, ...], count: Tensor
) -> Tensor:
    """See :func:`nngraph.kernels.aggregate`; ``count [N, 1]`` of edges is at least 1."""
    return _Aggregate.apply(plain, topology, e, side, ops, count)  # type: ignore[no-any-return, no-untyped-call]


class _Aggregate(torch.autograd.Function):
    """Higher derivatives use the plain form."""

    @staticmethod
    def forward(
        ctx: Any, plain: Any, topology: Topology, e: Tensor, side: str, ops: tuple[str, ...],
        count: Tensor,
    ) -> Tensor:  # fmt: skip
        found: dict[str, Tensor] = {}
        if {"sum", "mean", "std"} & {*ops}:
            found["sum"] = _fold(topology, e, side, "sum")
            found["mean"] = found["sum"] / count
        mean = found.get("mean")
        for op in ops:
            if op == "std" and mean is not None:
                apart = _broadcast(topology, mean, side).sub_(e).square_()
                found[op] = (_fold(topology, apart, side, "sum") / count).sqrt_()
            elif op in ("max", "min"):
                found[op] = _fold(topology, e, side, op)
        out = torch.cat([found[op] for op in ops], dim=-1)
        ctx.plain, ctx.topology, ctx.side, ctx.ops, ctx.count = plain, topology, side, ops, count
        ctx.save_for_backward(e, out, mean)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        e, out, mean = ctx.saved_tensors
        none, side, buckets = (None, None), ctx.side, buckets_of(ctx.topology)
        if torch.is_grad_enabled():
            found = derivatives(lambda e: [ctx.plain(e)], [e], [True], [gradient])
            return *none, *found, None, None, None
        channels = e.shape[-1]
        gradients, values = (torch.split(both, channels, -1) for both in (gradient, out))
        # What is the same for all edges of a neuron, and what multiplies their distance from it.
        shift, slope, extremes = torch.zeros_like(out[..., :channels]), None, []
        for op, given, value in zip(ctx.ops, gradients, values, strict=True):
            if op == "std":
                varies = value > 0
                safe = value.where(varies, torch.ones_like(value))
                slope = given / (ctx.count * safe) * varies
            elif op in ("max", "min"):
                extremes.append((given, value))
            else:
                shift = shift + (given if op == "sum" else given / ctx.count)
        written = torch.empty_like(e)
        rooms = [(bucket, edges_of(e, bucket), edges_of(written, bucket)) for bucket in buckets]
        for bucket, edges, room in rooms:
            if slope is None:
                room.copy_(ends_of(shift, bucket, side))
            else:
                torch.sub(edges, ends_of(mean, bucket, side), out=room)
                room.mul_(ends_of(slope, bucket, side)).add_(ends_of(shift, bucket, side))
        for given, value in extremes:
            # Written as numbers: several times as fast as truth values that are made numbers.
            has_it = torch.empty_like(e)
            for bucket, edges, _ in rooms:
                torch.eq(edges, ends_of(value, bucket, side), out=edges_of(has_it, bucket))
            share = given / _fold(ctx.topology, has_it, side, "sum").clamp_(min=1)
            for bucket, _, room in rooms:
                room.addcmul_(edges_of(has_it, bucket), ends_of(share, bucket, side))
        return *none, written, None, None, None
