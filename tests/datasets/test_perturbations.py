from __future__ import annotations

import pytest
import torch

from nngraph.datasets import (
    DropWeights,
    ScaleNeurons,
    Standardise,
    WeightNoise,
    training_statistics,
)
from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Activation, Architecture, NeuralGraph, NeuralGraphStack, forward
from nngraph.testing import random_stack
from nngraph.zoo import Zoo, filter_zoo

POINTS = torch.linspace(-2, 2, 26, dtype=torch.float64).view(13, 2).sin()
SPECS = {
    "relu": Architecture.mlp([2, 6, 5, 2], "relu"),
    "leaky": Architecture.mlp([2, 6, 2], Activation("leaky_relu", negative_slope=0.2)),
    "tanh": Architecture.mlp([2, 6, 5, 2], "tanh"),
    "sine": Architecture.mlp([2, 6, 5, 2], Activation("sine", w0=7)),
    "linear": Architecture.mlp([2, 6, 2], ["identity", "identity"]),
    "gelu": Architecture.mlp([2, 6, 2], "gelu"),
    "mixed": Architecture.mlp([2, 4, 3, 5, 2], ["relu", "gelu", "sine"], bias=[1, 0, 1, 0]),
}
TRANSFORMS = [WeightNoise(0.1), DropWeights(0.3), ScaleNeurons()]


@pytest.mark.parametrize("name", SPECS)
def test_rescaled_neurons_leave_the_function(name: str):
    networks = random_stack(SPECS[name], 4, 0)
    scaled = ScaleNeurons(3.0)(networks)
    torch.testing.assert_close(
        forward(scaled, POINTS), forward(networks, POINTS), rtol=1e-10, atol=1e-12
    )
    assert torch.equal(scaled.edge_attr, networks.edge_attr) == (name == "gelu")
    graph = networks[1]
    torch.testing.assert_close(
        forward(ScaleNeurons()(graph), POINTS), forward(graph, POINTS), rtol=1e-10, atol=1e-12
    )


def test_factors_are_those_of_the_activation():
    relu = random_stack(SPECS["relu"], 200, 0)
    ratio = ScaleNeurons(2.0)(relu).parameters()["0.bias"] / relu.parameters()["0.bias"]
    assert 0.5 <= float(ratio.min()) < 0.51
    assert 1.96 < float(ratio.max()) <= 2.0
    assert abs(float(ratio.log().mean())) < 0.05
    tanh = random_stack(SPECS["tanh"], 200, 0)
    ratio = ScaleNeurons(2.0)(tanh).parameters()["0.bias"] / tanh.parameters()["0.bias"]
    assert set(ratio.flatten().tolist()) == {-1.0, 1.0}
    assert abs(float(ratio.mean())) < 0.1


def test_a_wrong_factor_would_be_noticed():
    networks = random_stack(SPECS["gelu"], 2, 0)
    values = dict(networks.parameters())
    values["0.weight"], values["0.bias"] = 2 * values["0.weight"], 2 * values["0.bias"]
    values["1.weight"] = values["1.weight"] / 2
    wrong = NeuralGraphStack.from_parameters(networks.architecture, values)
    assert float((forward(wrong, POINTS) - forward(networks, POINTS)).abs().max()) > 1e-2


def test_noise_is_relative_to_each_tensor_of_each_network():
    networks = random_stack(Architecture.mlp([2, 60, 60, 1]), 3, 0)
    values = dict(networks.parameters())
    values["1.weight"] = values["1.weight"] * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    networks = NeuralGraphStack.from_parameters(networks.architecture, values)
    noise = WeightNoise(0.1)(networks).parameters()["1.weight"] - values["1.weight"]
    size = values["1.weight"].square().mean(dim=(1, 2)).sqrt()
    found = noise.square().mean(dim=(1, 2)).sqrt() / size
    torch.testing.assert_close(found, torch.full((3,), 0.1).to(found), rtol=0.05, atol=0)
    assert float(noise.mean().abs()) < 0.01 * float(size.max())
    assert torch.equal(WeightNoise(0.0)(networks).edge_attr, networks.edge_attr)


