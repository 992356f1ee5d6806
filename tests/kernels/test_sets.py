"""Quantiles and attention over sets of any size, against torch's own, set by set."""

from __future__ import annotations

import pytest
import torch
from test_kernels import TINY, TOPOLOGIES, close, draw, rows_of
from torch import Tensor

from nngraph import kernels
from nngraph.graph import Members, Topology
from nngraph.kernels import Side
from nngraph.testing import IrregularTopology

SHARES = (0.0, 0.2, 0.5, 0.75, 1.0)


def by_hand(values: Tensor, index: list[int], size: int) -> Tensor:
    out = torch.zeros(*values.shape[:-2], size, len(SHARES), values.shape[-1], dtype=values.dtype)
    shares = torch.tensor(SHARES, dtype=values.dtype)
    for row in set(index):
        own = values[..., [k for k, at in enumerate(index) if at == row], :]
        out[..., row, :, :] = own.quantile(shares, dim=-2).movedim(0, -2)
    return out


@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
class TestAgainstLoops:
    @pytest.mark.parametrize("side", ["source", "target", "block"])
    def test_quantiles(self, topology: Topology, lead: tuple[int, ...], side: Side):
        e = draw(*lead, topology.num_edges, 2)
        e[..., ::3, :] = 0.5  # equal values
        expected = by_hand(e, *rows_of(topology, side))
        close(kernels.quantiles(e, kernels.edges_at(topology, side), SHARES), expected)

    def test_quantiles_of_groups(self, topology: Topology, lead: tuple[int, ...]):
        x = draw(*lead, topology.num_nodes, 2)
        expected = by_hand(x, topology.nodes.group.index.tolist(), len(topology.groups.size))
        close(kernels.quantiles(x, topology.nodes.group, SHARES), expected)

    def test_attend_members(self, topology: Topology, lead: tuple[int, ...]):
        x, score = draw(*lead, topology.num_nodes, 4), draw(*lead, topology.num_nodes, 2, seed=1)
        found = kernels.attend_members(x, 300 * score, topology.nodes.graph)
        for graph in range(topology.num_graphs):
            own = topology.nodes.graph.index == graph
            share = (300 * score[..., own, :]).softmax(-2).repeat_interleave(2, -1)
            close(found[..., graph, :], (x[..., own, :] * share).sum(-2))


@pytest.mark.parametrize(("topology", "lead"), TINY)
def test_derivatives(topology: Topology, lead: tuple[int, ...]):
    e = draw(*lead, topology.num_edges, 2).requires_grad_()
    x, score = (draw(*lead, topology.num_nodes, 2, seed=s).requires_grad_() for s in (1, 2))
    graph = topology.nodes.graph
    for function, inputs in (
        (lambda e: kernels.quantiles(e, kernels.edges_at(topology, "target"), SHARES), (e,)),
        (lambda x, s: kernels.attend_members(x, s, graph), (x, score)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(lambda *v, f=function: f(*v).square(), inputs)


def test_networks_without_any_get_nothing():
    topology = IrregularTopology.of_edges(torch.tensor([[0], [1]]), 3, torch.tensor([0, 0, 1]))
    found = kernels.quantiles(torch.ones(1, 1), kernels.edges_at(topology, "block"), SHARES)
    assert found.tolist() == [[[1.0]] * 5, [[0.0]] * 5]
    every = kernels.edges_at(topology, "block")
    assert kernels.quantiles(torch.ones(2, 0, 1), every, (0.5,)).shape == (2, 2, 1, 1)
    of = Members(torch.tensor([1]), torch.tensor([0, 1]))
    found = kernels.attend_members(torch.ones(1, 1), torch.zeros(1, 1), of)
    assert found.tolist() == [[0.0], [1.0]]
