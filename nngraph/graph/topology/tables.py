"""Tables of a topology: its neurons, groups, blocks and levels, and the blocks that run as one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from nngraph.graph.activations import Activation

Own = TypeVar("Own", bound="Table")


@dataclass(frozen=True, eq=False)
class Table:
    """Columns, which move to another device together."""

    def to(self: Own, device: torch.device | str) -> Own:
        """Return the table with its tensors on ``device``."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return replace(self, **{name: _moved(value, device) for name, value in held.items()})


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor | Table):
        return value.to(device)
    return tuple(_moved(v, device) for v in value) if isinstance(value, tuple) else value


@dataclass(frozen=True, eq=False)
class Members(Table):
    """Which set each row belongs to, ``[K]``, and how many rows each set has, ``[S]``."""

    index: Tensor
    sizes: Tensor

    @property
    def count(self) -> int:
        """S, the number of sets."""
        return len(self.sizes)

    def joined(self, other: Members) -> Members:
        """Return where these rows and then those of the others belong, of the same sets."""
        return Members(torch.cat([self.index, other.index]), self.sizes + other.sizes)


@dataclass(frozen=True, eq=False)
class Neurons(Table):
    """One row for each neuron, ``[N]``.

    Attributes:
        group: of each, counted over the whole batch, and ``graph``, its network.
        role: input 0, hidden 1, output 2.
        position: within the group.
        output_position: of an output neuron among those of its network, else -1.
        moves: whether some relabelling moves the neuron, so that its position says nothing.
        level: distance from the input group, in blocks.
        depth_from_output: distance to the output group.
        level_order: place in the order of levels.
        in_degree, out_degree: number of edges.
        activation: an index into the topology's ``activations``.
        mask: ``[N, F]`` whether a parameter fills each column; F is the most of any architecture.
        columns: ``[N, F]`` of what kind that parameter is, an index into
            :data:`~nngraph.graph.COLUMN_KINDS`.
    """

    group: Members
    graph: Members
    role: Tensor
    position: Tensor
    output_position: Tensor
    moves: Tensor
    level: Tensor
    depth_from_output: Tensor
    level_order: Tensor
    in_degree: Tensor
    out_degree: Tensor
    activation: Tensor
    mask: Tensor
    columns: Tensor

    @property
    def has_bias(self) -> Tensor:
        """``[N]`` whether the neuron has a bias at all."""
        return self.mask[:, 0]


@dataclass(frozen=True, eq=False)
class Groups(Table):
    """One row for each group, ``[G]``: its network, its number of neurons, and their level."""

    graph: Members
    size: Tensor
    level: Tensor


@dataclass(frozen=True, eq=False)
class Blocks(Table):
    """One row for each block, ``[K]``.

    Attributes:
        graph: network of each.
        level: that of its targets.
        kind: an index into :data:`~nngraph.graph.BLOCK_KINDS`.
        kernel_size: ``[K, 3]`` sizes of its kernel along its axes, 1 where it has none.
        rows, columns, parts: ``parts`` arrays of so many targets and sources.
        size: number of edges.
        source, target: its first neurons.
        edge: its first edge in PyG's order.
    """

    graph: Members
    level: Tensor
    kind: Tensor
    kernel_size: Tensor
    rows: Tensor
    columns: Tensor
    parts: Tensor
    size: Tensor
    source: Tensor
    target: Tensor
    edge: Tensor


@dataclass(frozen=True, eq=False)
class Nodes(Table):
    """Rows of the node features: ``count`` sets of ``size`` neurons each.

    Contiguous rows are a slice, read as a view; others carry their index ``[count * size]``.
    """

    count: int
    size: int
    start: int
    index: Tensor | None

    @property
    def stop(self) -> int:
        """One past the last row, where the rows are contiguous."""
        return self.start + self.count * self.size


@dataclass(frozen=True, eq=False)
class Bucket(Table):
    """``count`` arrays of one shape whose edges ``start:stop`` lie one after the other.

    Their edge features are a view ``[..., count, rows, columns, C]``: row the target, column the
    source. ``parts`` of them in a row make a block, one but for grouped and diagonal blocks; the
    first is block ``first_block``.
    """

    start: int
    stop: int
    count: int
    rows: int
    columns: int
    source: Nodes
    target: Nodes
    parts: int
    first_block: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.count // self.parts


@dataclass(frozen=True, eq=False)
class Level(Table):
    """The neurons at one distance from the inputs.

    Attributes:
        nodes: which they are.
        buckets: the blocks that lead to them, with targets counted within the level, and sources
            within the level before, or, if it ``skips``, within all before, one after another.
        skips: whether it hears of others than the level before.
        activations: the distinct ones, each with its neurons of the level, ``None`` for all.
        outputs: which of its neurons are outputs; ``None`` if none is. Several levels have them
            only where depths are mixed.
    """

    nodes: Nodes
    buckets: tuple[Bucket, ...]
    skips: bool
    activations: tuple[tuple[Activation, Tensor | None], ...]
    outputs: Tensor | None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return self.nodes.count * self.nodes.size


@dataclass(frozen=True, eq=False)
class Meeting(Table):
    """``count`` sets of ``size`` neurons that are an axis of arrays of the same shapes.

    Attributes:
        whole: whether the sets are groups, and not the share of one part of a block in a group.
        rows: number of rows of each array whose columns are the neurons of the set.
        columns: number of columns of each array whose rows are.
    """

    count: int
    size: int
    whole: bool
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Meetings(Table):
    """All sets of neurons at which arrays meet, those alike together.

    Attributes:
        sets: kinds of sets; each array is in one of them by its rows and in one by its columns.
        outgoing, incoming: ``[E]`` edges in the order of the ``rows``, and of the ``columns``, of
            one kind of set after the other; ``None`` if that is their own order.
        nodes: ``[N]`` neurons in the order of the sets that are groups; ``None`` likewise.
    """

    sets: tuple[Meeting, ...]
    outgoing: Tensor | None
    incoming: Tensor | None
    nodes: Tensor | None
