"""The baselines of accuracy prediction that read weights: statistics of tensors, and flat rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack, forward, to_batch
from nngraph.graph.relabelling import Symmetry
from nngraph.nn import (
    FlatNetwork,
    MessagePassingNetwork,
    Metanetwork,
    StatisticsNetwork,
    input_features,
)
from nngraph.nn.encoders.statistics import NetworkStatistics
from nngraph.testing import (
    assert_invariant,
    random_architectures,
    random_stack,
    structured_architectures,
)
from nngraph.zoo import ClassifierSpec

mlp = Architecture.mlp
ANY = [pytest.param(a, id=name) for name, a in random_architectures() + structured_architectures()]
CNNS = [
    ClassifierSpec((6, 5, 2), 3, (4, 5), (3, 1), "gelu").architecture(),
    ClassifierSpec((6, 5, 2), 3, (4, 4, 4, 6), (3, 5, 3, 1), "silu", True, True).architecture(),
    ClassifierSpec((6, 5, 2), 2, (1,), (5,), "sigmoid", True).architecture(),
    ClassifierSpec((6, 5, 2), 3, (6, 5)).architecture(),
]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert error < tolerance


def told_by_hand(values: Tensor) -> list[float]:
    flat = values.flatten()
    quantiles = [torch.quantile(flat, q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)]
    spread = (flat - flat.mean()).square().mean()
    return [float(v) for v in (flat.mean(), spread, *quantiles)] + [1.0]


# -- the statistics -------------------------------------------------------------------------------


def test_each_tensor_of_one_architecture_has_its_row():
    architecture = mlp([2, 3, 4, 1])
    networks = random_stack(architecture, 2, 0)
    found = NetworkStatistics([architecture])(input_features(networks)).view(2, 2, 4, 8)
    for n, graph in enumerate(networks):
        values = graph.parameters()
        for kind, name in enumerate(("bias", "weight")):
            assert not found[n, kind, 0].any()  # no tensor leads to the inputs
            for level in (1, 2, 3):
                expected = told_by_hand(values[f"{level - 1}.{name}"])
                assert found[n, kind, level].tolist() == pytest.approx(expected, rel=1e-12)


def test_kernels_and_norms_have_their_rows_without_what_fills_them_up():
    # A kernel of 1 x 1 next to one of 3 x 3 has one tap and eight zeros, which are no weights.
    networks = random_stack(CNNS[0], 2, 0)
    statistics = NetworkStatistics([CNNS[0]])
    found = statistics(input_features(networks)).view(2, 2, 4, 8)
    for n, graph in enumerate(networks):
        for level, name in enumerate(("layers.0", "layers.1", "head"), start=1):
            expected = told_by_hand(graph.parameters()[f"{name}.weight"])
            assert found[n, 1, level].tolist() == pytest.approx(expected, rel=1e-12)
    with_norm = NetworkStatistics([CNNS[2]])
    assert with_norm.kinds == ["bias", "factor of a norm", "running_mean", "running_var", "weight"]


def test_mixed_depths_are_told_from_both_ends():
    shallow, deep = mlp([2, 3, 1]), mlp([2, 3, 4, 4, 1])
    statistics = NetworkStatistics([shallow, deep])
    for architecture, depth in ((shallow, 2), (deep, 4), (mlp([2] + [3] * 7 + [1]), 8)):
        networks = random_stack(architecture, 1, 0)
        found = statistics(input_features(networks)).view(2, 2, 5, 8)  # end, kind, level
        values = networks[0].parameters()
        first, last = values["0.weight"], values[f"{depth - 1}.weight"]
        assert found[0, 1, 1].tolist() == pytest.approx(told_by_hand(first), rel=1e-12)
        assert found[1, 1, 0].tolist() == pytest.approx(told_by_hand(last), rel=1e-12)
        # Levels beyond the last share its row.
        beyond = [torch.tensor(told_by_hand(values[f"{i}.weight"])) for i in range(3, depth)]
        if beyond:
            expected = torch.stack(beyond).mean(0).tolist()
            assert found[0, 1, 4].tolist() == pytest.approx(expected, rel=1e-6)


def test_quantiles_of_one_number_and_of_many():
    from nngraph.nn.encoders.statistics import tensor_statistics

    values = torch.randn(3, 7, 11, dtype=torch.float64)
    for shape in ((3, 1), (3, 2), (3, 77)):
        part = values.flatten(1)[:, : shape[1]]
        expected = torch.tensor([told_by_hand(row)[:-1] for row in part], dtype=torch.float64)
        torch.testing.assert_close(tensor_statistics(part), expected, rtol=1e-12, atol=1e-14)


# -- the models -----------------------------------------------------------------------------------


def build(model: type[Metanetwork], architecture: Architecture | list[Architecture]) -> Metanetwork:
    torch.manual_seed(0)
    return model(architecture, 2, hidden=8, dropout=0.0).double()  # type: ignore[call-arg]


def train(model: nn.Module, networks: NeuralGraphStack | NeuralGraph) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(networks).square().sum().backward()
        optimizer.step()


def assert_invariant_and_learning(model: Metanetwork, networks: NeuralGraphStack) -> None:
    """Hold a model to its symmetry, in every layout, before and after training."""
    architecture = networks.architecture
    for _ in range(2):
        assert_invariant(
            lambda x, e: model(NeuralGraphStack(architecture, x, e, None, networks.integers)),
            architecture, features=(networks.x, networks.edge_attr), tolerance=1e-10,
        )  # fmt: skip
        close(model(to_batch(list(networks))), model(networks))
        close(torch.cat([model(graph) for graph in networks]), model(networks))
        train(model, networks)


def test_statistics_can_stand_beside_answers_at_probes():
    architecture = mlp([3, 4, 2], "tanh")
    networks = random_stack(architecture, 300, 0)  # more than one part
    torch.manual_seed(0)
    model = StatisticsNetwork(architecture, 2, hidden=8, dropout=0.0, probes=5).double()
    assert model.traits.access == "with probes"
    assert StatisticsNetwork(architecture, 2).traits.access == "generic weights-only"
    model.fit_statistics(networks)
    assert model.probes is not None
    answers = forward(networks, model.probes.inputs())
    torch.testing.assert_close(model.probes.mean, answers.mean())
    torch.testing.assert_close(model.probes.deviation, answers.std(correction=0))
    told = model.statistics(input_features(networks))
    seen = (answers.mT.flatten(1) - model.probes.mean) / model.probes.deviation
    torch.testing.assert_close(model(networks), model.readout(torch.cat([told, seen], dim=1)))
    assert_invariant_and_learning(model, networks[:4])


def test_message_passing_can_be_told_the_statistics_besides():
    architecture = CNNS[1]
    networks = random_stack(architecture, 4, 0)
    torch.manual_seed(0)
    model = MessagePassingNetwork(
        architecture, 2, channels=8, messages=4, hidden=8, rounds=0, dropout=0.0, statistics=True
    ).double()
    model.fit_statistics(networks)
    assert model.statistics is not None
    told = model.statistics(input_features(networks))
    plain = model.embed(networks)[:, : -told.shape[1]]
    torch.testing.assert_close(model.embed(networks), torch.cat([plain, told], dim=1))
    assert float(told.std(0, correction=0).max()) == pytest.approx(1.0)
    assert_invariant_and_learning(model, networks)


@pytest.mark.parametrize("architecture", ANY)
def test_statistics_are_invariant_before_and_after_training(architecture: Architecture):
    networks = random_stack(architecture, 4, 0)
    model = build(StatisticsNetwork, architecture)
    model.fit_statistics(networks)
    assert_invariant_and_learning(model, networks)


def test_the_standard_statistics_are_of_mean_0_and_deviation_1():
    networks = random_stack(mlp([2, 3, 1]), 1500, 0)  # more than one part
    model = build(StatisticsNetwork, networks.architecture)
    model.fit_statistics(networks)
    told = model.statistics(input_features(networks))
    varies = told.std(0) > 0
    torch.testing.assert_close(told.mean(0), torch.zeros(len(varies)).double(), rtol=0, atol=1e-10)
    assert int(varies.sum()) == 4 * 7 - 1  # of four tensors; one number has no variance
    spread = told.std(0, correction=0)[varies]
    torch.testing.assert_close(spread, torch.ones_like(spread))


@pytest.mark.parametrize("kind", [StatisticsNetwork, FlatNetwork])
def test_mixed_architectures_are_read_network_by_network(kind: type[Metanetwork]):
    model = build(kind, CNNS)
    graphs = [random_stack(a, 1, seed)[0] for seed in (0, 1) for a in CNNS]
    model.fit_statistics(to_batch(graphs))
    for _ in range(2):
        answers = model(to_batch(graphs))
        close(torch.cat([model(graph) for graph in graphs]), answers)
        close(model(to_batch(graphs[::-1])).flip(0), answers)
        assert len(torch.unique(answers[:, 0])) == len(graphs)
        moved = [Symmetry(g.architecture).sample(1).act_on_graph(g) for g in graphs]
        if kind.traits.invariant:
            close(model(to_batch(moved)), answers)
        else:
            assert not torch.allclose(model(to_batch(moved)), answers, rtol=1e-3)
        train(model, to_batch(graphs))


def test_another_entry_is_noticed():
    networks = random_stack(CNNS[0], 3, 0)
    model = build(StatisticsNetwork, CNNS[0])
    values = networks.parameters()
    values["layers.0.weight"] = values["layers.0.weight"] + torch.eye(3).double()
    other = NeuralGraphStack.from_parameters(CNNS[0], values)
    assert not torch.allclose(model(other), model(networks), rtol=1e-4)


def test_the_flat_network_reads_weights_in_units_of_their_tensor_filled_up_with_zeros():
    small, large = mlp([2, 1]), mlp([2, 3, 1])
    model = FlatNetwork([small, large], 13, hidden=13).double()
    model.readout = nn.Identity()
    network = random_stack(small, 1, 0)
    values = network.parameters()
    model.fit_statistics(network)
    scale = values["0.weight"].square().mean().sqrt(), values["0.bias"].abs().mean()
    row = [*(values["0.weight"] / scale[0]).flatten(), *(values["0.bias"] / scale[1]).flatten()]
    expected = torch.tensor([*map(float, row), *[0.0] * 10]).double()
    assert model(network)[0].tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_what_was_not_built_for_is_refused():
    with pytest.raises(ArchitectureError, match=r"built for 1 architectures such as .* reads no"):
        build(FlatNetwork, CNNS[0])(random_stack(CNNS[2], 2, 0))
    model = build(StatisticsNetwork, CNNS[0])
    with pytest.raises(ArchitectureError, match="the kind 'factor of a norm'; the model was built"):
        model(random_stack(CNNS[2], 2, 0))
