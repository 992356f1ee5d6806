"""Message passing simulates the basis: weights by construction, held against the judge's elements.

A round of the library's message passing without its norms and activations is

    x_i  <- X x_i + T sum_j e_ij + S sum_k e_ki          (neurons hear their edges)
    e_ij <- A e_ij + B x_j + C x_i                       (edges hear their neurons)

on features that hold each tensor, and each place of a fixed neuron, in a channel of its own: the
value times a one-hot code of layer and place. An element is then a path through the round with unit
matrices E_tf, from the channel of what is read to the channel of what is written. What no path
reaches needs one more node per tensor, or one for the whole network.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nngraph import kernels
from nngraph.basis import Basis
from nngraph.graph import Architecture
from nngraph.graph.topology import Topology

mlp = Architecture.mlp


class Round:
    """Linear message passing on one architecture, in one channel per tensor and fixed place."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.topology = Topology.of(architecture)
        #: channel of each (tensor, places on the free axes)
        self.channels: dict[tuple[str, tuple[int, ...]], int] = {}
        self.edge_channel = torch.zeros(architecture.num_edges, dtype=torch.long)
        self.node_channel = torch.full((architecture.num_nodes,), -1)
        for block in architecture.blocks:
            for i, j in itertools.product(*map(range, block.shape)):
                edge = block.start + i * block.shape[1] + j
                self.edge_channel[edge] = self._channel(block.parameter, (i, j))
        for column in architecture.columns:
            for i in range(column.stop - column.start):
                self.node_channel[column.start + i] = self._channel(column.parameter, (i,))

    def _channel(self, parameter, places: tuple[int, ...]) -> int:
        fixed = [self.architecture.groups[g].space is None for g in parameter.axes]
        key = parameter.name, tuple(p for p, f in zip(places, fixed, strict=True) if f)
        return self.channels.setdefault(key, len(self.channels))

    def lift(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, N, 1]``, ``[B, E, 1]`` -> one channel per tensor and fixed place."""
        return x * self._code(self.node_channel), e * self._code(self.edge_channel)

    def read(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Each entry's own channel."""
        x = (x * self._code(self.node_channel)).sum(-1, keepdim=True)
        return x, (e * self._code(self.edge_channel)).sum(-1, keepdim=True)

    def _code(self, channel: Tensor) -> Tensor:
        return (channel.unsqueeze(-1) == torch.arange(len(self.channels))).double()

    def paths(self, unit: Tensor):
        """Every way through one round, by the reach that it needs; ``unit`` is the matrix E_tf."""
        topology = self.topology
        silent_x = torch.zeros(1, topology.num_nodes, len(self.channels)).double()
        silent_e = torch.zeros(1, topology.num_edges, len(self.channels)).double()

        def hear(e: Tensor, side: str) -> Tensor:
            return kernels.reduce(topology, e, side)

        def tell(x: Tensor, side: str) -> Tensor:
            ends = (x, 0 * x) if side == "source" else (0 * x, x)
            return kernels.edge_affine(topology, None, *ends)

        def total(x: Tensor, e: Tensor) -> Tensor:
            blocks = kernels.pool_blocks(topology, e) * topology.block_size.unsqueeze(-1)
            groups = kernels.pool_groups(topology, x) * topology.group_size.unsqueeze(-1)
            return blocks.sum(-2, keepdim=True) + groups.sum(-2, keepdim=True)

        def own_tensor(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
            blocks = kernels.pool_blocks(topology, e) * topology.block_size.unsqueeze(-1)
            groups = kernels.pool_groups(topology, x) * topology.group_size.unsqueeze(-1)
            return (
                kernels.spread_groups(topology, groups) @ unit.T,
                kernels.spread_blocks(topology, blocks) @ unit.T,
            )

        def network(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
            message = total(x, e) @ unit.T
            return message.expand_as(x), message.expand_as(e)

        yield "edges and neurons", lambda x, e: (silent_x, e @ unit.T)
        yield "edges and neurons", lambda x, e: (x @ unit.T, silent_e)
        for side in ("source", "target"):
            yield "edges and neurons", lambda x, e, s=side: (hear(e @ unit.T, s), silent_e)
            yield "edges and neurons", lambda x, e, s=side: (silent_x, tell(x @ unit.T, s))
            for to in ("source", "target"):
                yield (
                    "edges and neurons",
                    lambda x, e, s=side, t=to: (silent_x, tell(hear(e @ unit.T, s), t)),
                )
        yield "tensor node", own_tensor
        yield "network node", network


def unit_vectors(architecture: Architecture) -> tuple[Tensor, Tensor, int]:
    """Every parameter entry set to 1 in turn, in the order of the parameters."""
    count = sum(p.numel for p in architecture.parameters)
    rows = torch.eye(count, dtype=torch.float64)
    x = torch.zeros(count, architecture.num_nodes, 1, dtype=torch.float64)
    e = torch.zeros(count, architecture.num_edges, 1, dtype=torch.float64)
    for value, part in slots(architecture, x, e):
        value.copy_(rows[:, part].unsqueeze(-1))
    return x, e, count


def slots(architecture: Architecture, x: Tensor, e: Tensor):
    """Pairs of features of a parameter (a view) and its columns in the flat vector."""
    starts = dict(zip(
        [p.name for p in architecture.parameters],
        itertools.accumulate((p.numel for p in architecture.parameters), initial=0),
        strict=False,
    ))  # fmt: skip
    for view, items in ((e, architecture.blocks), (x, architecture.columns)):
        for item in items:
            start = starts[item.parameter.name]
            part = slice(start, start + item.parameter.numel)
            yield view[:, item.start : item.stop], part


def matrix_of(architecture: Architecture, x: Tensor, e: Tensor, count: int) -> Tensor:
    """The map's matrix, from its values at all unit vectors."""
    found = torch.zeros(count, count, dtype=torch.float64)
    for value, part in slots(architecture, x, e):
        found[part] = value.squeeze(-1).T
    return found


def free_channel(layer: Round, tensor, free) -> int:
    return layer.channels[tensor.name, tuple(int(place) for place in free)]


WIDTHS = [[2, 3, 2], [2, 3, 3, 1], [2, 2, 3, 2], [1, 2, 2, 2, 2]]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_each_element_is_a_path_of_messages(widths):
    architecture = mlp(widths)
    layer = Round(architecture)
    basis = Basis(architecture)
    x, e, count = unit_vectors(architecture)
    lifted = layer.lift(x, e)
    reached = dict.fromkeys(["edges and neurons", "tensor node", "network node"], 0)
    for key, block in basis.blocks.items():
        for element in block.elements():
            unit = torch.zeros(len(layer.channels), len(layer.channels), dtype=torch.float64)
            to = free_channel(layer, element.term.target, element.target_free)
            of = free_channel(layer, element.term.source, element.source_free)
            unit[to, of] = 1
            wanted = torch.zeros(count, count, dtype=torch.float64)
            rows, columns = basis.slices(key)
            wanted[rows, columns] = torch.from_numpy(element.matrix())
            for reach, path in layer.paths(unit):
                out = [value.expand(count, -1, -1) for value in path(*lifted)]
                found = matrix_of(architecture, *layer.read(*out), count)
                if float((found - wanted).abs().max()) <= 1e-10:
                    reached[reach] += 1
                    break
            else:
                pytest.fail(f"no path of messages gives {element.name}")
    # By hand: edges meet at hidden neurons (c_k^2) and with themselves; a fixed neuron is a meeting
    # point too: of the weights of an input, and of an output's bias and weights with one another.
    depth, inputs, outputs = len(widths) - 1, widths[0], widths[-1]
    tables = [
        (inputs if k == 1 else 1) + 1 + (outputs if k == depth - 1 else 1) for k in range(1, depth)
    ]
    local = sum(c * c for c in tables) + (depth - 2) + inputs + 4 * outputs
    # A tensor's own node: hidden weights and biases, and the fixed places of one tensor.
    own = (depth - 2) + (depth - 1) + inputs * (inputs - 1) + 2 * outputs * (outputs - 1)
    assert reached == {
        "edges and neurons": local,
        "tensor node": own,
        "network node": basis.dimension - local - own,
    }


def test_wrong_weights_give_no_element():
    architecture = mlp([2, 3, 1])
    layer = Round(architecture)
    basis = Basis(architecture)
    x, e, count = unit_vectors(architecture)
    for _, path in layer.paths(torch.zeros(len(layer.channels), len(layer.channels)).double()):
        out = [value.expand(count, -1, -1) for value in path(*layer.lift(x, e))]
        assert float(matrix_of(architecture, *layer.read(*out), count).abs().max()) == 0
    assert basis.dimension > 0
