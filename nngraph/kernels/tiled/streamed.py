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

from nngraph.graph import Bucket, Topology
from nngraph.kernels.backends.dense import _assemble, _buckets, _edges
from nngraph.kernels.tiled.fused import EPS, _at_ends, _counts, _normalised, _over_blocks, _steps

__all__ = ["TILE", "StreamedUpdate", "edge_means"]

#: Numbers of a tile's states on a CPU: a few arrays of this size stay in a core's own cache.
TILE = 2**18


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

    def flat(value: Tensor) -> Tensor:
        return value.expand(*lead, *value.shape[-2:]).reshape(-1, *value.shape[-2:])

    tensors: list[Tensor | None] = [flat(taps), encoder, place]
    for update in updates:
        tensors += [update.weight, flat(update.source), flat(update.target)]
        tensors.append(None if update.block is None else flat(update.block))
    found = _EdgeMeans.apply(topology, normalise, *tensors)  # type: ignore[no-untyped-call]
    incoming, outgoing, blocks = (v.reshape(*lead, *v.shape[-2:]) for v in found)
    return incoming, outgoing, blocks


class _Step(NamedTuple):
    """One update at the ends of a bucket's edges: ``[B, count, columns, C]`` and rows."""

    weight: Tensor
    sources: Tensor
    targets: Tensor


def _states(
    taps: Tensor, encoder: Tensor, place: Tensor, steps: Sequence[_Step], normalise: bool
) -> Tensor:
    """States of a tile after all updates, ``[b, k, r, c, C]``."""
    e = taps @ encoder.mT + place
    for step in steps:
        normal = layer_norm(e, e.shape[-1:], eps=EPS) if normalise else e
        ends = step.targets.unsqueeze(-2) + step.sources.unsqueeze(-3)
        e = e + silu(normal @ step.weight.mT + ends)
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
        normal = _normalised(e)[0] if normalise else e
        total = torch.add(step.targets.unsqueeze(-2), step.sources.unsqueeze(-3))
        total.view(-1, e.shape[-1]).addmm_(normal.view(-1, e.shape[-1]), step.weight.mT)
        e += torch.nn.functional.silu(total, inplace=True)
    return e