def test_dropped_weights_are_zero_and_still_edges():
    networks = random_stack(Architecture.mlp([2, 60, 60, 1]), 3, 0)
    thinned = DropWeights(0.25)(networks)
    before, after = networks.parameters()["1.weight"], thinned.parameters()["1.weight"]
    gone = after == 0
    assert 0.23 < float(gone.double().mean()) < 0.27
    torch.testing.assert_close(after[~gone], before[~gone] / 0.75)
    assert torch.equal(thinned.x, networks.x)
    assert thinned[0].num_edges == networks.architecture.num_edges
    plain = DropWeights(0.25, rescale=False)(networks).parameters()["1.weight"]
    assert torch.equal(plain[plain != 0], before[plain != 0])
    assert not torch.equal(gone[0], gone[1])


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_labels_stay_and_the_given_networks_too(transform: torch.nn.Module):
    networks = random_stack(SPECS["relu"], 4, 0)
    networks.y = torch.arange(4)
    before = networks.x.clone(), networks.edge_attr.clone()
    found = transform(networks)
    assert torch.equal(networks.x, before[0])
    assert torch.equal(networks.edge_attr, before[1])
    assert torch.equal(found.y, networks.y)
    graph = networks[2]
    graph.note = "kept"
    changed = transform(graph)
    assert isinstance(changed, NeuralGraph)
    assert (int(changed.y), changed.note) == (2, "kept")
    assert changed.validate()
    assert not torch.equal(changed.edge_attr, networks.edge_attr[2])
    torch.manual_seed(4)
    one = transform(networks).edge_attr
    torch.manual_seed(4)
    assert torch.equal(transform(networks).edge_attr, one)


def test_numbers_out_of_range_are_refused():
    for make, match in (
        (lambda: WeightNoise(-1), "strength is -1"),
        (lambda: DropWeights(1.0), "probability is 1.0"),
        (lambda: ScaleNeurons(0.5), "spread is 0.5"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_only_chains_are_rescaled():
    chain = Architecture.mlp([2, 3, 3, 1])
    skip = chain.parameters[2]
    parameters = (*chain.parameters, type(skip)("skip", (3, 2), (2, 0)))
    architecture = Architecture(chain.groups, parameters)
    with pytest.raises(ArchitectureError, match="cannot be rescaled"):
        ScaleNeurons()(random_stack(architecture, 2, 0))


# -- statistics ----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_training_networks_alone(zoo: Zoo):
    (found,) = training_statistics(zoo).values()
    train, whole = zoo.stack("train").parameters(), zoo.stack().parameters()
    assert set(found) == set(train)
    for name, statistics in found.items():
        values = train[name].double()
        assert statistics.networks == 20
        assert statistics.mean == pytest.approx(float(values.mean()), abs=1e-12)
        assert statistics.std == pytest.approx(float(values.std(correction=0)), rel=1e-9)
        assert statistics.mean != pytest.approx(float(whole[name].double().mean()), abs=1e-9)
    standard = Standardise(training_statistics(zoo))(zoo.stack("train"))
    for value in standard.parameters().values():
        assert abs(float(value.double().mean())) < 1e-5
        assert float(value.double().std(correction=0)) == pytest.approx(1, rel=1e-4)
    assert torch.equal(standard.y, zoo.stack("train").y)


def test_every_architecture_has_its_own_statistics(mixed_zoo: Zoo, tmp_path):
    found = training_statistics(mixed_zoo)
    assert list(found) == list(mixed_zoo.architectures)
    graph = mixed_zoo.network(5)
    standard = Standardise(found)(graph)
    name = "0.weight"
    statistics = found[graph.architecture][name]
    expected = (graph.parameters()[name] - statistics.mean) / statistics.std
    assert torch.equal(standard.parameters()[name], expected)
    with pytest.raises(InvalidGraphError, match="no statistics for networks of 2-7-1"):
        Standardise(found)(random_stack(Architecture.mlp([2, 7, 1]), 1, 0))
    rest = filter_zoo(tmp_path / "rest", mixed_zoo, mixed_zoo.split == 2)
    with pytest.raises(InvalidGraphError, match="no training networks"):
        training_statistics(rest)
