"""Laws of models with states, for tests of any of them."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.graph import Architecture, NeuralGraphStack, to_batch
from nngraph.graph.batching import restore_edges
from nngraph.graph.topology.topology import Topology
from nngraph.nn import Features, Metanetwork, StateNetwork
from nngraph.testing import (
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    random_stack,
)


def train_a_little(model: Metanetwork, networks: NeuralGraphStack, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    labels = torch.arange(len(networks)) % model.num_outputs
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(networks), labels).backward()
        optimizer.step()
    model.eval()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def check_symmetry(model: StateNetwork, architecture: Architecture) -> None:
    """States move with the neurons, answers stay, fresh and trained; all layouts agree."""
    networks, topology = random_stack(architecture, 3, 0), Topology.of(architecture)
    given = networks.x, networks.edge_attr

    def states(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        found = model.states(Features(topology, x, e))
        return found.x, found.edge_attr

    model.fit_statistics(networks)
    model.eval()
    for _ in range(2):
        assert_equivariant(states, architecture, features=given, relabellings=2)
        assert_invariant(
            lambda x, e: model(Features(topology, x, e)), architecture, features=given,
            relabellings=2,
        )  # fmt: skip
        answers = model(networks)
        assert relative(model(networks.to_batch()), answers) < 1e-10
        assert relative(model(networks[2]), answers[2:3]) < 1e-10
        train_a_little(model, networks)


def check_wrong_states_are_noticed(model: StateNetwork, architecture: Architecture) -> None:
    """The check of states fails for a model that looks at the order of neurons."""

    def states(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        place = torch.linspace(1, 1.1, x.shape[-2], dtype=x.dtype).unsqueeze(-1)
        found = model.states(Features(Topology.of(architecture), x * place, e))
        return found.x, found.edge_attr

    networks = random_stack(architecture, 4, 0)
    features = networks.x, networks.edge_attr
    assert_not_equivariant(states, architecture, features=features, at_least=1e-4)


def check_mixed_batch(model: StateNetwork, architectures: list[Architecture]) -> None:
    """States and answers of networks side by side are those of each by itself."""
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(architectures)]
    batch = to_batch(graphs)
    states, answers = model.states(batch), model(batch)
    edges = restore_edges(states.topology, states.edge_attr)
    nodes_at = edges_at = 0
    for i, graph in enumerate(graphs):
        alone = model.states(graph)
        nodes, count = alone.x.shape[-2], alone.edge_attr.shape[-2]
        for found, expected in (
            (states.x[nodes_at : nodes_at + nodes], alone.x),
            (edges[edges_at : edges_at + count], alone.edge_attr),
            (answers[i : i + 1], model(graph)),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        nodes_at, edges_at = nodes_at + nodes, edges_at + count
    answers.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def without_gradient(model: StateNetwork, architectures: list[Architecture]) -> list[str]:
    """Parameters that no network moves."""
    networks = [graph for a in architectures for graph in random_stack(a, 4, 0)]
    model(to_batch(networks)).square().sum().backward()
    return [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
