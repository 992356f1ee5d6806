"""The group of each neuron's activation: scales, signs, phases; no answer and no state moves."""

from __future__ import annotations

import pytest
import torch
from state_laws import relative
from torch import Tensor

from nngraph.datasets import Relabel, ScaleNeurons
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Activation,
    Architecture,
    NeuralGraphStack,
    Symmetry,
    forward,
    to_batch,
)
from nngraph.nn import EditingNetwork, SymmetricNetwork
from nngraph.nn.layers.neurons import NEURON_LAYERS, Received
from nngraph.testing import assert_equivariant, random_stack

mlp = Architecture.mlp
sine = Activation("sine", w0=10.1)
NETWORKS = {
    "relu": mlp([2, 5, 4, 3], "relu"),
    "leaky relu, no bias": mlp([3, 4, 4, 2], "leaky_relu", bias=False),
    "tanh": mlp([2, 5, 4, 3], "tanh"),
    "sine": mlp([2, 5, 4, 3], sine),
    "relu, tanh, sine": mlp([2, 5, 4, 3, 2], ["relu", "tanh", sine]),
    "sine, gelu, relu": mlp([2, 5, 4, 3, 2], [sine, "gelu", "relu"]),
    "linear": mlp([2, 5, 4, 3], "identity"),
    "linear, no bias": mlp([3, 4, 4, 2], "identity", bias=False),
    "relu, linear, tanh": mlp([2, 5, 4, 3, 2], ["relu", "identity", "tanh"]),
    "tanh, sine, leaky relu, silu": mlp([9, 3, 4, 3, 4, 1], ["tanh", sine, "leaky_relu", "silu"]),
}


def build(*architectures: Architecture, outputs: int = 3, back: bool = True) -> SymmetricNetwork:
    torch.manual_seed(0)
    model = SymmetricNetwork(
        architectures, outputs, channels=(6, 5), messages=4, hidden=16, state_channels=7,
        bidirectional=back,
    )  # fmt: skip
    return model.double().eval()


def moved(networks: NeuralGraphStack, spread: float = 3.0) -> NeuralGraphStack:
    """Return the same functions: every neuron moved by its own group, not relabelled."""
    return ScaleNeurons(spread)(networks)


@pytest.mark.parametrize("back", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_nothing_moves_that_the_activations_allow(architecture: Architecture, back: bool):
    model = build(architecture, back=back)
    networks = random_stack(architecture, 4, 0)
    model.fit_statistics(networks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):  # fresh, and trained
        answers = model(networks)
        other = moved(networks)
        assert relative(other.edge_attr, networks.edge_attr) > 0.1
        assert relative(model(other), answers) < 1e-10
        if back:
            states = model.states(networks).x
            assert relative(model.states(other).x, states) < 1e-10
        assert relative(model(Relabel()(other)), answers) < 1e-10
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(networks), torch.arange(4) % 3).backward()
            optimizer.step()


