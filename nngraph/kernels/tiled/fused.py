r"""The edge update of message passing in one pass over the edges, forward and backward.

.. math:: e'_{ij} = e_{ij} + \mathrm{silu}(\hat e_{ij} A^T + s_j + t_i + b_{k(ij)})

with the means of e' at both ends and over each block. Edges are visited in tiles that stay in a
core's cache from the norm to the sums; of the size of the edges only e' is made, and, unless the
backward pass is to recompute them, what enters the product and the silu. Dense blocks only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nngraph.graph import Topology
from nngraph.kernels.backends.arrays import buckets_of, edges_of
from nngraph.kernels.modes import derivatives, follows_operations
from nngraph.kernels.tiled.tiles import EPS, Sums, accumulate, at_ends, flat, tiles

#: e', its means at targets ``[*, N, C]``, at sources, and over blocks ``[*, K, C]``.
Updated = tuple[Tensor, Tensor, Tensor, Tensor]


class UpdateGiven(NamedTuple):
    """What an update is given beside its inputs: (e, weight, source, target, block or ``None``).

    ``plain`` is its definition, in operations that torch differentiates.
    """

    plain: Callable[..., Updated]
    topology: Topology
    normalise: bool
    recompute: bool


def edge_update(given: UpdateGiven, e: Tensor, weight: Tensor, *ends: Tensor | None) -> Updated:
    """See :func:`nngraph.kernels.edge_update`."""
    if follows_operations(e):
        return given.plain(e, weight, *ends)
    return applied(_EdgeUpdate, given, e, weight, *ends)


def applied(
    function: type[torch.autograd.Function], given: UpdateGiven, e: Tensor, weight: Tensor,
    *ends: Tensor | None,
) -> Updated:  # fmt: skip
    """Apply a function of features ``[B, *, C]`` to those of any leading shape."""
    lead = e.shape[:-2]
    own = (None if value is None else flat(value, lead) for value in ends)
    found = function.apply(given, flat(e, lead), weight, *own)  # type: ignore[no-untyped-call]
    edges, incoming, outgoing, blocks = (value.reshape(*lead, *value.shape[-2:]) for value in found)
    return edges, incoming, outgoing, blocks


def normalised(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Edges with mean 0 and variance 1 over channels, and one over their deviation.

    In passes over a tile: torch's own layer norm took three times as long at 64 channels.
    """
    normal = edges - edges.mean(-1, keepdim=True)
    scale = normal.square().mean(-1, keepdim=True).add_(EPS).rsqrt_()
    return normal.mul_(scale), scale.view(-1, 1)


def _entering(
    given: UpdateGiven, edges: Tensor, weight: Tensor, total: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What enters the product ``[n, C]``, its scale ``[n, 1]``, and what enters the silu.

    The last is added to ``total``, what both ends say.
    """
    normal, scale = normalised(edges) if given.normalise else (edges, None)
    normal = normal.reshape(-1, edges.shape[-1])
    total.view(normal.shape).addmm_(normal, weight.mT)
    return normal, scale, total


class _EdgeUpdate(torch.autograd.Function):
    """The update with a backward pass of its own; higher derivatives use the plain form."""

    @staticmethod
    def forward(ctx: Any, given: UpdateGiven, *inputs: Any) -> Updated:
        e, weight, *ends = inputs
        out, sums = torch.empty_like(e), Sums(given.topology, e[:, :0])
        kept: list[Tensor | None] = []
        for bucket in buckets_of(given.topology):
            sources, targets = at_ends(bucket, *ends)
            edges, written = edges_of(e, bucket), edges_of(out, bucket)
            incoming, outgoing = torch.empty_like(targets), torch.empty_like(sources)
            for tile in tiles(bucket, len(e), e.shape[-1], whole=not e.is_cpu):
                part, made = tile.edges(edges), tile.edges(written)
                normal, scale, total = _entering(given, part, weight, tile.ends(sources, targets))
                torch.add(part, torch.nn.functional.silu(total), out=made)
                torch.sum(made, -2, out=tile.targets(incoming))
                accumulate(tile, made, outgoing)
                if not given.recompute:
                    kept += [normal, scale, total]
            sums.add(bucket, incoming, outgoing)
        ctx.given = given
        ctx.save_for_backward(*inputs, *kept)
        ctx.set_materialize_grads(False)
        return (out, *sums.means())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given: UpdateGiven = ctx.given
        saved = ctx.saved_tensors
        inputs, kept = saved[:5], iter(saved[5:])
        if torch.is_grad_enabled():
            return None, *derivatives(given.plain, inputs, ctx.needs_input_grad[1:], gradients)
        e, weight, *ends = inputs
        above, *of_means = gradients
        grad_e, grad_weight = torch.empty_like(e), torch.zeros_like(weight)
        sums = Sums(given.topology, e[:, :0])
        to_ends = sums.gradients(of_means)
        for bucket in buckets_of(given.topology):
            from_source, from_target = at_ends(bucket, *to_ends)
            sources, targets = at_ends(bucket, *ends)
            edges, written = edges_of(e, bucket), edges_of(grad_e, bucket)
            higher = None if above is None else edges_of(above, bucket)
            grad_targets, grad_sources = torch.empty_like(targets), torch.empty_like(sources)
            for tile in tiles(bucket, len(e), e.shape[-1], whole=not e.is_cpu):
                if given.recompute:
                    normal, scale, total = _entering(
                        given, tile.edges(edges), weight, tile.ends(sources, targets)
                    )
                else:
                    normal, scale, total = next(kept), next(kept), next(kept)
                gradient = tile.ends(from_source, from_target)
                if higher is not None:
                    gradient += tile.edges(higher)
                inner = torch.ops.aten.silu_backward(gradient, total)
                torch.sum(inner, -2, out=tile.targets(grad_targets))
                accumulate(tile, inner, grad_sources)
                flat = inner.view(normal.shape)
                grad_weight.addmm_(flat.mT, normal)
                _through_norm(flat @ weight, normal, scale, gradient, tile.edges(written))
            sums.add(bucket, grad_targets, grad_sources)
        grad_target, grad_source, grad_block = sums.all()
        of_block = None if ends[2] is None else grad_block
        return None, grad_e, grad_weight, grad_source, grad_target, of_block


def _through_norm(
    gradient: Tensor, normal: Tensor, scale: Tensor | None, beside: Tensor, out: Tensor
) -> None:
    """Write the gradient of what was normalised, plus the one beside the norm, ``[b, k, r, c, C]``.

    The gradient after the norm and what it gave are ``[n, C]``; ``scale`` is ``None`` without one.
    """
    if scale is None:
        torch.add(beside, gradient.view(beside.shape), out=out)
        return
    # On a GPU torch keeps means and deviations of features of 16 bits in 32.
    wide = torch.float32 if scale.is_cuda and scale.itemsize == 2 else scale.dtype
    zero, one = torch.zeros_like(scale, dtype=wide), torch.ones_like(scale, dtype=wide)
    found = torch.ops.aten.native_layer_norm_backward(
        gradient, normal, [normal.shape[-1]], zero, one, None, None, [True, False, False]
    )[0]
    scale = scale.view(*beside.shape[:-1], 1)
    torch.addcmul(beside, found.view(beside.shape), scale, out=out)
