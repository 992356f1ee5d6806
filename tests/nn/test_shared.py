"""One layer for networks of any shape: symmetric, the same in every layout, and judged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nngraph import kernels
from nngraph.basis import rank_of, stacked
from nngraph.graph import Architecture, NeuronGroup
from nngraph.graph.topology.topology import Topology
from nngraph.nn import SharedEquivariantLinear, input_features
from nngraph.nn.layers.kinds import TensorKinds
from nngraph.testing import assert_equivariant, random_architectures, random_features, random_stack

mlp = Architecture.mlp
NAMED = dict(random_architectures())
ARCHITECTURES = [pytest.param(a, id=name) for name, a in NAMED.items()]


def shared(*arguments, **options) -> SharedEquivariantLinear:
    layer = SharedEquivariantLinear(*arguments, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


class OnStacks(nn.Module):
    def __init__(self, layer: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.layer, self.topology = layer, Topology.of(architecture)

    def forward(self, x, edge_attr):
        return self.layer(self.topology, x, edge_attr)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_commutes_with_relabelling_all_neurons(architecture):
    groups = tuple(
        NeuronGroup(g.name, g.size, g.role, g.activation, g.name) for g in architecture.groups
    )
    free = Architecture(groups, architecture.parameters)
    layer = OnStacks(shared(2, 3), architecture)
    assert_equivariant(layer, free, node_channels=2, edge_channels=2)


@pytest.mark.parametrize("backend", sorted(kernels.BACKENDS))
def test_single_stacked_and_ragged_agree(backend):
    layer = shared(1, 3, backend=backend)
    stacks = [random_stack(a, 2, i) for i, a in enumerate(NAMED.values())]
    graphs = [graph for stack in stacks for graph in stack]
    batch = type(stacks[0][0:1].to_batch()).from_data_list(graphs)
    ragged = input_features(batch)
    x, e = layer(ragged.topology, ragged.x, ragged.edge_attr)
    native = torch.empty_like(e)
    order = ragged.topology.edge_order
    native[order] = e
    nodes = edges = 0
    for stack in stacks:
        topology = Topology.of(stack.architecture)
        many = layer(topology, stack.x, stack.edge_attr)
        for i in range(len(stack)):
            one = layer(topology, stack.x[i], stack.edge_attr[i])
            there = (
                x[nodes : nodes + topology.num_nodes],
                native[edges : edges + topology.num_edges],
            )
            for a, b, c in zip(one, there, many, strict=True):
                torch.testing.assert_close(b, a)
                torch.testing.assert_close(c[i], a)
            nodes, edges = nodes + topology.num_nodes, edges + topology.num_edges
    assert (nodes, edges) == (len(x), len(e))


class TestSpan:
    @pytest.mark.parametrize("depth", [1, 2, 3, 4])
    def test_complete_where_every_tensor_is_a_kind_of_its_own(self, depth):
        architecture = mlp([2] * (depth + 1))
        layer = OnStacks(shared(1, 1, levels=2), architecture)
        report = rank_of(stacked(layer, architecture), architecture, permute_io=True)
        assert report.complete
        assert report.rank == 4 * depth**2 + 10 * depth - 4
        assert report.rank_in_total == report.rank + 2 * depth

    @pytest.mark.parametrize("depth", [1, 2, 3, 4])
    def test_no_parameter_too_many_of_the_kinds_that_occur(self, depth):
        architecture = mlp([2] * (depth + 1))
        layer = shared(1, 1, kinds=TensorKinds.of([architecture], 2))
        report = rank_of(
            stacked(OnStacks(layer, architecture), architecture), architecture, permute_io=True
        )
        assert report.complete
        assert report.rank_in_total == sum(p.numel() for p in layer.parameters())

    @pytest.mark.parametrize(("levels", "total"), [(0, 18), (1, 38), (2, 110), (3, 156)])
    def test_tensors_of_one_kind_share_coefficients(self, levels, total):
        architecture = mlp([2] * 6)
        layer = OnStacks(shared(1, 1, levels=levels), architecture)
        report = rank_of(stacked(layer, architecture), architecture, permute_io=True)
        assert report.rank == report.expected  # every element of every block, one at a time
        assert report.rank_in_total == total
        assert report.complete == (levels == 3)
        assert max(block.residual for block in report.blocks) <= 1e-10

    def test_parameters_do_not_depend_on_the_networks(self):
        assert not any("topology" in name for name, _ in shared(1, 1).named_buffers())
        layer = shared(1, 2)
        for architecture in NAMED.values():
            stack = random_stack(architecture, 1, 0)
            layer(Topology.of(architecture), stack.x, stack.edge_attr)


class TestKinds:
    @pytest.mark.parametrize("depth", [1, 2, 3, 7])
    def test_every_number_learns(self, depth):
        architecture = mlp([2] * depth + [1])
        layer = shared(2, 3, kinds=TensorKinds.of([architecture], 2))
        x, e = random_features(architecture, 4, 2, 2, 0)
        nodes, edges = layer(Topology.of(architecture), x, e)
        (nodes.square().sum() + edges.square().sum()).backward()
        for name, parameter in layer.named_parameters():
            assert bool((parameter.grad != 0).all()), name

    def test_pairs_are_of_tensors_that_meet(self):
        # Blocks before the outputs of one and of two weights; the two never meet.
        kinds = TensorKinds.of([mlp([2, 1]), mlp([2, 3, 1])], 3)
        assert kinds.blocks == (1 * 4 + 0, 1 * 4 + 1, 2 * 4 + 0)
        assert kinds.groups == (0 * 4 + 1, 0 * 4 + 2, 1 * 4 + 0, 1 * 4 + 1, 2 * 4 + 0)
        assert kinds.parts == ((1,), (1,), (0, 2), (0, 1, 2), (0, 2))
        one, two = {0, 3}, {1, 2, 4, 5}
        assert {*kinds.pairs} == {(i, j) for own in (one, two) for i in own for j in own}
        assert kinds.repeated == ()

    def test_tensors_of_one_kind_have_matrices_of_their_own(self):
        assert TensorKinds.of([mlp([2] * 6)], 2).repeated == (3, 7)
        assert TensorKinds.of([mlp([2] * 6)], 3).repeated == ()

    def test_other_networks_have_the_nearest_kinds(self):
        kinds = TensorKinds.of([mlp([2, 3, 1])], 3)
        # From the inputs and to the outputs: 2 and 1 is next to 1 and 1, and to 2 and 0.
        assert kinds.blocks == (5, 8)
        assert kinds.nearest(kinds.blocks)[1 * 4 + 2] == 0
        assert kinds.nearest(kinds.blocks)[3 * 4 + 0] == 1
        layer = OnStacks(shared(2, 3, kinds=kinds), mlp([2, 3, 4, 2, 1]))
        free = [NeuronGroup(g.name, g.size, g.role, g.activation, g.name)
                for g in layer.topology.single.groups]  # fmt: skip
        free = Architecture(tuple(free), layer.topology.single.parameters)
        assert_equivariant(layer, free, node_channels=2, edge_channels=2)


def test_derivatives():
    layer, topology = shared(1, 2), Topology.of_batch([mlp([1, 2, 1]), mlp([2, 1])])
    inputs = [
        torch.randn(rows, 1, dtype=torch.float64, requires_grad=True)
        for rows in (topology.num_nodes, topology.num_edges)
    ]
    assert torch.autograd.gradcheck(lambda x, e: layer(topology, x, e), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, e: layer(topology, x, e), inputs, fast_mode=True)


@pytest.mark.parametrize("widths", [[2, 16, 16, 1], [2, *[6] * 15, 1]], ids=["3", "16"])
def test_features_keep_their_size_through_layers(widths):
    topology, channels = Topology.of(mlp(widths)), 24
    rows = topology.num_nodes, topology.num_edges
    x, e = (torch.randn(3, count, channels) for count in rows)
    layer = SharedEquivariantLinear(channels, channels)
    variances = []
    with torch.no_grad():
        for _ in range(4):
            nodes, edges = x, e
            for _ in range(16):
                layer.reset_parameters(5 / 3)
                nodes, edges = layer(topology, nodes.tanh(), edges.tanh())
            variances.append(edges.square().mean())
    assert 0.4 < float(torch.stack(variances).mean().sqrt()) < 2.5


def test_negative_levels_are_refused():
    with pytest.raises(ValueError, match="levels is -1"):
        SharedEquivariantLinear(1, 1, levels=-1)
