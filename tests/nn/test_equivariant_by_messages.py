"""Message passing simulates the basis: weights of the real layer by construction, per element.

The features of an entry hold its value in the channel of its tensor and of its place on input and
output neurons, a one-hot code that relabelling leaves alone; results are read with the same code.
An element is then a *walk* from the entries of one tensor to those of another, in steps from an
edge to a neuron at its end and from a neuron to its edges: a step to neurons pools, one to edges
spreads. ``MessagePassingLayer`` makes an edge step and then a neuron step in each round; its SiLUs
let linear maps pass, silu(u) - silu(-u) = u. What no short walk reaches needs its tensor nodes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nngraph.basis import Basis
from nngraph.basis.block import Element
from nngraph.graph import Architecture
from nngraph.graph.topology import Topology
from nngraph.nn import MessagePassingLayer

mlp = Architecture.mlp
#: positions along a chain: 2 l for the neurons of level l, 2 l - 1 for the weights into it
Walk = tuple[int, ...]
ROUNDS = 2


class Messages:
    """Rounds of the layer on one architecture, with weights set for one element at a time."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.topology = Topology.of(architecture)
        self.depth = len(architecture.widths) - 1
        self.tensors = len(self.topology.block_size) + len(self.topology.group_size)
        #: channel of each (tensor, places on the free axes)
        self.channels: dict[tuple[str, tuple[int, ...]], int] = {}
        self.position: dict[str, int] = {}
        self.edge_channel = torch.zeros(architecture.num_edges, dtype=torch.long)
        self.node_channel = torch.full((architecture.num_nodes,), -1)
        for level, block in enumerate(architecture.blocks, start=1):
            self.position[block.parameter.name] = 2 * level - 1
            for i, j in itertools.product(*map(range, block.shape)):
                edge = block.start + i * block.shape[1] + j
                self.edge_channel[edge] = self._channel(block.parameter, (i, j))
        for level, column in enumerate(architecture.columns, start=1):
            self.position[column.parameter.name] = 2 * level
            for i in range(column.stop - column.start):
                self.node_channel[column.start + i] = self._channel(column.parameter, (i,))

    def _channel(self, parameter, places: tuple[int, ...]) -> int:
        fixed = [self.architecture.groups[g].space is None for g in parameter.axes]
        key = parameter.name, tuple(p for p, f in zip(places, fixed, strict=True) if f)
        return self.channels.setdefault(key, len(self.channels))

    def _code(self, channel: Tensor) -> Tensor:
        return (channel.unsqueeze(-1) == torch.arange(len(self.channels))).double()

    def walks(self, element: Element, rounds: int) -> Iterator[Walk]:
        """All walks from the element's source to its target in so many rounds, short ones first."""
        start = self.position[element.term.source.name]
        stop = self.position[element.term.target.name]
        # From a neuron the first round makes two steps, from an edge only the one to a neuron.
        for length in range(2 * rounds + (start % 2 == 0)):
            for steps in itertools.product((1, -1), repeat=length):
                walk = tuple(itertools.accumulate(steps, initial=start))
                if walk[-1] == stop and 0 <= min(walk) and max(walk) <= 2 * self.depth:
                    yield walk

    def run(self, element: Element, way: Walk | str, x: Tensor, e: Tensor, scale: float = 1.0):
        """Entries ``[B, N, 1]``, ``[B, E, 1]`` after rounds whose weights are set for one way.

        ``way`` is a walk, or which tensor nodes are used, ``"tensor"`` or ``"network"``.
        """
        count = len(self.channels)
        term = element.term
        of = self.channels[term.source.name, tuple(map(int, element.source_free))]
        to = self.channels[term.target.name, tuple(map(int, element.target_free))]
        state_x = torch.cat([x * self._code(self.node_channel), 0 * x], dim=-1)
        state_e = torch.cat([e * self._code(self.edge_channel), 0 * e, 0 * e], dim=-1)
        from_edge, to_edge = (self.position[t.name] % 2 for t in (term.source, term.target))
        for layer in self._layers(way, of, bool(from_edge), bool(to_edge), scale):
            state_x, state_e = layer(self.topology, e[..., 0], state_x, state_e)
        read_x = state_x[..., count:] * (self.node_channel == to).unsqueeze(-1)
        read_e = (state_e[..., count] - state_e[..., count + 1]).unsqueeze(-1)
        read_e = read_e * (self.edge_channel == to).unsqueeze(-1)
        return (0 * read_x, read_e) if to_edge else (read_x, 0 * read_e)

    @torch.no_grad()
    def _layers(
        self, way: Walk | str, of: int, from_edge: bool, to_edge: bool, scale: float
    ) -> list[MessagePassingLayer]:
        """One work channel on neurons, a pair on edges; a step empties and fills that of its side.

        The scale undoes what means divide by and spread neurons repeat; it stands in the last step.
        """
        count = len(self.channels)
        nodes, edges = count + 1, count + 2
        node_at, edge_at = torch.eye(nodes).double(), torch.eye(edges).double()
        x, e = node_at[of], edge_at[of]
        work_x, work_e = node_at[count], edge_at[count] - edge_at[count + 1]

        def layer(tensor_nodes: bool = False) -> MessagePassingLayer:
            made = MessagePassingLayer(nodes, edges, norm=False, tensor_nodes=tensor_nodes)
            for parameter in made.parameters():
                parameter.zero_()
            return made.double()

        def hear(made: MessagePassingLayer, part: slice, read: Tensor, scale: float) -> None:
            """Neurons: the work channel takes a linear map of a part of what is heard."""
            made.update[0].weight[0, part] = read
            made.update[0].weight[1, part] = -read
            made.update[3].weight[count, :2] = scale * torch.tensor([1.0, -1.0])

        def tell(weight: Tensor, read: Tensor) -> None:
            """Edges: the work pair takes a linear map of the neuron, block or edge."""
            weight[count], weight[count + 1] = read, -read

        parts = {"self": slice(nodes), "up": slice(3 * nodes, 3 * nodes + edges)}
        parts["down"] = slice(parts["up"].stop, parts["up"].stop + edges)
        if isinstance(way, str):
            made = layer(tensor_nodes=True)
            tensors = made.tensors
            for weight, read in ((tensors.blocks.weight, e), (tensors.groups.weight, x)):
                if (weight is tensors.blocks.weight) == from_edge:
                    weight[0], weight[1] = read, -read
            first, share = (0, 1) if way == "tensor" else (nodes, self.tensors)
            tensors.update.weight[0, first : first + 2] = share * torch.tensor([1.0, -1.0])
            if to_edge:
                tell(made.block.weight, scale * node_at[0])
            else:
                last = made.update[0].in_features
                hear(made, slice(last - nodes, last), node_at[0], scale)
            return [made]
        if len(way) == 1:
            made = layer()
            if from_edge:
                tell(made.edge.weight, e)
            else:
                hear(made, parts["self"], x, 1.0)
            return [made]
        layers = [layer()]
        for number, (here, there) in enumerate(itertools.pairwise(way), start=1):
            up, last = there > here, number == len(way) - 1
            if there % 2 == 0:
                read = e if number == 1 else work_e
                hear(layers[-1], parts["up" if up else "down"], read, scale if last else 1.0)
                continue
            if number > 1:
                layers.append(layer())
                # The last round's value, out of the way of this round's.
                tell(layers[-1].edge.weight, 0 * e)
            read = x if number == 1 else work_x
            side = layers[-1].source if up else layers[-1].target
            tell(side.weight, (scale if last else 1.0) * read)
        return layers
