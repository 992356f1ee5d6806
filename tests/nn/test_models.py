"""Laws of every metanetwork: its symmetry, before and after training; one code for all batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from state_laws import relative, train_a_little
from torch import Tensor
from torch_geometric.data import Batch

from nngraph.datasets import CanonicaliseSines
from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Activation, Architecture, NeuralGraphStack, sample_moves
from nngraph.graph.relabelling import Symmetry
from nngraph.nn import MODELS, Metanetwork
from nngraph.testing import assert_invariant, random_architectures, random_stack

mlp = Architecture.mlp
sine, odd = Activation("sine", w0=30), Activation("sine", w0=10.1)
MESSAGES: dict[str, Any] = {"channels": 8, "messages": 4, "edge_channels": 3, "hidden": 16}
SYMMETRIC: dict[str, Any] = {"channels": (6, 5), "messages": 4, "hidden": 16}
#: id -> (model, options)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "message-passing": ("message-passing", MESSAGES),
    "no rounds": ("message-passing", {**MESSAGES, "rounds": 0}),
    "two rounds, probes": ("message-passing", {**MESSAGES, "rounds": 2, "probes": 5}),
    "no edge state": ("message-passing", {**MESSAGES, "edge_channels": 0, "rounds": 2}),
    "symmetric": ("symmetric", SYMMETRIC),
    "symmetric, probes": ("symmetric", {**SYMMETRIC, "probes": 5}),
    "symmetric, other functions": (
        "symmetric", {**SYMMETRIC, "functions": ["silu", "decaying", "tanh"]},
    ),
    "symmetric, back": ("symmetric", {**SYMMETRIC, "bidirectional": True}),
    "probe": ("probe", {"probes": 7, "hidden": 16}),
}
#: Under names of their own: random architectures have some of the same.
SIRENS = {
    "siren-one-hidden-layer": mlp([2, 5, 1], sine),
    "siren-several-outputs": mlp([2, 4, 3, 3], sine),
    "siren-no-bias": mlp([2, 5, 4, 1], sine, bias=False),
    "siren-mixed-biases": mlp([2, 5, 4, 2], odd, bias=[True, False, True]),
    "siren-width-one": mlp([2, 1, 3, 1, 2], odd),
    "siren-one-affine-map": mlp([3, 2]),
    "siren-deep": mlp([2, 3, 4, 3, 4, 3, 1], odd),
    "siren-wide-input": mlp([9, 4, 2], odd),
}
ANY = dict(random_architectures())
assert not SIRENS.keys() & ANY.keys()
#: What variants of a model meet; the model itself, a case of its own name, meets all.
FEW = ("one-affine-map", "width-one", "mixed-biases", "several-outputs", "mixed-activations")
PAIRS = [
    pytest.param(case, architecture, id=f"{case} on {name}")
    for case, (model, _) in CASES.items()
    for name, architecture in ({**SIRENS, **ANY} if model == "symmetric" else ANY).items()
    if case == model or name in FEW
]


def build(case: str, architecture: Architecture, outputs: int = 3, **changes: Any) -> Metanetwork:
    name, options = CASES[case]
    torch.manual_seed(0)
    return MODELS[name](architecture, outputs, **{**options, **changes}).double()


def of_networks(model: Metanetwork, architecture: Architecture) -> Callable[..., Tensor]:
    return lambda x, e: model(NeuralGraphStack(architecture, x, e))


def moved_by_signs(networks: NeuralGraphStack, seed: int) -> NeuralGraphStack:
    generator = torch.Generator().manual_seed(seed)
    values = sample_moves(
        networks.architecture, networks.parameters(), symmetries=["phase"], generator=generator
    )
    return NeuralGraphStack.from_parameters(networks.architecture, values)


@pytest.mark.parametrize(("case", "architecture"), PAIRS)
def test_invariant_and_one_answer_for_every_batch(case: str, architecture: Architecture):
    networks = random_stack(architecture, 4, 0)
    model = build(case, architecture)
    model.fit_statistics(networks)
    model.eval()
    fresh = model(networks)
    function = of_networks(model, architecture)
    for _ in range(2):
        assert_invariant(
            function, architecture, features=(networks.x, networks.edge_attr), tolerance=1e-10
        )
        answers = model(networks)
        assert answers.shape == (4, 3)
        assert relative(model(networks.to_batch()), answers) < 1e-10
        assert relative(torch.cat([model(graph) for graph in networks]), answers) < 1e-10
        if not model.traits.reads_signs:
            for seed in range(3):
                assert relative(model(moved_by_signs(networks, seed)), answers) < 1e-9
        train_a_little(model, networks)
    assert relative(model(networks), fresh) > 1e-3  # training changed it


MIXED = [
    mlp([2, 5, 1], odd), mlp([2, 3, 4, 1], odd), mlp([2, 7, 1], odd), mlp([2, 1]),
    mlp([2, 3, 4, 1], odd), mlp([2, 2, 2, 2, 1], odd, bias=False), mlp([2, 5, 2], odd),
    mlp([1, 4, 3, 1], odd),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mixed_widths_and_depths_are_read_network_by_network(case: str):
    model = build(case, mlp([2, 4, 4, 2], odd))
    model.fit_statistics(random_stack(mlp([2, 4, 4, 2], odd), 4, 0))
    model.eval()
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(MIXED)]
    expected = torch.cat([model(graph) for graph in graphs])
    found = model(Batch.from_data_list(graphs))
    assert relative(found, expected) < 1e-10
    # The order of the batch is the order of the answers.
    turned = model(Batch.from_data_list(graphs[::-1]))
    assert relative(turned.flip(0), expected) < 1e-10
    assert len(torch.unique(found[:, 0])) == len(MIXED)
    # Every network has its part in the gradient.
    found.square().sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("built", [(2, 4, 4, 2), (2, 2)], ids=str)
def test_depths_and_widths_it_never_saw(case: str, built: tuple[int, ...]):
    model = build(case, mlp(built, odd))
    train_a_little(model, random_stack(mlp(built, odd), 4, 0))
    for widths in ([2, 9, 3, 5, 7, 1], [1, 2], [2, 20, 2]):
        architecture = mlp(widths, odd)
        networks = random_stack(architecture, 3, 1)
        assert_invariant(
            of_networks(model, architecture), architecture,
            features=(networks.x, networks.edge_attr), tolerance=1e-10,
        )  # fmt: skip
        if not model.traits.reads_signs:
            assert relative(model(moved_by_signs(networks, 0)), model(networks)) < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case: str):
    # The deeper networks are for the map that serves them alone.
    architecture = mlp([2, 4, 3, 2], odd)
    model = build(case, architecture)
    model.fit_statistics(random_stack(architecture, 4, 0))
    networks = [*random_stack(architecture, 8, 0), *random_stack(mlp([2, 3, 3, 3, 2], odd), 4, 0)]
    model(Batch.from_data_list(networks)).square().sum().backward()
    without = [
        name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())
    ]
    assert without == []


@pytest.mark.parametrize("case", [*CASES, "flat"])
def test_zero_weights(case: str):
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 3, 0, zero_fraction=1.0)
    assert not bool(networks.edge_attr.any())
    model = build(case, architecture) if case != "flat" else flat(architecture)
    model.fit_statistics(networks)
    answers = model(networks)
    assert bool(torch.isfinite(answers).all())
    answers.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def flat(architecture: Architecture, **options: Any) -> Metanetwork:
    torch.manual_seed(0)
    return MODELS["flat"](architecture, 3, **{"hidden": 16, **options}).double().eval()


@pytest.mark.parametrize("case", CASES)
def test_too_many_inputs_or_outputs_are_refused(case: str):
    model = build(case, mlp([2, 4, 2], odd))
    with pytest.raises(ArchitectureError, match="3 inputs; the model was built for 2"):
        model(random_stack(mlp([3, 4, 2], odd), 2, 0))
    with pytest.raises(ArchitectureError, match="3 outputs; the model was built for 2"):
        model(random_stack(mlp([2, 4, 3], odd), 2, 0))
    graphs = [random_stack(mlp([2, 4, n], odd), 1, 0)[0] for n in (1, 3)]
    with pytest.raises(ArchitectureError, match="3 outputs"):
        model(Batch.from_data_list(graphs))


@pytest.mark.parametrize("name", MODELS)
def test_training_and_evaluation_mode(name: str):
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 3, 0)
    torch.manual_seed(0)
    model = MODELS[name](architecture, 3, dropout=0.5).double()
    model.train()
    assert not torch.equal(model(networks), model(networks))
    model.eval()
    assert torch.equal(model(networks), model(networks))


@pytest.mark.parametrize("name", MODELS)
def test_float32_and_what_a_model_says_of_itself(name: str):
    architecture = mlp([2, 4, 3, 2], sine)
    model = MODELS[name](architecture, 5)
    answers = model(random_stack(architecture, 3, 0, torch.float32))
    assert (answers.dtype, answers.shape) == (torch.float32, (3, 5))
    columns = {"symmetric": "activation-structured weights-only", "probe": "with probes"}
    assert model.traits.access == columns.get(name, "generic weights-only")
    if name in ("message-passing", "symmetric"):
        assert MODELS[name](architecture, 5, probes=2).traits.access == "with probes"
    with pytest.raises(InvalidGraphError, match="given a Tensor"):
        model(answers)


# -- what must be noticed ---------------------------------------------------------------------


def test_the_flat_network_is_not_invariant():
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 4, 0)
    model = flat(architecture)
    moved = Symmetry(architecture).sample_stack(4, 0).act_on_stack(networks)
    assert relative(model(moved), model(networks)) > 1e-3
    assert not model.traits.invariant


def test_the_flat_network_reads_its_own_architecture_in_any_batch():
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 4, 0)
    model = flat(architecture)
    answers = model(networks)
    assert relative(model(networks.to_batch()), answers) < 1e-12
    assert relative(torch.cat([model(graph) for graph in networks]), answers) < 1e-12
    with pytest.raises(ArchitectureError, match="reads no other"):
        model(random_stack(mlp([2, 4, 4, 2], odd), 2, 0))
    graphs = [random_stack(a, 1, 0)[0] for a in (architecture, mlp([2, 3, 3, 2], odd))]
    with pytest.raises(ArchitectureError, match="reads no other"):
        model(Batch.from_data_list(graphs))


def test_message_passing_needs_a_canonical_form_against_signs():
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 4, 0)
    model = build("message-passing", architecture).eval()
    moved = moved_by_signs(networks, 0)
    assert relative(model(moved), model(networks)) > 1e-3
    canonical = CanonicaliseSines()
    assert relative(model(canonical(moved)), model(canonical(networks))) < 1e-9
    # ... which does not cost the other symmetry.
    relabelled = Symmetry(architecture).sample_stack(4, 0).act_on_stack(moved)
    assert relative(model(canonical(relabelled)), model(canonical(networks))) < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_permutation_is_noticed(case: str):
    # Of the rows of one weight alone: that is another network.
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 4, 0)
    model = build(case, architecture).eval()
    values = networks.parameters()
    values["0.weight"] = values["0.weight"].flip(1)
    wrong = NeuralGraphStack.from_parameters(architecture, values)
    assert relative(model(wrong), model(networks)) > 1e-6


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_outputs_are_told_apart(case: str):
    architecture = mlp([2, 4, 3, 2], odd)
    networks = random_stack(architecture, 4, 0)
    model = build(case, architecture).eval()
    for name, axis in (("0.weight", 2), ("2.weight", 1)):
        values = networks.parameters()
        values[name] = values[name].flip(axis)
        swapped = NeuralGraphStack.from_parameters(architecture, values)
        assert relative(model(swapped), model(networks)) > 1e-6


# -- what is particular to some ---------------------------------------------------------------


def test_networks_of_different_frequencies_in_one_batch():
    model = build("symmetric", mlp([2, 4, 1], sine)).eval()
    graphs = [random_stack(mlp([2, 4, 1], Activation("sine", w0=w0)), 1, 0)[0] for w0 in (1, 30)]
    answers = torch.cat([model(graph) for graph in graphs])
    assert relative(model(Batch.from_data_list(graphs)), answers) < 1e-10
    assert relative(answers[:1], answers[1:]) > 1e-3


def test_what_is_not_a_chain_is_refused_by_models_of_chains():
    from nngraph.graph import NeuronGroup, Parameter

    groups = (NeuronGroup("in", 2, "input"), NeuronGroup("out", 2, "output"))
    two = (Parameter("a", (2, 2), (1, 0)), Parameter("b", (2, 2), (1, 0)))
    networks = random_stack(Architecture(groups, two), 2, 0)
    for name, model in MODELS.items():
        if name != "probe" and not model.traits.chains_only:  # which runs others by a runner
            assert model(networks.architecture, 3).double()(networks).shape == (2, 3)
            continue
        with pytest.raises(ArchitectureError, match="not a chain"):
            MODELS[name](networks.architecture, 3)
        built = MODELS[name](Architecture.mlp([2, 3, 2], Activation("sine", w0=30)), 3).double()
        with pytest.raises(ArchitectureError, match="is not a chain"):
            built(networks)
