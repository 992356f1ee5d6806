"""A function of each edge and its two ends in one pass over the edges, forward and backward.

Edges are visited in tiles. What the function makes on its way is forgotten after each tile and made
again in the backward pass: of the size of the edges only what is asked for is stored. Dense blocks
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nngraph.graph import Bucket, Nodes, Topology
from nngraph.kernels.backends.arrays import assemble, buckets_of, edges_of, sets_of
from nngraph.kernels.modes import derivatives
from nngraph.kernels.tiled.tiles import Tile, accumulate, flat, tiles

#: Where what a function makes of an edge goes: it stays there, or is summed at a neuron.
To = Literal["edge", "source", "target"]
#: (e, source, target, *parameters) -> one tensor for each place.
EdgeFunction = Callable[..., Sequence[Tensor]]


class Given(NamedTuple):
    """What a map is given beside tensors; ``plain`` is its definition, for torch to derive."""

    plain: Callable[..., tuple[Tensor, ...]]
    topology: Topology
    function: EdgeFunction
    to: tuple[To, ...]


def map_edges(
    given: Given, e: Tensor, source: Tensor, target: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """See :func:`nngraph.kernels.map_edges`."""
    features = (e, source, target)
    if not e.numel():  # no tile would say how many channels the function makes
        return given.plain(e, source, target, *parameters)
    lead = torch.broadcast_shapes(*(v.shape[:-2] for v in features))  # type: ignore[no-untyped-call]
    found = _Map.apply(given, *(flat(v, lead) for v in features), *parameters)  # type: ignore[no-untyped-call]
    return tuple(value.reshape(*lead, *value.shape[-2:]) for value in found)


class _Ends(NamedTuple):
    """A bucket, and the features of its sources ``[B, k, c, S]`` and targets ``[B, k, r, T]``."""

    bucket: Bucket
    sources: Tensor
    targets: Tensor

    def of(self, tile: Tile, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a function is given of a tile: ``[b, k, r, c, *]``, with axes of size 1."""
        return (
            tile.edges(edges_of(edges, self.bucket)).contiguous(),  # as products want it
            tile.sources(self.sources).unsqueeze(-3),
            tile.targets(self.targets).unsqueeze(-2),
        )


def _visit(
    topology: Topology, e: Tensor, source: Tensor, target: Tensor
) -> Iterator[tuple[_Ends, Iterator[Tile]]]:
    """Every bucket and its tiles."""
    width = max(1, *(value.shape[-1] for value in (e, source, target)))
    for bucket in buckets_of(topology):
        ends = _Ends(bucket, sets_of(source, bucket.source), sets_of(target, bucket.target))
        yield ends, tiles(bucket, len(e), width, whole=not e.is_cpu)


class _Place:
    """What tiles send to the edges or to the neurons at one of their ends, put together."""

    def __init__(self, topology: Topology, to: To, like: Tensor) -> None:
        self.topology, self.to, self.like = topology, to, like
        self.edges: Tensor | None = None
        self.parts: list[tuple[Nodes, Tensor]] = []

    def begin(self, bucket: Bucket) -> None:
        """Get ready for the tiles of a bucket."""
        self.bucket = bucket
        self.room: Tensor | None = None

    def add(self, tile: Tile, value: Tensor) -> None:
        """Take what a tile sends, ``[b, k, r, c, C]``; axes of size 1 are sums already."""
        if self.room is None:
            self.room = self._room(value.shape[-1])
        if self.to == "edge":
            tile.edges(self.room).copy_(value)
        elif self.to == "target":
            torch.sum(value, -2, out=tile.targets(self.room))
        else:
            accumulate(tile, value, self.room)

    def _room(self, channels: int) -> Tensor:
        networks = len(self.like)
        if self.to == "edge":
            if self.edges is None:
                self.edges = self.like.new_empty(networks, self.topology.num_edges, channels)
            return edges_of(self.edges, self.bucket)
        nodes = self.bucket.target if self.to == "target" else self.bucket.source
        room = self.like.new_empty(networks, nodes.count, nodes.size, channels)
        self.parts.append((nodes, room))
        return room

    def total(self) -> Tensor:
        """All of it: ``[B, E, C]`` or ``[B, N, C]``."""
        if self.edges is not None:
            return self.edges
        return assemble(self.topology.num_nodes, self.like, self.parts)


def _made(given: Given, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the function makes of a tile, numbers of its own for each edge."""
    shape = inputs[0].shape[:-1]
    return [value.expand(*shape, value.shape[-1]) for value in given.function(*inputs)]


class _Map(torch.autograd.Function):
    """The map with a backward pass of its own; higher derivatives use the plain form."""

    @staticmethod
    def forward(
        ctx: Any, given: Given, e: Tensor, source: Tensor, target: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.given = given
        ctx.save_for_backward(e, source, target, *parameters)
        ctx.set_materialize_grads(False)
        out = [_Place(given.topology, to, e) for to in given.to]
        for ends, cut in _visit(given.topology, e, source, target):
            for place in out:
                place.begin(ends.bucket)
            for tile in cut:
                made = _made(given, (*ends.of(tile, e), *parameters))
                for place, value in zip(out, made, strict=True):
                    place.add(tile, value)
        return tuple(place.total() for place in out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given: Given = ctx.given
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *derivatives(given.plain, inputs, needed, gradients)
        e = inputs[0]
        places: tuple[To, ...] = ("edge", "source", "target")
        out = [
            _Place(given.topology, to, e)
            for to, need in zip(places, needed, strict=False)
            if need
        ]
        totals = [
            torch.zeros_like(value)
            for value, need in zip(inputs[3:], needed[3:], strict=True)
            if need
        ]
        for ends, cut in _visit(given.topology, *inputs[:3]):
            above = [
                (to, None if gradient is None else _taken(ends.bucket, to, gradient))
                for to, gradient in zip(given.to, gradients, strict=True)
            ]
            for place in out:
                place.begin(ends.bucket)
            for tile in cut:
                found = _of_tile(given, tile, (*ends.of(tile, e), *inputs[3:]), needed, above)
                for place in out:
                    place.add(tile, next(found))
                for total in totals:
                    total += next(found)
        made = iter([*(place.total() for place in out), *totals])
        return None, *(next(made) if need else None for need in needed)


def _taken(bucket: Bucket, to: To, gradient: Tensor) -> Tensor:
    """Gradients at a bucket's edges, sources or targets."""
    if to == "edge":
        return edges_of(gradient, bucket)
    return sets_of(gradient, bucket.source if to == "source" else bucket.target)


def _of_tile(
    given: Given,
    tile: Tile,
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    above: Sequence[tuple[To, Tensor | None]],
) -> Iterator[Tensor]:
    """Gradients of those inputs of a tile that need one."""
    own = [v.detach().requires_grad_(need) for v, need in zip(inputs, needed, strict=True)]
    with torch.enable_grad():
        made = _made(given, own)
    pairs = []
    for value, (to, gradient) in zip(made, above, strict=True):
        if gradient is None or not value.requires_grad:
            continue
        if to == "edge":
            gradient = tile.edges(gradient)
        elif to == "source":
            gradient = tile.sources(gradient).unsqueeze(-3)
        else:
            gradient = tile.targets(gradient).unsqueeze(-2)
        pairs.append((value, gradient.expand_as(value)))
    asked = [value for value in own if value.requires_grad]
    if not pairs:
        return (torch.zeros_like(value) for value in asked)
    values, gradients = zip(*pairs, strict=True)
    return iter(torch.autograd.grad(values, asked, gradients, materialize_grads=True))