@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_states_are_relabelled_with_the_neurons(architecture: Architecture):
    model = build(architecture)

    def states(x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        return model.states(NeuralGraphStack(architecture, x, edge_attr)).x, edge_attr

    networks = random_stack(architecture, 3, 0)
    assert_equivariant(states, architecture, features=(networks.x, networks.edge_attr))


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_scales_far_from_one_do_no_harm(activation: str):
    architecture = mlp([2, 6, 6, 6, 6, 2], activation)
    networks, model = random_stack(architecture, 4, 0), build(architecture)
    other = moved(networks, spread=1e6)
    assert relative(model(other), model(networks)) < 1e-8
    assert relative(model.states(other).x, model.states(networks).x) < 1e-8


@pytest.mark.parametrize(
    ("name", "factor"), [("tanh", 2.0), ("relu", -1.0), (sine, 2.0), ("gelu", -1.0)], ids=str
)
def test_what_changes_the_function_changes_the_answer(name: Activation | str, factor: float):
    architecture = mlp([2, 5, 4, 2], name)
    networks, model = random_stack(architecture, 3, 0), build(architecture)
    values = networks.parameters()
    values["0.weight"] = values["0.weight"] * factor
    values["0.bias"] = values["0.bias"] * factor
    values["1.weight" if "1.weight" in values else "2.weight"] /= factor
    other = NeuralGraphStack.from_parameters(architecture, values)
    assert relative(model(other), model(networks)) > 1e-4


def test_the_pass_back_tells_a_neuron_what_follows():
    architecture = mlp([2, 5, 4, 2], "relu")
    networks = random_stack(architecture, 3, 0)
    values = networks.parameters()
    last = list(values)[-2]
    values[last] = values[last] * 1.5
    other = NeuralGraphStack.from_parameters(architecture, values)
    for back in (False, True):
        model = build(architecture, outputs=0, back=back)
        first = slice(2, 7)
        change = relative(model.states(other).x[:, first], model.states(networks).x[:, first])
        assert (change > 1e-4) == back


def test_kinds_depths_and_widths_in_one_batch():
    architectures = [*NETWORKS.values(), mlp([2, 3], "relu"), mlp([2, 6, 5, 4, 3, 3, 2], "tanh")]
    architectures = [a for a in architectures if a.widths[0] != 9]
    model = build(*architectures)
    stacks = [random_stack(a, 2, i) for i, a in enumerate(architectures)]
    answers = torch.cat([model(stack) for stack in stacks])
    mixed = to_batch([moved(stack)[i] for stack in stacks for i in range(2)])
    assert relative(model(mixed), answers) < 1e-10
    answers.square().sum().backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    # Silent are only maps of kinds that no network has at a depth.
    assert silent
    assert all(set(name.split(".")) & set(NEURON_LAYERS) for name in silent)
    assert [name for name in silent if "layers.1.odd" in name or "layers.1.homog" in name] == []


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_weights_of_zero_carry_what_is_learned(activation: str):
    architecture = mlp([2, 4, 4, 1], activation)
    model = build(architecture)
    nothing = random_stack(architecture, 2, 0)
    nothing = NeuralGraphStack(
        architecture, torch.zeros_like(nothing.x), torch.zeros_like(nothing.edge_attr)
    )
    nothing.edge_attr.requires_grad_()
    model(nothing).square().sum().backward()
    assert nothing.edge_attr.grad is not None
    assert bool(nothing.edge_attr.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", NEURON_LAYERS)
def test_a_cell_keeps_the_books(kind: str):
    torch.manual_seed(0)
    layer = NEURON_LAYERS[kind](3, 4, NEURON_LAYERS[kind].functions[0], 2, (1.0, 1.0)).double()
    u, b, v = (torch.randn(5, 6, n, dtype=torch.float64) for n in (3, 1, 2))
    one = torch.ones(5, 6, 1, dtype=torch.float64)
    sign = one.clone().bernoulli_(0.5) * 2 - 1
    step = torch.randint(-2, 3, (5, 6, 1)).double()
    scale = torch.rand(5, 6, 1).double() + 0.1
    chi = {
        "free": one, "odd": sign, "sine": sign, "homogeneous": scale, "linear": sign * scale
    }
    omega = chi[kind] * ((-1) ** step.abs() if kind == "sine" else one)
    phase = chi[kind] * b + (step * torch.pi if kind == "sine" else 0)
    here, there = Received(u, b), Received(chi[kind] * u, phase)
    (z, free), (z_moved, free_moved) = layer.forwards(here), layer.forwards(there)
    torch.testing.assert_close(z_moved, omega * z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(free_moved, free, rtol=1e-10, atol=1e-10)
    backward = v / omega
    back, back_moved = layer.backwards(here, v), layer.backwards(there, backward)
    torch.testing.assert_close(back_moved, back / chi[kind], rtol=1e-10, atol=1e-10)
    entries, entries_moved = layer.entries(here, v), layer.entries(there, backward)
    torch.testing.assert_close(entries_moved, chi[kind] * entries, rtol=1e-10, atol=1e-10)


def test_kinds_are_asked_for_by_name():
    model = build(mlp([2, 4, 1], sine))
    with pytest.raises(ArchitectureError, match=r"has odd neurons; .* built for sine ones"):
        model(random_stack(mlp([2, 4, 3, 1], [sine, "tanh"]), 2, 0))
    with pytest.raises(ValueError, match="function 'cosine'; expected one of"):
        SymmetricNetwork(mlp([2, 4, 1], sine), 3, functions=["cosine"])
    with pytest.raises(ValueError, match="has no states; build it with bidirectional"):
        build(mlp([2, 4, 1]), back=False).states(random_stack(mlp([2, 4, 1]), 2, 0))
    with pytest.raises(ValueError, match="num_outputs=0"):
        build(mlp([2, 4, 1]), outputs=0)(random_stack(mlp([2, 4, 1]), 2, 0))


def test_a_relabelling_of_one_weight_alone_is_noticed():
    architecture = mlp([2, 5, 4, 2], "tanh")
    networks, model = random_stack(architecture, 3, 0), build(architecture)
    values = networks.parameters()
    values["0.weight"] = values["0.weight"].flip(1)
    wrong = NeuralGraphStack.from_parameters(architecture, values)
    assert relative(model(wrong), model(networks)) > 1e-6
    assert Symmetry(architecture).order() == 120 * 24


@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_edits_move_as_the_networks_do(architecture: Architecture):
    torch.manual_seed(0)
    body = SymmetricNetwork(
        architecture, 0, channels=(6, 5), messages=4, state_channels=7, equivariant_vectors=5,
        bidirectional=True,
    )  # fmt: skip
    model = EditingNetwork(body, context=3, copies=2, rank=4, hidden=8, scale=100.0).double().eval()
    networks = random_stack(architecture, 2, 0)
    model.fit_statistics(networks)
    other, inputs = moved(networks), torch.randn(7, architecture.widths[0], dtype=torch.float64)
    assert relative(model(other, inputs), model(networks, inputs)) < 1e-9
    assert relative(model(networks, inputs), forward(networks, inputs)) > 1e-3
    # The weights are others, as much as those that were read.
    one, two = model.edit(networks), model.edit(other)
    assert relative(two.edge_attr, one.edge_attr) > 0.1


def test_it_can_start_as_the_networks_own_forward_pass():
    architecture = mlp([2, 6, 5, 4, 1], sine)
    networks = random_stack(architecture, 3, 0)
    model = SymmetricNetwork(
        architecture, 3, channels=[7], messages=7, functions=["sine"], start="evaluation"
    ).double().eval()  # fmt: skip
    model.fit_statistics(networks)
    _, levels = model.run(networks)
    assert levels[-1].ends is not None
    # Weights of the last layer are read in their own scale, and biases apart.
    scale = float(model.passes.scales.weight[4]) * 4**0.5
    found = scale * levels[-1].ends[..., 1:].squeeze(1) + networks.parameters()["3.bias"]
    points = model.passes.layers[0]["sine"].read.weight.detach()
    torch.testing.assert_close(
        found, forward(networks, points).squeeze(-1), rtol=1e-5, atol=1e-5
    )  # drawn in float32
    assert relative(model(moved(networks)), model(networks)) < 1e-9


def test_a_start_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="needs networks of sine neurons alone"):
        SymmetricNetwork(mlp([2, 4, 1], "tanh"), 3, start="evaluation")
    with pytest.raises(ValueError, match=r"such as channels=\[4\] \(got \[8, 8\]\)"):
        SymmetricNetwork(
            mlp([2, 4, 1], sine), 3, channels=[8], messages=4, functions=["sine"],
            start="evaluation",
        )  # fmt: skip
    with pytest.raises(ValueError, match="start is 'zero'"):
        SymmetricNetwork(mlp([2, 4, 1], sine), 3, start="zero")
