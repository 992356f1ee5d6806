"""Answers at a grid of points, read as a picture: by probes, and by a pass that starts as one."""

from __future__ import annotations

import pytest
import torch
from state_laws import relative

from nngraph.datasets import Relabel
from nngraph.graph import Activation, Architecture, NeuralGraphStack, forward, sample_moves
from nngraph.nn import Metanetwork, ProbeNetwork, SymmetricNetwork, input_features
from nngraph.nn.models.symmetric import plane_wave_r2
from nngraph.nn.probes.grid import GridReader, grid_points
from nngraph.testing import random_stack

SINE = Activation("sine", w0=10.1)
NETWORKS = {
    "one output": Architecture.mlp([2, 6, 5, 1], SINE),
    "three outputs": Architecture.mlp([2, 6, 5, 3], SINE),
    "one hidden layer": Architecture.mlp([2, 4, 1], SINE),
    "no bias": Architecture.mlp([2, 4, 3, 1], SINE, bias=False),
}


def probe(architecture: Architecture, points: int = 25) -> ProbeNetwork:
    torch.manual_seed(0)
    return ProbeNetwork(architecture, 4, points, 16, reader="grid", width=4).double().eval()


def symmetric(
    architecture: Architecture, points: int = 25, mix: bool = True
) -> SymmetricNetwork:
    torch.manual_seed(0)
    return SymmetricNetwork(
        architecture, 4, channels=[points], messages=points, functions=["sine"], start="grid",
        hidden=16, width=4, mix=mix,
    ).double().eval()  # fmt: skip


def apart(architecture: Architecture, points: int = 25) -> SymmetricNetwork:
    return symmetric(architecture, points, mix=False)


def moved(networks: NeuralGraphStack) -> NeuralGraphStack:
    """Return the same functions by other weights: relabelled, other signs and phases."""
    values = sample_moves(networks.architecture, networks.parameters(), symmetries=["phase"])
    return Relabel()(NeuralGraphStack.from_parameters(networks.architecture, values))


def trained(model: Metanetwork, networks: NeuralGraphStack) -> Metanetwork:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(networks).square().sum().backward()
        optimizer.step()
    return model


def test_a_picture_has_rows_of_the_second_input():
    assert grid_points(4, 0.9).view(4, 4, 2)[1, 3].tolist() == pytest.approx([0.9, -0.3])


@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_probes_are_answered_at_the_grid(architecture: Architecture):
    model, networks = probe(architecture), random_stack(architecture, 3, 0)
    points = grid_points(5).double()
    expected = forward(networks, points).mT.flatten(1)  # output by output, as planes
    found = model.probes.outputs(input_features(networks), architecture.widths[-1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_a_pass_starts_as_the_picture_and_its_bias(architecture: Architecture):
    model, networks = symmetric(architecture), random_stack(architecture, 3, 0)
    model.fit_statistics(networks)
    outputs, count = architecture.widths[-1], len(architecture.widths) - 1
    planes = model.embed(networks).view(3, outputs, 2, 25)
    bias = networks.parameters().get(f"{count - 1}.bias", torch.zeros(3, outputs).double())
    expected = forward(networks, grid_points(5).double()).mT - bias.unsqueeze(-1)
    scale = (expected * planes[:, :, 0]).sum() / planes[:, :, 0].square().sum()
    torch.testing.assert_close(scale * planes[:, :, 0], expected, rtol=0, atol=1e-5)
    assert bool((planes[:, :, 1] == planes[:, :, 1, :1]).all())


def test_channels_that_do_not_mix_start_as_those_that_may():
    networks = random_stack(NETWORKS["three outputs"], 3, 0)
    found, expected = (make(networks.architecture) for make in (apart, symmetric))
    torch.testing.assert_close(found.embed(networks), expected.embed(networks))
    torch.testing.assert_close(plane_wave_r2(found, networks), plane_wave_r2(expected, networks))
    # One of a map's channels is heard of by no other, also after training.
    trained(found, networks)
    before = found.embed(networks).view(3, 6, 25)
    with torch.no_grad():
        found.passes.layer(2, "sine").read.weight[0, 7] += 1
    changed = (found.embed(networks).view(3, 6, 25) != before).any(0).any(0)
    assert changed.nonzero().tolist() == [[7]]


@pytest.mark.parametrize("make", [probe, symmetric, apart])
@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_the_same_functions_have_the_same_answers(make, architecture: Architecture):
    model, networks = make(architecture), random_stack(architecture, 3, 0)
    model.fit_statistics(networks)
    for _ in range(2):  # fresh, and trained
        answers = model(networks)
        assert relative(model(moved(networks)), answers) < 1e-9
        assert relative(answers[:1], answers[1:2]) > 1e-4
        trained(model, networks)


def test_scales_are_of_whole_planes():
    networks = random_stack(NETWORKS["three outputs"], 50, 0)
    model = symmetric(networks.architecture)
    model.fit_statistics(networks)
    read = ((model.embed(networks) - model.mean).detach() / model.deviation).view(50, 6, 25)
    for value, expected in ((read.mean((0, 2)), 0.0), (read.std((0, 2), correction=0), 1.0)):
        torch.testing.assert_close(value, torch.full((6,), expected).double(), rtol=0, atol=1e-9)
    assert float(read.std(0).std()) > 0.01


def test_the_reader_knows_where_a_number_stands():
    reader = GridReader(2, 6, 3, width=4, hidden=8).double().eval()
    values = torch.randn(5, 2, 36, dtype=torch.float64)
    turned = values.view(5, 2, 6, 6).mT.flatten(2)
    assert reader(values.flatten(1)).shape == (5, 3)
    assert relative(reader(turned.flatten(1)), reader(values.flatten(1))) > 1e-3


def test_what_is_no_grid_is_refused():
    with pytest.raises(ValueError, match="24 points were to be a grid of the 2 inputs"):
        probe(NETWORKS["one output"], 24)
    with pytest.raises(ValueError, match="of the 3 inputs"):
        symmetric(Architecture.mlp([3, 4, 1], SINE))
    with pytest.raises(ValueError, match="reader is 'picture'; expected 'mlp' or 'grid'"):
        ProbeNetwork(NETWORKS["one output"], 4, reader="picture")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start='grid' reads one picture alone"):
        SymmetricNetwork(
            NETWORKS["one output"], 4, channels=[25], messages=25, functions=["sine"], start="grid",
            bidirectional=True,
        )  # fmt: skip
    given = {"start": "grid", "channels": [25], "messages": 25, "functions": ["sine"]}
    for name, value, match in (
        ("functions", None, r"start='grid' needs functions=\['sine'\]\."),
        ("channels", [9], r"start='grid' needs as many channels in all layers.*=\[25\]"),
        ("messages", 96, "expected a square number as messages, from 16"),
        ("start", "evaluation", None),
    ):
        asked = {**given, name: value}
        if match is None:
            SymmetricNetwork(NETWORKS["one output"], 4, **asked)
            continue
        with pytest.raises(ValueError, match=match):
            SymmetricNetwork(NETWORKS["one output"], 4, **asked)
    with pytest.raises(ValueError, match="mix=False is for start='evaluation' or 'grid'"):
        SymmetricNetwork(NETWORKS["one output"], 4, mix=False)
    with pytest.raises(ValueError, match="a generator makes"):
        ProbeNetwork(NETWORKS["one output"], 4, 25, generator=True, reader="grid")
