"""Scales, probes and the probing diagnostic, held against numbers written by hand or by loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Activation, Architecture, NeuralGraph, NeuralGraphStack, forward
from nngraph.graph.relabelling import Symmetry
from nngraph.nn import (
    ProbeNetwork,
    Probes,
    SymmetricNetwork,
    TensorScales,
    input_features,
    plane_wave_r2,
)
from nngraph.nn.common.levels import at_outputs
from nngraph.nn.features import SizeLimits
from nngraph.testing import random_architectures, random_stack

mlp = Architecture.mlp
sine = Activation("sine", w0=10.0)


def network(*values: list) -> NeuralGraphStack:
    """Two networks 2-2-1 from [W1, b1, W2, b2], each stacked."""
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    parameters = {
        name: torch.tensor(value, dtype=torch.float64)
        for name, value in zip(names, values, strict=True)
    }
    return NeuralGraphStack.from_parameters(mlp([2, 2, 1]), parameters)


TWO = network(
    [[[3, 4], [0, 0]], [[0, 5], [0, 0]]],  # mean square 50 / 8
    [[2, 0], [0, 0]],  # 4 / 4
    [[[0, 0]], [[0, 0]]],  # all zero: scale 1
    [[3], [4]],  # 25 / 2
)


def scales_of(architecture: Architecture) -> TensorScales:
    return TensorScales(SizeLimits.of([architecture])).double()


def test_scales_by_hand():
    scales = scales_of(mlp([2, 2, 1]))
    scales.fit(TWO)
    torch.testing.assert_close(scales.weight, torch.tensor([1, 6.25**0.5, 1]).double())
    torch.testing.assert_close(scales.bias, torch.tensor([[1], [1], [12.5**0.5]]).double())
    weight, bias = scales(input_features(TWO))
    fan_in = 2**0.5
    expected = torch.tensor([[3, 4, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0]]).double() / (2.5 * fan_in)
    torch.testing.assert_close(weight, expected)
    expected = torch.tensor([[0, 0, 2, 0, 3 / 12.5**0.5], [0, 0, 0, 0, 4 / 12.5**0.5]]).double()
    torch.testing.assert_close(bias.squeeze(-1), expected)


def test_a_batch_has_the_scales_of_its_stack():
    architecture = mlp([2, 4, 3, 1], sine)
    networks = random_stack(architecture, 5, 0)
    one, other = scales_of(architecture), scales_of(architecture)
    one.fit(networks)
    other.fit(networks.to_batch())
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-12, atol=0)


def test_scales_are_per_tensor_and_not_per_entry():
    architecture = mlp([2, 4, 3, 1], sine)
    networks = random_stack(architecture, 5, 0)
    one, other = scales_of(architecture), scales_of(architecture)
    one.fit(networks)
    other.fit(Symmetry(architecture).sample_stack(5, 0).act_on_stack(networks))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-14, atol=0)
    assert one.weight.shape == (4,)


def test_deeper_layers_take_the_last_scale():
    scales = scales_of(mlp([1, 1, 1]))
    scales.weight.copy_(torch.tensor([1.0, 2.0, 4.0]))
    deeper = mlp([1, 1, 1, 1, 1])
    ones = {p.name: torch.ones(1, *p.shape, dtype=torch.float64) for p in deeper.parameters}
    weight, _ = scales(input_features(NeuralGraphStack.from_parameters(deeper, ones)))
    assert weight.tolist() == [[1 / 2, 1 / 4, 1 / 4, 1 / 4]]


@pytest.mark.parametrize(
    "architecture", [pytest.param(a, id=name) for name, a in random_architectures()]
)
def test_probe_responses_are_the_activations_of_the_networks(architecture: Architecture):
    networks = random_stack(architecture, 3, 0)
    probes = Probes(architecture, 4).double()
    expected = forward(networks, probes.inputs(), return_activations=True).mT
    torch.testing.assert_close(
        torch.cat(probes(input_features(networks)), dim=-2), expected, rtol=0, atol=1e-12
    )
    outputs = architecture.widths[-1]
    features = input_features(networks)
    answers = probes.at_outputs(features.topology, probes(features), outputs)
    torch.testing.assert_close(
        answers, expected[:, -outputs:].reshape(3, -1), rtol=0, atol=1e-12
    )


def test_probe_networks_standardise_the_answers():
    architecture = mlp([2, 4, 2], sine)
    networks = random_stack(architecture, 300, 0)  # more than one part
    model = ProbeNetwork(architecture, 3, probes=5).double()
    model.fit_statistics(networks)
    answers = forward(networks, model.probes.inputs())
    torch.testing.assert_close(model.probes.mean, answers.mean())
    torch.testing.assert_close(model.probes.deviation, answers.std(correction=0))


def test_outputs_of_networks_with_fewer_are_padded():
    from torch_geometric.data import Batch

    from nngraph import kernels

    graphs = [random_stack(mlp([1, 2, n]), 1, n)[0] for n in (1, 3, 2)]
    features = input_features(Batch.from_data_list(graphs))
    topology = features.topology
    values = [(2, kernels.take(features.bias, topology.levels[2].nodes))]
    bias = [graph.parameters()["1.bias"].tolist() for graph in graphs]
    expected = [[*b, *[0.0] * (3 - len(b))] for b in bias]
    assert at_outputs(topology, values, 3).tolist() == expected


def test_one_graph_is_a_network_too():
    graph = random_stack(mlp([2, 3, 1]), 1, 0)[0]
    assert isinstance(graph, NeuralGraph)
    features = input_features(graph)
    assert features.x.shape == (6, 1)
    assert input_features(features) is features


# -- how far a model of weights probes --------------------------------------------------------


def prober(points: Tensor) -> SymmetricNetwork:
    """Return a network whose second layer is the networks' own pre-activation at points."""
    count = len(points)
    model = SymmetricNetwork(
        mlp([2, 12, 12, 1], sine), 3, channels=[count], messages=count, functions=["sine"]
    ).double()
    with torch.no_grad():
        first, second = (layers["sine"] for layers in model.passes.layers)
        first.read.weight.copy_(points)
        # sin(s + u) - sin(s - u) = 2 cos(s) sin(u), and the sum is 2 sin(s) cos(u)
        first.shift.fill_(torch.pi / 4)
        model.passes.maps_out[0]["sine"].weight.copy_(torch.eye(count).repeat(1, 2))
        second.read.weight.copy_(torch.eye(count))
    return model


