r"""Edge states that are never stored: recomputed, tile by tile, from the weights themselves.

The state of an edge after some updates depends on its weights and on the neurons at its ends:

.. math::
    e^0_{ij} = E w_{ij} + p_{k(ij)}, \qquad
    e^m_{ij} = e^{m-1}_{ij} + \mathrm{silu}(\hat e^{m-1}_{ij} A_m^T + s^m_j + t^m_i + b^m_{k(ij)})

so that a tile of edges needs nothing but the neurons' :math:`s^m, t^m` of all updates. Its sums
are added up and the tile is forgotten; the backward pass makes it again. L rounds so cost
L (L + 1) / 2 updates of each edge, forward, and memory of the neurons alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm, silu

from nngraph.graph import Bucket, Nodes, Topology
from nngraph.kernels.backends.arrays import buckets_of, edges_of
from nngraph.kernels.tiled.fused import normalised
from nngraph.kernels.tiled.tiles import (
    EPS,
    Sums,
    Tile,
    accumulate,
    at_ends,
    counts,
    flat,
    over_blocks,
    tiles,
)


class StreamedUpdate(NamedTuple):
    """One update: ``A [C, C]``, ``s`` and ``t`` ``[*, N, C]``, and ``b [*, K, C]`` or ``None``."""

    weight: Tensor
    source: Tensor
    target: Tensor
    block: Tensor | None


def edge_means(
    topology: Topology, taps: Tensor, encoder: Tensor, place: Tensor,
    updates: Sequence[StreamedUpdate], normalise: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See :func:`nngraph.kernels.streamed_edge_means`."""
    lead = taps.shape[:-2]
    tensors: list[Tensor | None] = [flat(taps, lead), encoder, place]
    for update in updates:
        tensors += [update.weight, flat(update.source, lead), flat(update.target, lead)]
        tensors.append(None if update.block is None else flat(update.block, lead))
    found = _EdgeMeans.apply(topology, normalise, *tensors)  # type: ignore[no-untyped-call]
    incoming, outgoing, blocks = (v.reshape(*lead, *v.shape[-2:]) for v in found)
    return incoming, outgoing, blocks


class _Step(NamedTuple):
    """One update at the ends of a bucket's edges: ``[B, count, columns, C]`` and rows."""

    weight: Tensor
    sources: Tensor
    targets: Tensor

    def of(self, tile: Tile) -> _Step:
        """Its part at the ends of a tile."""
        return _Step(self.weight, tile.sources(self.sources), tile.targets(self.targets))

    def ends(self) -> Tensor:
        """What both ends say together."""
        return torch.add(self.targets.unsqueeze(-2), self.sources.unsqueeze(-3))


def _states(
    taps: Tensor, encoder: Tensor, place: Tensor, steps: Sequence[_Step], normalise: bool
) -> Tensor:
    """States of a tile after all updates, ``[b, k, r, c, C]``."""
    e = taps @ encoder.mT + place
    for step in steps:
        normal = layer_norm(e, e.shape[-1:], eps=EPS) if normalise else e
        e = e + silu(normal @ step.weight.mT + step.ends())
    return e


def _states_in_place(
    taps: Tensor, encoder: Tensor, place: Tensor, steps: Sequence[_Step], normalise: bool
) -> Tensor:
    """The same where no gradient is asked for, in two arrays of the tile's size."""
    if taps.shape[-1] == 1:
        e = torch.addcmul(place, taps, encoder[:, 0])
    else:
        e = (taps @ encoder.mT).add_(place)
    for step in steps:
        normal = normalised(e)[0] if normalise else e
        total = step.ends()
        total.view(-1, e.shape[-1]).addmm_(normal.view(-1, e.shape[-1]), step.weight.mT)
        e += torch.nn.functional.silu(total, inplace=True)
    return e


def _steps(bucket: Bucket, tensors: Sequence[Any]) -> list[_Step]:
    """The updates at a bucket; what they are given comes after the first three tensors."""
    groups = (tensors[i : i + 4] for i in range(3, len(tensors), 4))
    return [_Step(weight, *at_ends(bucket, *ends)) for weight, *ends in groups]


def _parted(bucket: Bucket, place: Tensor) -> Tensor:
    """What each array of a bucket starts from, ``[count, 1, 1, C]``: a row of its block."""
    own = place[bucket.first_block : bucket.first_block + bucket.blocks]
    return own.repeat_interleave(bucket.parts, 0).view(bucket.count, 1, 1, -1)