def _tiles(bucket: Bucket, networks: int, channels: int) -> list[tuple[slice, slice, slice]]:
    """Cut a bucket into networks, arrays and rows."""
    rows = max(1, TILE // (bucket.columns * channels))
    arrays = max(1, rows // bucket.rows)
    return [
        (some, part, row)
        for some in _steps(networks, max(1, arrays // bucket.count))
        for part in _steps(bucket.count, arrays)
        for row in _steps(bucket.rows, rows)
    ]


def _parted(bucket: Bucket, place: Tensor, first: int) -> Tensor:
    """What each array of a bucket starts from, ``[count, 1, 1, C]``: a row of its block."""
    own = place[first : first + bucket.count // bucket.parts]
    return own.repeat_interleave(bucket.parts, 0).view(bucket.count, 1, 1, -1)


class _EdgeMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, topology: Topology, normalise: bool, *tensors: Any) -> Any:
        taps, encoder, place = tensors[:3]
        groups = [tensors[i : i + 4] for i in range(3, len(tensors), 4)]
        channels = encoder.shape[0]
        shape = (len(taps), topology.num_nodes, channels)
        like = taps.new_empty(shape)
        at_targets, at_sources, at_blocks, first = [], [], [], 0
        for bucket in _buckets(topology):
            steps = [
                _Step(weight, *_at_ends(bucket, source, target, block, first))
                for weight, source, target, block in groups
            ]
            starts, edges = _parted(bucket, place, first), _edges(taps, bucket)
            sizes = (len(taps), bucket.count)
            incoming = taps.new_empty(*sizes, bucket.rows, channels)
            outgoing = taps.new_zeros(*sizes, bucket.columns, channels)
            for networks, arrays, rows in _tiles(bucket, len(taps), channels):
                cut = [
                    _Step(s.weight, s.sources[networks, arrays], s.targets[networks, arrays, rows])
                    for s in steps
                ]
                part = edges[networks, arrays, rows]
                e = _states_in_place(part, encoder, starts[arrays], cut, normalise)
                torch.sum(e, -2, out=incoming[networks, arrays, rows])
                outgoing[networks, arrays] += e.sum(-3)
            at_targets.append((bucket.target, incoming))
            at_sources.append((bucket.source, outgoing))
            at_blocks.append(_over_blocks(bucket, incoming))
            first += at_blocks[-1].shape[1]
        counts = _counts(topology, taps)
        ctx.topology, ctx.normalise = topology, normalise
        ctx.save_for_backward(*tensors)
        return (
            _assemble(topology.num_nodes, like, at_targets) / counts[0],
            _assemble(topology.num_nodes, like, at_sources) / counts[1],
            torch.cat([like[:, :0], *at_blocks], dim=1) / counts[2],
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        topology: Topology = ctx.topology
        tensors = ctx.saved_tensors
        taps, encoder, place = tensors[:3]
        groups = [tensors[i : i + 4] for i in range(3, len(tensors), 4)]
        needed = ctx.needs_input_grad[2:]
        to_target, to_source, to_block = (
            gradient / count
            for gradient, count in zip(gradients, _counts(topology, taps), strict=True)
        )
        totals = [
            torch.zeros_like(value) if value is not None and need else None
            for value, need in zip(tensors, needed, strict=True)
        ]
        first = 0
        for bucket in _buckets(topology):
            blocks = slice(first, first + bucket.count // bucket.parts)
            from_source, from_target = _at_ends(bucket, to_source, to_target, to_block, first)
            steps = [
                _Step(weight, *_at_ends(bucket, source, target, block, first))
                for weight, source, target, block in groups
            ]
            starts, edges = _parted(bucket, place, first), _edges(taps, bucket)
            made = [torch.zeros_like(end) for step in steps for end in step[1:]]
            at_start = torch.zeros_like(starts)
            for networks, arrays, rows in _tiles(bucket, len(taps), encoder.shape[0]):
                inputs = [edges[networks, arrays, rows], encoder, starts[arrays]]
                for step in steps:
                    inputs += [
                        step.weight, step.sources[networks, arrays],
                        step.targets[networks, arrays, rows],
                    ]  # fmt: skip
                inputs = [value.detach() for value in inputs]
                wanted = [needed[0], True, True] + [True] * (3 * len(steps))
                for value, want in zip(inputs, wanted, strict=True):
                    value.requires_grad_(want)
                with torch.enable_grad():
                    cut = [_Step(*inputs[i : i + 3]) for i in range(3, len(inputs), 3)]
                    e = _states(inputs[0], inputs[1], inputs[2], cut, ctx.normalise)
                above = from_target[networks, arrays, rows].unsqueeze(-2) + from_source[
                    networks, arrays
                ].unsqueeze(-3)
                asked = [value for value, want in zip(inputs, wanted, strict=True) if want]
                found = iter(torch.autograd.grad(e, asked, above))
                if totals[0] is not None:
                    _edges(totals[0], bucket)[networks, arrays, rows] = next(found)
                _add(totals[1], next(found))
                at_start[arrays] += next(found)
                for i in range(len(steps)):
                    _add(totals[3 + 4 * i], next(found))
                    made[2 * i][networks, arrays] += next(found)
                    made[2 * i + 1][networks, arrays, rows] += next(found)
            if totals[2] is not None:
                parts = torch.unflatten(at_start.flatten(1), 0, (-1, bucket.parts))
                totals[2][blocks] += parts.sum(1)
            for i in range(len(steps)):
                _broadcast(totals[4 + 4 * i], bucket.source, made[2 * i])
                _broadcast(totals[5 + 4 * i], bucket.target, made[2 * i + 1])
                if (total := totals[6 + 4 * i]) is not None:
                    total[:, blocks] += _over_blocks(bucket, made[2 * i + 1])
            first = blocks.stop
        return None, None, *totals


def _add(total: Tensor | None, value: Tensor) -> None:
    if total is not None:
        total += value


def _broadcast(total: Tensor | None, nodes: Any, value: Tensor) -> None:
    """Add ``[B, count, size, C]`` up at its nodes, in place."""
    if total is None:
        return
    if nodes.index is None:
        total[:, nodes.start : nodes.stop] += value.flatten(1, 2)
    else:
        total.index_add_(1, nodes.index, value.flatten(1, 2))
