"""Who is connected to whom, in the form the kernels read: blocks of equal shape side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import Architecture
from nngraph.graph.topology.build import build
from nngraph.graph.topology.irregular import of_edges
from nngraph.graph.topology.parts import Bucket, Meetings, Nodes

__all__ = ["Topology"]


@dataclass(frozen=True, eq=False)
class Topology:
    """The structure of one architecture, or of a batch of networks of any architectures.

    Features are ``[*, N, C]`` on nodes and ``[*, E, C]`` on edges. For a *stacked* batch the
    leading shape is ``(B,)`` and the topology is that of the one architecture. For a *ragged* batch
    there is no leading shape: nodes are network by network, as PyG orders them, and edges are
    brought into buckets, so that blocks of equal shape of different networks lie side by side;
    ``edge_order`` maps this order to PyG's. An *irregular* topology (:meth:`of_edges`) is that of
    any graph: its edges are in no blocks, and only the index kernels serve it.

    What is as long as the edges is made when it is first asked for.

    Attributes:
        num_nodes, num_edges: N and E, over all networks.
        num_graphs: number of networks that the topology itself spans (1 when stacked).
        node_group: ``[N]`` group of each node, counted over the whole batch.
        node_graph, block_graph, group_graph: network of each node, block, group.
        node_role: ``[N]`` input 0, hidden 1, output 2.
        node_position: ``[N]`` place within the group.
        node_moves: ``[N]`` whether some relabelling moves the neuron, so that its place says
            nothing.
        node_level, block_level: distance from the input group, in blocks; a block has the level of
            its target.
        node_height: distance to the output group.
        max_inputs, max_outputs: the most of one network.
        max_tensors: the most groups and blocks of one network, together.
        output_rows: for each level that has output neurons (several only where depths are mixed),
            which of its neurons they are.
        level_order: ``[N]`` place of each neuron in the order of levels.
        group_level: as ``node_level``, per group.
        node_mask: ``[N, F]`` whether a parameter fills each column of the node features; F is the
            most of any architecture.
        node_columns: ``[N, F]`` of what kind that parameter is, an index into
            :data:`~nngraph.graph.topology.kinds.COLUMN_KINDS`.
        block_kind: ``[K]`` what each block is, an index into
            :data:`~nngraph.graph.topology.kinds.BLOCK_KINDS`.
        kernel_size: ``[K, 3]`` sizes of each block's kernel along its axes, 1 where it has none.
        output_place: ``[N]`` place of an output neuron among those of its network, else -1.
        in_level_order: whether neurons stand level by level already.
        buckets: maximal runs of blocks of equal shape; ``None`` for an irregular topology.
        levels: for each level from 1, the buckets whose targets lie there, with target neurons
            counted within their level. Source neurons are counted within the level before, or, at
            levels of ``level_skips``, within all levels before, one after another.
        level_skips: for each level from 1, whether it hears of others than the level before.
        level_nodes: for each level from 0, its neurons.
        places: the distinct pairs of ``node_level`` and ``node_height``, each with its neurons;
            together they are all neurons.
        level_activations: for each level from 0, its distinct activations, each with the rows of
            ``level_nodes`` that apply it; ``None`` for all of them.
        activations, node_activation: distinct activations, and ``[N]`` which of them each neuron
            has.
        meetings: where the rows and columns of blocks meet; ``None`` for an irregular topology.
        blocks: ``[K, 6]`` rows, columns, parts of each block, its first source and target neuron,
            and its first edge in PyG's order.
        reordered: whether the edges stand in another order than PyG's.
        ends: source and target of each edge of an irregular topology.
        num_taps: weights on an edge, the most of any architecture.
        chains: whether all networks are chains of affine maps.
    """

    num_nodes: int
    num_edges: int
    num_graphs: int
    node_group: Tensor
    node_graph: Tensor
    block_graph: Tensor
    group_graph: Tensor
    node_role: Tensor
    node_position: Tensor
    node_moves: Tensor
    node_level: Tensor
    node_height: Tensor
    node_mask: Tensor
    node_columns: Tensor
    output_place: Tensor
    in_level_order: bool
    output_rows: dict[int, Tensor]
    level_order: Tensor
    max_inputs: int
    max_outputs: int
    group_level: Tensor
    block_level: Tensor
    block_kind: Tensor
    kernel_size: Tensor
    in_degree: Tensor
    out_degree: Tensor
    block_size: Tensor
    group_size: Tensor
    buckets: tuple[Bucket, ...] | None
    levels: tuple[tuple[Bucket, ...], ...]
    level_skips: tuple[bool, ...]
    level_nodes: tuple[Nodes, ...]
    places: tuple[tuple[int, int, Nodes], ...]
    level_activations: tuple[tuple[tuple[Activation, Tensor | None], ...], ...]
    activations: tuple[Activation, ...]
    node_activation: Tensor
    blocks: Tensor
    reordered: bool
    architectures: tuple[Architecture, ...]
    meetings: Meetings | None = None
    max_tensors: int = 2
    ends: tuple[Tensor, Tensor] | None = None
    num_taps: int = 1
    chains: bool = False
    _moved: dict[torch.device, Topology] = field(default_factory=dict, repr=False)
    _made: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, architecture: Architecture) -> Topology:
        """Return the topology of one architecture, for single networks and stacks; cached."""
        return _of_architecture(architecture)

    @classmethod
    def of_batch(cls, architectures: Sequence[Architecture]) -> Topology:
        """Return the topology of networks side by side, as a PyG ``Batch`` orders them; cached."""
        if not architectures:
            raise InvalidGraphError("the batch has no networks; expected at least one.")
        return _of_architectures(tuple(architectures))

    @classmethod
    def of_edges(
        cls, edge_index: Tensor, num_nodes: int, batch: Tensor | None = None
    ) -> Topology:
        """Return the topology of any graph: each graph is one group of hidden neurons.

        Args:
            edge_index: ``[2, E]``, edges in any order.
            batch: ``[N]`` graph of each node, as PyG counts them; default one graph.

        Raises:
            InvalidGraphError: if the edges name nodes that are not there, or join two graphs.
        """
        return of_edges(cls, edge_index, num_nodes, batch)

    def to(self, device: torch.device | str) -> Topology:
        """Return the topology with its index tensors on ``device``; each copy is made once."""
        device = torch.device(device)
        if self.node_group.device == device:
            return self
        if device not in self._moved:
            self._moved[device] = _move(self, device)
        return self._moved[device]

    @property
    def single(self) -> Architecture:
        """The one architecture of a stacked batch.

        Raises:
            InvalidGraphError: if the topology is that of several networks side by side, or of no
                architecture.
        """
        if self.num_graphs != 1 or not self.architectures:
            raise InvalidGraphError(
                f"the batch holds {self.num_graphs} networks side by side; expected one "
                "architecture. Stack networks of one architecture in a NeuralGraphStack."
            )
        return self.architectures[0]

    @property
    def node_has_bias(self) -> Tensor:
        """``[N]`` whether the neuron has a bias at all."""
        return self.node_mask[:, 0]

    # -- as long as the edges ---------------------------------------------------------------------

    @property
    def edge_block(self) -> Tensor:
        """``[E]`` block of each edge, counted over the whole batch in the order of edges."""
        return self._once("edge_block", self._edge_block)

    @property
    def source(self) -> Tensor:
        """``[E]`` neuron that each edge leaves."""
        return self._once("source", self._source)

    @property
    def target(self) -> Tensor:
        """``[E]`` neuron that each edge enters."""
        return self._once("target", self._target)

    @property
    def edge_order(self) -> Tensor | None:
        """``[E]`` or ``None``: feature ``i`` here is feature ``edge_order[i]`` of the batch."""
        return self._once("edge_order", self._edge_order) if self.reordered else None

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        # Not cached_property: torch.compile cannot pass through its lock.
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _edge_block(self) -> Tensor:
        if self.ends is not None:
            return self.node_graph[self.ends[0]]
        count = torch.arange(len(self.block_size), device=self.block_size.device)
        return count.repeat_interleave(self.block_size, output_size=self.num_edges)

    def _within(self) -> Tensor:
        """``[E]`` place of each edge within its block."""
        starts = self.block_size.cumsum(0) - self.block_size
        places = torch.arange(self.num_edges, device=starts.device)
        return places - starts.index_select(0, self.edge_block)

    def _source(self) -> Tensor:
        if self.ends is not None:
            return self.ends[0]
        rows, columns, _, first, _, _ = self.blocks[self.edge_block].unbind(1)
        within = self._within()
        return first + within // (rows * columns) * columns + within % columns

    def _target(self) -> Tensor:
        if self.ends is not None:
            return self.ends[1]
        _, columns, _, _, first, _ = self.blocks[self.edge_block].unbind(1)
        return first + self._within() // columns

    def _edge_order(self) -> Tensor:
        return self.blocks[:, 5].index_select(0, self.edge_block) + self._within()


@lru_cache(maxsize=64)
def _of_architecture(architecture: Architecture) -> Topology:
    return build(Topology, (architecture,), reorder=False)


@lru_cache(maxsize=16)
def _of_architectures(architectures: tuple[Architecture, ...]) -> Topology:
    return build(Topology, architectures, reorder=True)


def _move(topology: Topology, device: torch.device) -> Topology:
    def nodes(value: Nodes) -> Nodes:
        index = None if value.index is None else value.index.to(device)
        return Nodes(value.count, value.size, value.start, index)

    def bucket(value: Bucket) -> Bucket:
        return replace(value, source=nodes(value.source), target=nodes(value.target))

    held = {f.name: getattr(topology, f.name) for f in dataclass_fields(topology)}
    fields: dict[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in held.items()
    }
    if topology.buckets is not None:
        fields["buckets"] = tuple(bucket(b) for b in topology.buckets)
    if topology.meetings is not None:
        met = topology.meetings
        orders = (
            None if order is None else order.to(device)
            for order in (met.outgoing, met.incoming, met.nodes)
        )
        fields["meetings"] = Meetings(met.sets, *orders)
    if topology.ends is not None:
        fields["ends"] = tuple(end.to(device) for end in topology.ends)
    fields["levels"] = tuple(tuple(bucket(b) for b in level) for level in topology.levels)
    fields["level_nodes"] = tuple(nodes(level) for level in topology.level_nodes)
    fields["places"] = tuple((level, height, nodes(n)) for level, height, n in topology.places)
    fields["output_rows"] = {k: rows.to(device) for k, rows in topology.output_rows.items()}
    fields["level_activations"] = tuple(
        tuple((kind, None if rows is None else rows.to(device)) for kind, rows in level)
        for level in topology.level_activations
    )
    fields["_moved"], fields["_made"] = {}, {}
    return Topology(**fields)