class _EdgeMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, topology: Topology, normalise: bool, *tensors: Any) -> Any:
        taps, encoder, place = tensors[:3]
        channels = encoder.shape[0]
        sums = Sums(topology, taps.new_empty(len(taps), 0, channels))
        for bucket in buckets_of(topology):
            steps = _steps(bucket, tensors)
            starts, edges = _parted(bucket, place), edges_of(taps, bucket)
            sizes = (len(taps), bucket.count)
            incoming = taps.new_empty(*sizes, bucket.rows, channels)
            outgoing = taps.new_empty(*sizes, bucket.columns, channels)
            for tile in tiles(bucket, len(taps), channels):
                cut = [step.of(tile) for step in steps]
                e = _states_in_place(
                    tile.edges(edges), encoder, starts[tile.arrays], cut, normalise
                )
                torch.sum(e, -2, out=tile.targets(incoming))
                accumulate(tile, e, outgoing)
            sums.add(bucket, incoming, outgoing)
        ctx.topology, ctx.normalise = topology, normalise
        ctx.save_for_backward(*tensors)
        return sums.means()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        topology: Topology = ctx.topology
        tensors = ctx.saved_tensors
        taps, encoder, place = tensors[:3]
        needed = ctx.needs_input_grad[2:]
        to_target, to_source, to_block = (
            gradient / count
            for gradient, count in zip(gradients, counts(topology, taps), strict=True)
        )
        totals = [
            torch.zeros_like(value) if value is not None and need else None
            for value, need in zip(tensors, needed, strict=True)
        ]
        for bucket in buckets_of(topology):
            blocks = slice(bucket.first_block, bucket.first_block + bucket.blocks)
            above = at_ends(bucket, to_source, to_target, to_block)
            steps = _steps(bucket, tensors)
            starts, edges = _parted(bucket, place), edges_of(taps, bucket)
            made = [torch.zeros_like(end) for step in steps for end in step[1:]]
            at_start = torch.zeros_like(starts)
            for tile in tiles(bucket, len(taps), encoder.shape[0]):
                inputs = [tile.edges(edges), encoder, starts[tile.arrays]]
                inputs += [value for step in steps for value in step.of(tile)]
                inputs = [value.detach() for value in inputs]
                wanted = [needed[0], True, True] + [True] * (3 * len(steps))
                for value, want in zip(inputs, wanted, strict=True):
                    value.requires_grad_(want)
                with torch.enable_grad():
                    cut = [_Step(*inputs[i : i + 3]) for i in range(3, len(inputs), 3)]
                    e = _states(inputs[0], inputs[1], inputs[2], cut, ctx.normalise)
                asked = [value for value, want in zip(inputs, wanted, strict=True) if want]
                found = iter(torch.autograd.grad(e, asked, tile.ends(*above)))
                if totals[0] is not None:
                    tile.edges(edges_of(totals[0], bucket)).copy_(next(found))
                _add(totals[1], next(found))
                at_start[tile.arrays] += next(found)
                for i in range(len(steps)):
                    _add(totals[3 + 4 * i], next(found))
                    _add(tile.sources(made[2 * i]), next(found))
                    _add(tile.targets(made[2 * i + 1]), next(found))
            if totals[2] is not None:
                parts = torch.unflatten(at_start.flatten(1), 0, (-1, bucket.parts))
                totals[2][blocks] += parts.sum(1)
            for i in range(len(steps)):
                _add_at(totals[4 + 4 * i], bucket.source, made[2 * i])
                _add_at(totals[5 + 4 * i], bucket.target, made[2 * i + 1])
                if (total := totals[6 + 4 * i]) is not None:
                    total[:, blocks] += over_blocks(bucket, made[2 * i + 1])
        return None, None, *totals


def _add(total: Tensor | None, value: Tensor) -> None:
    if total is not None:
        total += value


def _add_at(total: Tensor | None, nodes: Nodes, value: Tensor) -> None:
    """Add ``[B, count, size, C]`` up at its nodes, in place."""
    if total is None:
        return
    if nodes.index is None:
        total[:, nodes.start : nodes.stop] += value.flatten(1, 2)
    else:
        total.index_add_(1, nodes.index, value.flatten(1, 2))