def test_probing_finds_the_points_that_were_built_in():
    networks = random_stack(mlp([2, 12, 12, 1], sine), 20, 0)
    points = torch.tensor([[0.5, -1.0], [0.0, 0.25], [1.5, 1.5]]).double()
    model = prober(points)
    expected = torch.ones(3).double()
    found = plane_wave_r2(model, networks, extent=1.5, resolution=13)  # 0.25 apart
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # Whatever places the inputs have learned.
    turn = torch.tensor([[0.6, -0.8], [1.6, 1.2]]).double()
    with torch.no_grad():
        model.passes.inputs.copy_(turn)
        model.passes.layers[0]["sine"].read.weight.copy_(points @ torch.linalg.inv(turn).mT)
    found = plane_wave_r2(model, networks, extent=1.5, resolution=13)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_probing_does_not_see_what_is_not_there():
    networks = random_stack(mlp([2, 12, 12, 1], sine), 20, 0)
    torch.manual_seed(0)
    model = SymmetricNetwork(networks.architecture, 3, channels=[16], functions=["tanh"]).double()
    found = plane_wave_r2(model, networks, resolution=13)
    assert bool((found >= 0).all())
    assert bool((found <= 1 + 1e-9).all())
    assert float(found.median()) < 0.9


@pytest.mark.parametrize(
    "architecture", [mlp([2, 4, 1], sine), mlp([3, 4, 4, 1], sine), mlp([2, 4, 4, 1])], ids=str
)
def test_probing_asks_for_two_hidden_layers_of_sines(architecture: Architecture):
    model = SymmetricNetwork(architecture, 3).double()
    with pytest.raises(ArchitectureError, match="two hidden layers"):
        plane_wave_r2(model, random_stack(architecture, 2, 0))
