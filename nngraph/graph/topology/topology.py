"""Who is connected to whom, in the form the kernels read: blocks of equal shape side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import Architecture
from nngraph.graph.topology.build import build
from nngraph.graph.topology.tables import (
    Blocks,
    Bucket,
    Groups,
    Level,
    Meetings,
    Neurons,
    Nodes,
    Table,
)

Made = TypeVar("Made", bound="Tensor | None")


def _once(make: Callable[[Any], Made]) -> Made:
    """Return a property that is made when it is first asked for."""
    name = make.__name__

    # Not cached_property: torch.compile cannot pass through its lock.
    @wraps(make)
    def read(self: Topology) -> Any:
        if name not in self._made:
            self._made[name] = make(self)
        return self._made[name]

    return property(read)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Topology(Table):
    """The structure of one architecture, or of a batch of networks of any architectures.

    Features are ``[*, N, C]`` on nodes and ``[*, E, C]`` on edges. For a *stacked* batch the
    leading shape is ``(B,)`` and the topology is that of the one architecture. A *ragged* batch has
    no leading shape: nodes are network by network, as PyG orders them, and edges are brought into
    buckets, blocks of equal shape of different networks side by side; ``edge_order`` maps this
    order to PyG's. What is as long as the edges is made when it is first asked for.

    Attributes:
        num_nodes, num_edges: N and E, over all networks.
        num_graphs: number of networks that the topology itself spans (1 when stacked).
        nodes, groups, blocks: tables of N, G and K rows.
        levels: the neurons at each distance from the inputs, and the blocks that lead to them.
        buckets: maximal runs of blocks of equal shape; ``None`` for a graph that has no blocks,
            such as :class:`nngraph.testing.IrregularTopology`, which only the index kernels serve.
        meetings: where the rows and columns of blocks meet; ``None`` likewise.
        places: the distinct pairs of ``level`` and ``depth_from_output``, each with its neurons;
            together they are all neurons.
        activations: the distinct ones.
        architectures: of the networks.
        max_inputs, max_outputs: the most of one network.
        max_tensors: the most groups and blocks of one network, together.
        num_taps: weights on an edge, the most of any architecture.
        chains: whether all networks are chains of affine maps.
        in_level_order: whether neurons stand level by level already.
        reordered: whether the edges stand in another order than PyG's.
    """

    num_nodes: int
    num_edges: int
    num_graphs: int
    nodes: Neurons
    groups: Groups
    blocks: Blocks
    levels: tuple[Level, ...]
    buckets: tuple[Bucket, ...] | None
    meetings: Meetings | None
    places: tuple[tuple[int, int, Nodes], ...]
    activations: tuple[Activation, ...]
    architectures: tuple[Architecture, ...]
    max_inputs: int = 0
    max_outputs: int = 0
    max_tensors: int = 2
    num_taps: int = 1
    chains: bool = False
    in_level_order: bool = True
    reordered: bool = False
    _moved: dict[torch.device, Topology] = field(default_factory=dict, init=False, repr=False)
    _made: dict[str, Tensor | None] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(architecture: Architecture) -> Topology:
        """Return the topology of one architecture, for single networks and stacks; cached."""
        return _of_architecture(architecture)

    @staticmethod
    def of_batch(architectures: Sequence[Architecture]) -> Topology:
        """Return the topology of networks side by side, as a PyG ``Batch`` orders them; cached."""
        if not architectures:
            raise InvalidGraphError("the batch has no networks; expected at least one.")
        return _of_architectures(tuple(architectures))

    def to(self, device: torch.device | str) -> Topology:
        """Return the topology with its index tensors on ``device``; each copy is made once."""
        device = torch.device(device)
        if self.nodes.level.device == device:
            return self
        if device not in self._moved:
            self._moved[device] = super().to(device)
        return self._moved[device]

    @property
    def single(self) -> Architecture:
        """The one architecture of a stacked batch; an InvalidGraphError if there is none."""
        if self.num_graphs != 1 or not self.architectures:
            raise InvalidGraphError(
                f"the batch holds {self.num_graphs} networks side by side; expected one "
                "architecture. Stack networks of one architecture in a NeuralGraphStack."
            )
        return self.architectures[0]

    @property
    def output_levels(self) -> tuple[int, ...]:
        """The levels that have output neurons."""
        return tuple(i for i, level in enumerate(self.levels) if level.outputs is not None)

    # -- as long as the edges ---------------------------------------------------------------------

    @_once
    def edge_block(self) -> Tensor:
        """``[E]`` block of each edge, counted over the whole batch in the order of edges."""
        count = torch.arange(len(self.blocks.size), device=self.blocks.size.device)
        return count.repeat_interleave(self.blocks.size, output_size=self.num_edges)

    @_once
    def source(self) -> Tensor:
        """``[E]`` neuron that each edge leaves."""
        first, rows, columns = (
            column.index_select(0, self.edge_block)
            for column in (self.blocks.source, self.blocks.rows, self.blocks.columns)
        )
        within = self._within()
        return first + within // (rows * columns) * columns + within % columns

    @_once
    def target(self) -> Tensor:
        """``[E]`` neuron that each edge enters."""
        first, columns = self.blocks.target[self.edge_block], self.blocks.columns[self.edge_block]
        return first + self._within() // columns

    @_once
    def edge_order(self) -> Tensor | None:
        """``[E]`` or ``None``: feature ``i`` here is feature ``edge_order[i]`` of the batch."""
        if not self.reordered:
            return None
        return self.blocks.edge.index_select(0, self.edge_block) + self._within()

    def _within(self) -> Tensor:
        """``[E]`` place of each edge within its block."""
        starts = self.blocks.size.cumsum(0) - self.blocks.size
        places = torch.arange(self.num_edges, device=starts.device)
        return places - starts.index_select(0, self.edge_block)


@lru_cache(maxsize=64)
def _of_architecture(architecture: Architecture) -> Topology:
    return build(Topology, (architecture,), reorder=False)


@lru_cache(maxsize=16)
def _of_architectures(architectures: tuple[Architecture, ...]) -> Topology:
    return build(Topology, architectures, reorder=True)
