r"""The edge update of message passing in one pass over the edges, forward and backward.

.. math:: e'_{ij} = e_{ij} + \mathrm{silu}(\hat e_{ij} A^T + s_j + t_i + b_{k(ij)})

with the means of e' at both ends and over each block. Edges are visited in tiles that stay in a
core's cache from the norm to the sums; of the size of the edges only e' is made, and, unless the
backward pass is to recompute them, what enters the product and the silu. Dense blocks only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nngraph.graph import Bucket, Topology
from nngraph.kernels.backends.dense import _assemble, _buckets, _edges, _take
from nngraph.kernels.modes import follows_operations

__all__ = ["EPS", "TILE", "Given", "Updated", "applied", "edge_update"]

#: Under the root of the norm, as in ``torch.nn.LayerNorm``.
EPS = 1e-5
#: Numbers of a tile on a CPU: a few arrays of this size stay in a core's own cache.
TILE = 2**18

#: e', its means at targets ``[*, N, C]``, at sources, and over blocks ``[*, K, C]``.
Updated = tuple[Tensor, Tensor, Tensor, Tensor]
#: The definition, in operations that torch differentiates: (e, weight, source, target, block).
Plain = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Updated]


class Given(NamedTuple):
    """What an update is given beside tensors."""

    plain: Plain
    topology: Topology
    normalise: bool
    recompute: bool


def edge_update(
    given: Given,
    e: Tensor,
    weight: Tensor,
    source: Tensor,
    target: Tensor,
    block: Tensor | None,
) -> Updated:
    """See :func:`nngraph.kernels.edge_update`."""
    if follows_operations(e):
        return given.plain(e, weight, source, target, block)
    return applied(_EdgeUpdate, given, e, weight, source, target, block)


def applied(
    function: type[torch.autograd.Function],
    given: Given,
    e: Tensor,
    weight: Tensor,
    source: Tensor,
    target: Tensor,
    block: Tensor | None,
) -> Updated:
    """Apply a function of features ``[B, *, C]`` to those of any leading shape."""
    lead = e.shape[:-2]
    flat = [
        value.expand(*lead, *value.shape[-2:]).reshape(-1, *value.shape[-2:])
        for value in (e, source, target, *(() if block is None else (block,)))
    ]
    found = function.apply(given, flat[0], weight, *flat[1:])  # type: ignore[no-untyped-call]
    edges, incoming, outgoing, blocks = (
        value.reshape(*lead, *value.shape[-2:]) for value in found
    )
    return edges, incoming, outgoing, blocks


class _Tile(NamedTuple):
    """A slice of networks, of arrays and of rows of a bucket."""

    networks: slice
    arrays: slice
    rows: slice

    def edges(self, array: Tensor) -> Tensor:
        """Its part of ``[B, count, rows, columns, C]``, a view."""
        return array[self.networks, self.arrays, self.rows]

    def targets(self, array: Tensor) -> Tensor:
        """Its part of ``[B, count, rows, C]``."""
        return array[self.networks, self.arrays, self.rows]

    def sources(self, array: Tensor) -> Tensor:
        """Its part of ``[B, count, columns, C]``."""
        return array[self.networks, self.arrays]


def _steps(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _tiles(
    e: Tensor, bucket: Bucket, channels: int | None = None, size: int | None = None
) -> Iterator[_Tile]:
    """Cut a bucket of ``[B, E, C]`` into tiles: some networks, some arrays, or some rows of one.

    Args:
        channels, size: numbers of an edge and of a tile, if not C and ``TILE``.
    """
    if e.device.type != "cpu":
        yield _Tile(slice(None), slice(None), slice(0, None))
        return
    rows = max(1, (size or TILE) // (bucket.columns * (channels or e.shape[-1])))
    arrays = max(1, rows // bucket.rows)
    for networks in _steps(len(e), max(1, arrays // bucket.count)):
        for some in _steps(bucket.count, arrays):
            for part in _steps(bucket.rows, rows):
                yield _Tile(networks, some, part)


def _normalised(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Edges with mean 0 and variance 1 over channels, and one over their deviation.

    In passes over a tile: torch's own layer norm took three times as long at 64 channels.
    """
    normal = edges - edges.mean(-1, keepdim=True)
    scale = normal.square().mean(-1, keepdim=True).add_(EPS).rsqrt_()
    return normal.mul_(scale), scale.view(-1, 1)


