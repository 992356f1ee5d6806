"""A function of each edge, its two ends and its block in one pass over the edges, each way.

Edges are visited in tiles. What the function makes on its way is forgotten after each tile and made
again in the backward pass: of the size of the edges only what is asked for is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nngraph.graph import Bucket, Topology
from nngraph.kernels.backends.arrays import assemble, block_rows, buckets_of, edges_of, sets_of
from nngraph.kernels.modes import derivatives
from nngraph.kernels.tiled.tiles import Tile, accumulate, flat, over_blocks, tiles

#: What a function reads and where what it makes goes: an edge, where it stays, a neuron at one
#: end, or the block, where it is summed.
Place = str
#: (features of each place that is read, parameters) -> one tensor for each place that is written.
EdgeFunction = Callable[..., Sequence[Tensor]]


class MapGiven(NamedTuple):
    """What a map is given beside tensors.

    ``plain`` is its definition; ``read`` is the place of each feature, edges first, and ``to`` of
    what it makes. Tiles are cut by ``channels`` of an edge, on a GPU too; 0 for the features', and
    one tile on a GPU.
    """

    plain: Callable[..., tuple[Tensor, ...]]
    topology: Topology
    function: EdgeFunction
    read: tuple[Place, ...]
    to: tuple[Place, ...]
    channels: int


def map_edges(given: MapGiven, *inputs: Tensor) -> tuple[Tensor, ...]:
    """See :func:`nngraph.kernels.map_edges`; inputs are the features and the parameters."""
    features, parameters = inputs[: len(given.read)], inputs[len(given.read) :]
    if not features[0].numel():  # no tile would say how many channels the function makes
        return given.plain(*inputs)
    lead = torch.broadcast_shapes(*(v.shape[:-2] for v in features))  # type: ignore[no-untyped-call]
    found = _Map.apply(given, *(flat(v, lead) for v in features), *parameters)  # type: ignore[no-untyped-call]
    return tuple(value.reshape(*lead, *value.shape[-2:]) for value in found)


def _at(bucket: Bucket, place: Place, features: Tensor) -> Tensor:
    """Features ``[B, count, *, C]`` of a bucket's edges or ends; of a block as of one source."""
    if place == "edge":
        return edges_of(features, bucket)
    if place == "block":
        return block_rows(features, bucket).repeat_interleave(bucket.parts, 1).unsqueeze(2)
    return sets_of(features, bucket.source if place == "source" else bucket.target)


def _cut(tile: Tile, place: Place, array: Tensor) -> Tensor:
    """The part of these in a tile, ``[b, k, r, c, C]`` with axes of size 1."""
    if place == "edge":
        return tile.edges(array)
    return tile.targets(array).unsqueeze(-2) if place == "target" else (
        tile.sources(array).unsqueeze(-3)
    )


def _visit(
    given: MapGiven, features: Sequence[Tensor]
) -> Iterator[tuple[Bucket, Iterator[tuple[Tile, list[Tensor]]]]]:
    """Every bucket, its tiles, and what the function reads of each."""
    e = features[0]
    channels = given.channels or max(1, *(value.shape[-1] for value in features))
    whole = not (given.channels or e.is_cpu)

    def cut(bucket: Bucket) -> Iterator[tuple[Tile, list[Tensor]]]:
        arrays = [_at(bucket, *pair) for pair in zip(given.read, features, strict=True)]
        for tile in tiles(bucket, len(e), channels, whole):
            parts = [_cut(tile, *pair) for pair in zip(given.read, arrays, strict=True)]
            yield tile, [parts[0].contiguous(), *parts[1:]]  # as products want it

    return ((bucket, cut(bucket)) for bucket in buckets_of(given.topology))


