"""Every activation that the library knows, in every part that has to know it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from converters import load_graph, save_graph
from nngraph.alignment import canonical_form, distance, match_weights
from nngraph.alignment.canonical import signed_spaces
from nngraph.datasets import ScaleNeurons
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Activation,
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    Relabelling,
    Symmetry,
    forward,
    hidden_layers,
    join_ensemble,
    move_neurons,
    run_ensemble,
    to_batch,
)
from nngraph.nn import EditingNetwork, MessagePassingNetwork, Metanetwork, SymmetricNetwork
from nngraph.nn.features import input_features
from nngraph.nn.models.editing import AddedNeurons
from nngraph.nn.probes.running import ChainRunner
from nngraph.testing import every_activation, random_stack
from nngraph.zoo import Fact, Origin, append_networks, create_zoo

EVERY = every_activation()
PRELU = Activation("other", operator="aten.prelu")
every = pytest.mark.parametrize("activation", EVERY, ids=str)
#: The first activation of each symmetry.
ONE_OF_EACH = list({a.symmetry: a for a in reversed(EVERY)}.values())
POINTS = torch.linspace(-1, 1, 18, dtype=torch.float64).view(9, 2).sin()


def chain(activation: Activation, bias: bool = True) -> Architecture:
    return Architecture.mlp([2, 5, 4, 2], activation, bias)


def relative(found: Tensor, expected: Tensor) -> float:
    # Some activations are 0 everywhere, and so are their networks, where they have no bias.
    size = expected.detach().abs().max().clamp(min=1e-300)
    return float((found - expected).detach().abs().max() / size)


def all_that_moves(architecture: Architecture) -> SymmetricNetwork:
    torch.manual_seed(0)
    return SymmetricNetwork(
        architecture, 3, channels=(6, 5), messages=4, hidden=16, state_channels=7,
        bidirectional=True,
    ).double().eval()  # fmt: skip


# -- one symmetry, known everywhere ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "bias"),
    [*((a, True) for a in EVERY), *((a, False) for a in ONE_OF_EACH)],
    ids=lambda value: {True: "", False: "no bias"}.get(value, str(value)),
)
def test_all_parts_agree_on_the_symmetry_of_a_neuron(activation: Activation, bias: bool):
    architecture = chain(activation, bias)
    networks = random_stack(architecture, 2, 0)
    moved = ScaleNeurons(3.0)(networks)
    free = activation.symmetry == "none"
    for name, value in networks.parameters().items():
        assert torch.equal(moved.parameters()[name], value) == (free or name == "2.bias")
    assert relative(forward(moved, POINTS), forward(networks, POINTS)) < 1e-10
    model = all_that_moves(architecture)
    assert relative(model(moved), model(networks)) < 1e-9
    assert relative(model.states(moved).x, model.states(networks).x) < 1e-9
    one, other = networks[1], moved[1]
    g, form = Symmetry(architecture).sample(0), canonical_form(one)
    assert relative(forward(form, POINTS), forward(one, POINTS)) < 1e-10
    assert same(g.act_on_graph(form), canonical_form(g.act_on_graph(other)))
    assert same(canonical_form(form), form)
    # None but by chance is in this form.
    assert distance(form, one) == 0 if free else distance(form, other) > 0.01


def same(one: NeuralGraph, other: NeuralGraph) -> bool:
    return all(
        torch.allclose(other.parameters()[name], value, rtol=1e-9, atol=1e-9)
        for name, value in one.parameters().items()
    )


#: Symmetry -> factors of a neuron that it allows, of those tried.
FACTORS = {
    "none": {1.0},
    "sign": {1.0, -1.0},
    "phase": {1.0, -1.0},
    "positive_scale": {1.0, 0.6, 2.5},
    "any_scale": {1.0, 0.6, 2.5, -1.0, -0.6, -2.5},
}


@every
def test_no_part_takes_a_neuron_to_have_more(activation: Activation):
    architecture = chain(activation)
    tried = torch.tensor(sorted(FACTORS["any_scale"]), dtype=torch.float64)
    one = random_stack(architecture, 1, 0)
    values = {n: v.expand(len(tried), *v.shape[1:]) for n, v in one.parameters().items()}
    move_neurons(values, hidden_layers(architecture)[0], tried.unsqueeze(-1).expand(-1, 5))
    model = all_that_moves(architecture)
    answers, before = model(NeuralGraphStack.from_parameters(architecture, values)), model(one)[0]
    changes = [relative(answer, before) for answer in answers]
    unmoved = {q for q, change in zip(tried.tolist(), changes, strict=True) if change < 1e-9}
    assert unmoved == FACTORS[activation.symmetry]
    assert all(not 1e-9 <= change < 1e-6 for change in changes)


def test_what_a_layer_of_several_kinds_allows_is_known_of_each():
    architecture = Architecture.mlp([2, 5, 4, 3, 2], ["relu", "identity", "tanh"])
    networks, model = random_stack(architecture, 3, 0), all_that_moves(architecture)
    moved = ScaleNeurons(1e6)(networks)
    assert relative(moved.edge_attr, networks.edge_attr) > 1e3
    assert relative(model(moved), model(networks)) < 1e-9
    assert same(canonical_form(moved[1]), canonical_form(networks[1]))


@pytest.mark.parametrize("activation", ONE_OF_EACH, ids=str)
def test_signs_are_matched_where_there_are_any(activation: Activation):
    architecture = chain(activation)
    network = random_stack(architecture, 1, 0)[0]
    if activation.symmetry in ("none", "positive_scale"):
        assert match_weights(network, network, signs=True, starts=1).signs == {}
        return
    values = network.parameters()
    for layer in hidden_layers(architecture):
        signs = torch.arange(values[layer.weight].shape[0]) % 2 * 2.0 - 1
        move_neurons(values, layer, signs.to(values[layer.weight]))
    flipped = network.with_parameters(values)
    assert distance(network, flipped) > 0.1
    found = match_weights(network, flipped, signs=True, starts=1)
    assert distance(network, found.apply(flipped)) < 1e-12


def test_neurons_that_share_a_space_change_sign_together():
    plain = Architecture.mlp([2, 3, 3, 1], ["tanh", "relu"])
    shared = [replace(group, space="s") for group in plain.groups[1:3]]
    one, *_, last = plain.groups
    assert signed_spaces(plain) == ("hidden.1",)
    assert signed_spaces(Architecture((one, *shared, last), plain.parameters)) == ()
    both = [replace(group, activation=Activation("tanh")) for group in shared]
    assert signed_spaces(Architecture((one, *both, last), plain.parameters)) == ("s",)


# -- every part serves every activation -----------------------------------------------------------


ALL = [chain(activation) for activation in [*EVERY, PRELU]]
SIZES = {"channels": 8, "messages": 4, "edge_channels": 3, "hidden": 16}
MODELS = {
    "message passing": lambda: MessagePassingNetwork(ALL, 3, **SIZES),
    "symmetric": lambda: SymmetricNetwork(ALL, 3, channels=(6, 5), messages=4, hidden=16),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_models_read_networks_of_every_activation_side_by_side(build: Callable[[], Metanetwork]):
    model = build().double().eval()
    stacks = [random_stack(architecture, 1, i) for i, architecture in enumerate(ALL)]
    relabelled = [Symmetry(s.architecture).sample(0).act_on_graph(s[0]) for s in stacks]
    answers = model(to_batch([stack[0] for stack in stacks]))
    assert bool(answers.isfinite().all())
    assert relative(model(to_batch(relabelled)), answers) < 1e-9
    assert relative(torch.cat([model(stack) for stack in stacks[::7]]), answers[::7]) < 1e-9
    # The same weights with another activation are another network.
    same_weights = [
        NeuralGraphStack.from_parameters(a, stacks[0].parameters())[0]
        for a in (ALL[0], chain(Activation("relu")), chain(Activation("tanh")))
    ]
    one, *others = model(to_batch(same_weights))
    assert all(relative(other, one) > 1e-3 for other in others)


@every
def test_every_activation_runs_in_every_layout(activation: Activation):
    plain = chain(activation)
    first, *rest = plain.groups
    # Of the inputs too.
    whole = Architecture((replace(first, activation=activation), *rest), plain.parameters)
    networks = random_stack(whole, 2, 0)
    expected = forward(networks, POINTS)
    assert bool(expected.isfinite().all())
    batch = to_batch([*networks, random_stack(chain(Activation("silu")), 1, 0)[0]])
    answers = ChainRunner(2).outputs(input_features(batch), POINTS, 2).view(3, 2, -1).mT
    assert relative(answers[:2], expected) < 1e-10
    assert relative(run_ensemble([networks, networks], POINTS), expected) < 1e-10
    joined = join_ensemble([networks, networks], [0.5, 0.5])
    assert relative(forward(joined, POINTS), expected) < 1e-10


def test_networks_of_every_activation_are_edited():
    architectures = [chain(activation) for activation in EVERY]
    body = SymmetricNetwork(
        architectures, 0, channels=(6, 5), messages=4, state_channels=7, equivariant_vectors=5,
        bidirectional=True,
    )  # fmt: skip
    model = EditingNetwork(body, context=3, copies=2, rank=4, hidden=8).double().eval()
    stacks = [random_stack(architecture, 1, i) for i, architecture in enumerate(architectures)]
    edited = model(stacks, POINTS)
    moved = model([ScaleNeurons(2.0)(stack) for stack in stacks], POINTS)
    for stack, one, other in zip(stacks, edited, moved, strict=True):
        assert relative(other, one) < 1e-8, stack.architecture
        assert relative(one, forward(stack, POINTS)) > 1e-6 or not bool(one.any())
        added = AddedNeurons(stack.architecture, 3, 4).double()
        context = torch.randn(1, 3, dtype=torch.float64)
        assert relative(added.run(context, POINTS), forward(added(context), POINTS)) < 1e-10


def test_files_and_zoos_hold_networks_of_every_activation(tmp_path: Path):
    functions = [*EVERY, PRELU]
    architecture = Architecture.mlp([2] * (len(functions) + 2), functions)
    networks = random_stack(architecture, 3, 0)
    create_zoo(tmp_path, [Fact("source")], group="source", target="source", dtype="float64")
    zoo = append_networks(
        tmp_path, architecture, networks.parameters(), {"source": torch.arange(3)},
        Origin("0" * 64, {}),
    )  # fmt: skip
    save_graph(zoo.network(2), tmp_path / "one.safetensors")
    for found in (zoo.network(2), load_graph(tmp_path / "one.safetensors")):
        assert [group.activation for group in found.architecture.groups[1:-1]] == functions
        assert same(found, networks[2])


def test_what_is_not_known_is_never_run():
    networks = random_stack(chain(PRELU), 2, 0)
    message = r"other\(aten.prelu\) is not known exactly"
    with pytest.raises(ArchitectureError, match=message):
        forward(networks, POINTS)
    with pytest.raises(ArchitectureError, match=message):
        ChainRunner(2).responses(input_features(networks.to_batch()), POINTS)
    assert same(canonical_form(networks[0]), networks[0])
    assert isinstance(match_weights(networks[0], networks[1]).relabelling, Relabelling)