def _entering(
    given: Given, edges: Tensor, weight: Tensor, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What enters the product ``[n, C]``, its scale ``[n, 1]``, and what enters the silu."""
    normal, scale = _normalised(edges) if given.normalise else (edges, None)
    normal = normal.reshape(-1, edges.shape[-1])
    total = torch.add(target.unsqueeze(-2), source.unsqueeze(-3))
    total.view(normal.shape).addmm_(normal, weight.mT)
    return normal, scale, total


def _counts(topology: Topology, like: Tensor) -> list[Tensor]:
    """Edges into and out of each neuron ``[N, 1]``, and of each block ``[K, 1]``, at least 1."""
    counts = (topology.nodes.in_degree, topology.nodes.out_degree, topology.blocks.size)
    return [count.clamp(min=1).to(like.dtype).unsqueeze(-1) for count in counts]


def _at_ends(
    bucket: Bucket, source: Tensor, target: Tensor, block: Tensor | None, first: int
) -> tuple[Tensor, Tensor]:
    """Node features at a bucket's sources and targets; those of its blocks join the targets."""
    at_source, at_target = _take(source, bucket.source), _take(target, bucket.target)
    if block is not None:
        own = block[:, first : first + bucket.count // bucket.parts].unsqueeze(2)
        at_target = at_target + own.expand(-1, -1, bucket.parts, -1).flatten(1, 2).unsqueeze(2)
    return at_source, at_target


def _over_blocks(bucket: Bucket, at_target: Tensor) -> Tensor:
    """Sum of ``[B, count, rows, C]`` over each block, ``[B, blocks, C]``."""
    return torch.unflatten(at_target.sum(2), 1, (-1, bucket.parts)).sum(2)


class _EdgeUpdate(torch.autograd.Function):
    """The update with a backward pass of its own; higher derivatives use the plain form."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Given,
        e: Tensor,
        weight: Tensor,
        source: Tensor,
        target: Tensor,
        block: Tensor | None = None,
    ) -> Updated:
        topology = given.topology
        out = torch.empty_like(e)
        kept: list[Tensor | None] = []
        at_targets, at_sources, at_blocks, first = [], [], [], 0
        for bucket in _buckets(topology):
            sources, targets = _at_ends(bucket, source, target, block, first)
            edges, written = _edges(e, bucket), _edges(out, bucket)
            incoming, outgoing = torch.empty_like(targets), torch.empty_like(sources)
            for tile in _tiles(e, bucket):
                part, made = tile.edges(edges), tile.edges(written)
                normal, scale, total = _entering(
                    given, part, weight, tile.sources(sources), tile.targets(targets)
                )
                torch.add(part, torch.nn.functional.silu(total), out=made)
                torch.sum(made, -2, out=tile.targets(incoming))
                _accumulate(tile, made, outgoing)
                if not given.recompute:
                    kept += [normal, scale, total]
            at_targets.append((bucket.target, incoming))
            at_sources.append((bucket.source, outgoing))
            at_blocks.append(_over_blocks(bucket, incoming))
            first += at_blocks[-1].shape[1]
        counts = _counts(topology, e)
        ctx.given = given
        ctx.save_for_backward(e, weight, source, target, block, *kept)
        ctx.set_materialize_grads(False)
        return (
            out,
            _assemble(topology.num_nodes, e, at_targets) / counts[0],
            _assemble(topology.num_nodes, e, at_sources) / counts[1],
            torch.cat([e[:, :0], *at_blocks], dim=1) / counts[2],
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given: Given = ctx.given
        saved = ctx.saved_tensors
        inputs, kept = saved[:5], iter(saved[5:])
        if torch.is_grad_enabled():
            return None, *_differentiable(given, inputs, ctx.needs_input_grad[1:], gradients)
        topology = given.topology
        e, weight, source, target, block = inputs
        above = gradients[0]
        counts = _counts(topology, e)
        to_target, to_source, to_block = (
            None if gradient is None else gradient / count
            for gradient, count in zip(gradients[1:], counts, strict=True)
        )
        to_target = torch.zeros_like(target) if to_target is None else to_target
        to_source = torch.zeros_like(source) if to_source is None else to_source
        grad_e, grad_weight = torch.empty_like(e), torch.zeros_like(weight)
        at_targets, at_sources, at_blocks, first = [], [], [], 0
        for bucket in _buckets(topology):
            from_source, from_target = _at_ends(bucket, to_source, to_target, to_block, first)
            sources, targets = _at_ends(bucket, source, target, block, first)
            edges, written = _edges(e, bucket), _edges(grad_e, bucket)
            higher = None if above is None else _edges(above, bucket)
            grad_targets, grad_sources = torch.empty_like(targets), torch.empty_like(sources)
            for tile in _tiles(e, bucket):
                if given.recompute:
                    normal, scale, total = _entering(
                        given, tile.edges(edges), weight, tile.sources(sources),
                        tile.targets(targets),
                    )  # fmt: skip
                else:
                    normal, scale, total = next(kept), next(kept), next(kept)
                gradient = torch.add(
                    tile.targets(from_target).unsqueeze(-2), tile.sources(from_source).unsqueeze(-3)
                )
                if higher is not None:
                    gradient += tile.edges(higher)
                inner = torch.ops.aten.silu_backward(gradient, total)
                torch.sum(inner, -2, out=tile.targets(grad_targets))
                _accumulate(tile, inner, grad_sources)
                flat = inner.view(normal.shape)
                grad_weight.addmm_(flat.mT, normal)
                _through_norm(flat @ weight, normal, scale, gradient, tile.edges(written))
            at_targets.append((bucket.target, grad_targets))
            at_sources.append((bucket.source, grad_sources))
            at_blocks.append(_over_blocks(bucket, grad_targets))
            first += at_blocks[-1].shape[1]
        return (
            None,
            grad_e,
            grad_weight,
            _assemble(topology.num_nodes, e, at_sources),
            _assemble(topology.num_nodes, e, at_targets),
            None if block is None else torch.cat([e[:, :0], *at_blocks], dim=1),
        )


def _accumulate(tile: _Tile, edges: Tensor, out: Tensor) -> None:
    """Add edges ``[b, k, r, c, C]`` up over their rows; a tile may hold some of the rows only."""
    if tile.rows.start:
        tile.sources(out).add_(edges.sum(-3))
    else:
        torch.sum(edges, -3, out=tile.sources(out))


def _through_norm(
    gradient: Tensor, normal: Tensor, scale: Tensor | None, beside: Tensor, out: Tensor
) -> None:
    """Write the gradient of what was normalised, plus the one that goes beside the norm.

    Args:
        gradient, normal: of and after the norm, ``[n, C]``.
        scale: of the norm, or ``None`` where there is none.
        beside: ``[b, k, r, c, C]``.
        out: of that shape.
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


def _differentiable(
    given: Given,
    inputs: tuple[Tensor | None, ...],
    needed: tuple[bool, ...],
    gradients: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        out = given.plain(*inputs)  # type: ignore[arg-type]
        pairs = [(o, g) for o, g in zip(out, gradients, strict=True) if g is not None]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs],
                [v for v, need in zip(inputs, needed, strict=False) if need and v is not None],
                [g for _, g in pairs],
                create_graph=True,
                allow_unused=True,
            )
        )
    return tuple(next(found) if need else None for need in needed)