class _Sums:
    """What tiles send to the edges, to the neurons at one of their ends or to blocks."""

    def __init__(self, topology: Topology, to: Place, like: Tensor) -> None:
        self.topology, self.to, self.like = topology, to, like
        self.edges: Tensor | None = None
        self.parts: list[tuple[Bucket, Tensor]] = []

    def add(self, bucket: Bucket, tile: Tile, value: Tensor) -> None:
        """Take what a tile sends, ``[b, k, r, c, C]``; axes of size 1 are sums already."""
        if self.to == "edge":
            if self.edges is None:
                edges = self.topology.num_edges
                self.edges = self.like.new_empty(len(self.like), edges, value.shape[-1])
            tile.edges(edges_of(self.edges, bucket)).copy_(value)
            return
        if not self.parts or self.parts[-1][0] is not bucket:
            size = {"target": bucket.rows, "source": bucket.columns}.get(self.to, 1)
            shape = len(self.like), bucket.count, size, value.shape[-1]
            self.parts.append((bucket, self.like.new_empty(shape)))
        room = self.parts[-1][1]
        if self.to == "target":
            torch.sum(value, -2, out=tile.targets(room))
        else:
            accumulate(tile, value if self.to == "source" else value.sum(-2, keepdim=True), room)

    def total(self) -> Tensor:
        """All of it: ``[B, E, C]``, ``[B, N, C]`` or ``[B, K, C]``."""
        if self.edges is not None:
            return self.edges
        if self.to == "block":
            return torch.cat([over_blocks(bucket, room) for bucket, room in self.parts], dim=1)
        ends = [(b.target if self.to == "target" else b.source, room) for b, room in self.parts]
        return assemble(self.topology.num_nodes, self.like, ends)


def _made(given: MapGiven, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the function makes of a tile, numbers of its own for each edge."""
    shape = inputs[0].shape[:-1]
    return [
        value if value.shape[:-1] == shape else value.expand(*shape, value.shape[-1])
        for value in given.function(*inputs)
    ]


class _Map(torch.autograd.Function):
    """The map with a backward pass of its own; higher derivatives use the plain form."""

    @staticmethod
    def forward(ctx: Any, given: MapGiven, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.given = given
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        count = len(given.read)
        out = [_Sums(given.topology, to, inputs[0]) for to in given.to]
        for bucket, cut in _visit(given, inputs[:count]):
            for tile, parts in cut:
                made = _made(given, (*parts, *inputs[count:]))
                for sums, value in zip(out, made, strict=True):
                    sums.add(bucket, tile, value)
        return tuple(sums.total() for sums in out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given: MapGiven = ctx.given
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        needed, count = ctx.needs_input_grad[1:], len(given.read)
        if torch.is_grad_enabled():
            return None, *derivatives(given.plain, inputs, needed, gradients)
        out = [
            _Sums(given.topology, place, inputs[0])
            for place, need in zip(given.read, needed, strict=False) if need
        ]  # fmt: skip
        totals = [
            torch.zeros_like(value)
            for value, need in zip(inputs[count:], needed[count:], strict=True) if need
        ]  # fmt: skip
        for bucket, cut in _visit(given, inputs[:count]):
            above = [
                None if gradient is None else _at(bucket, to, gradient)
                for to, gradient in zip(given.to, gradients, strict=True)
            ]
            for tile, parts in cut:
                found = _of_tile(given, tile, (*parts, *inputs[count:]), needed, above)
                for sums in out:
                    sums.add(bucket, tile, next(found))
                for total in totals:
                    total += next(found)
        made = iter([*(sums.total() for sums in out), *totals])
        return None, *(next(made) if need else None for need in needed)


def _of_tile(
    given: MapGiven, tile: Tile, inputs: Sequence[Tensor], needed: Sequence[bool],
    above: Sequence[Tensor | None],
) -> Iterator[Tensor]:  # fmt: skip
    """Gradients of those inputs of a tile that need one."""
    own = [v.detach().requires_grad_(need) for v, need in zip(inputs, needed, strict=True)]
    with torch.enable_grad():
        made = _made(given, own)
    # What goes to several places is one output: few of its gradients are as large as the tile.
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    for value, to, gradient in zip(made, given.to, above, strict=True):
        if gradient is not None and value.requires_grad:
            part, before = _cut(tile, to, gradient), pairs.get(id(value))
            pairs[id(value)] = value, part if before is None else before[1] + part
    asked = [value for value in own if value.requires_grad]
    if not pairs:
        return (torch.zeros_like(value) for value in asked)
    values = [value for value, _ in pairs.values()]
    gradients = [gradient.expand_as(value) for value, gradient in pairs.values()]
    return iter(torch.autograd.grad(values, asked, gradients, materialize_grads=True))
