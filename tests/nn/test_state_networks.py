"""Laws of every model of states: its symmetry, fresh and trained, and one code for all batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from state_laws import relative, train_a_little
from torch import Tensor
from torch_geometric.data import Batch

from nngraph.errors import ArchitectureError
from nngraph.graph import Activation, Architecture, NeuralGraphStack, Symmetry, to_batch
from nngraph.nn import StateNetwork, States
from nngraph.nn.models.gmn import GraphMetanetwork
from nngraph.nn.models.ng_gnn import FilmNetwork
from nngraph.nn.models.ng_t import RelationalNetwork
from nngraph.testing import (
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    random_architectures,
    random_stack,
    structured_architectures,
)

mlp = Architecture.mlp
SMALL: dict[str, Any] = {"channels": 8, "edge_channels": 3, "layers": 2, "hidden": 8}
#: name -> (model, small options)
CASES: dict[str, tuple[type[StateNetwork], dict[str, Any]]] = {
    "ng-gnn": (FilmNetwork, {**SMALL, "messages": 4, "scalers": True}),
    "ng-t": (RelationalNetwork, {**SMALL, "heads": 2, "head_channels": 2}),
    "gmn": (GraphMetanetwork, SMALL),
    "gmn, ordered pass": (GraphMetanetwork, {**SMALL, "encoder": {"ordered": True, "messages": 4}}),
}
#: Those that can run the networks they read.
PROBING = [name for name in CASES if CASES[name][0].traits.takes_runner]
SINE = Activation("sine", w0=10)
EVERY = {**dict(random_architectures()), **dict(structured_architectures())}
#: What each model meets alone; all others it meets in one batch.
ALONE = (
    "one-affine-map", "width-one", "mixed-biases", "several-outputs",
    "convolutions", "residual", "head-by-head",
)  # fmt: skip
models = pytest.mark.parametrize("name", CASES)


def build(
    name: str, architecture: Architecture | list[Architecture], outputs: int = 2, **changes: Any
) -> StateNetwork:
    torch.manual_seed(0)
    model, options = CASES[name]
    made = model(architecture, outputs, **{**options, **changes}).double().eval()
    return _shaken(made)


def _shaken(model: StateNetwork) -> StateNetwork:
    """No parameter is special: what starts at 0 would hide what it multiplies."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def check_symmetry(model: StateNetwork, networks: NeuralGraphStack) -> None:
    """Answers are invariant, states equivariant."""
    architecture, integers = networks.architecture, networks.integers

    def given(x: Tensor, e: Tensor) -> NeuralGraphStack:
        return NeuralGraphStack(architecture, x, e, integers=integers)

    def states(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        found = model.states(given(x, e))
        return found.x, found.edge_attr

    features = networks.x, networks.edge_attr
    assert_invariant(
        lambda x, e: model(given(x, e)), architecture, features=features, relabellings=2
    )
    assert_equivariant(states, architecture, features=features, relabellings=2)


@models
@pytest.mark.parametrize("kind", ALONE)
def test_symmetry_fresh_and_trained_and_one_answer_for_every_batch(name: str, kind: str):
    networks = random_stack(EVERY[kind], 3, 0)
    model = build(name, EVERY[kind])
    model.fit_statistics(networks)
    fresh = model(networks)
    for _ in range(2):
        check_symmetry(model, networks)
        answers = model(networks)
        assert answers.shape == (3, 2)
        assert relative(model(networks.to_batch()), answers) < 1e-10
        assert relative(torch.cat([model(graph) for graph in networks]), answers) < 1e-10
        train_a_little(model, networks)
    assert relative(model(networks), fresh) > 1e-3


@models
def test_one_model_reads_every_architecture_in_one_batch(name: str):
    model = build(name, [*EVERY.values()])
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(EVERY.values())]
    model.fit_statistics(to_batch(graphs))
    expected = torch.cat([model(graph) for graph in graphs])
    assert relative(model(to_batch(graphs)), expected) < 1e-10
    assert relative(model(to_batch(graphs[::-1])).flip(0), expected) < 1e-10
    assert len(torch.unique(expected[:, 0])) == len(graphs)
    # Relabelled, each by a relabelling of its own, they are answered alike.
    moved = [Symmetry(g.architecture).sample(i).act_on_graph(g) for i, g in enumerate(graphs)]
    assert relative(model(to_batch(moved)), expected) < 1e-10


@models
def test_depths_and_widths_it_never_saw(name: str):
    model = build(name, mlp([2, 4, 2], SINE))
    train_a_little(model, random_stack(mlp([2, 4, 2], SINE), 4, 0))
    for widths in ([2, 9, 3, 5, 1], [1, 2], [2, 30, 2]):
        networks = random_stack(mlp(widths, SINE), 2, 1)
        check_symmetry(model, networks)
        assert bool(torch.isfinite(model(networks)).all())


@models
def test_an_edge_whose_weight_is_zero_still_carries_messages(name: str):
    """Edges come from the architecture: what a neuron is reaches all that are joined with it."""
    architecture = mlp([2, 3, 3, 1])
    networks = random_stack(architecture, 2, 0, zero_fraction=1.0)
    assert not bool(networks.edge_attr.any())
    model = build(name, architecture)
    changed = networks.x.clone()
    changed[:, 2, 0] += 1  # the bias of the first hidden neuron
    other = NeuralGraphStack(architecture, changed, networks.edge_attr)
    before, after = model.states(networks), model.states(other)
    moved = (after.x - before.x).abs().amax(-1)
    joined = [0, 1, 2, 5, 6, 7]  # the inputs, itself, and the layer after it
    assert bool((moved[:, joined] > 1e-9).all())
    if before.edge_attr is not None and after.edge_attr is not None:
        edges = (after.edge_attr - before.edge_attr).abs().amax(-1)
        assert bool((edges[:, [0, 1, 6, 9, 12]] > 1e-9).all())  # the neuron's own edges
    answers = model(networks)
    answers.square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@models
def test_every_parameter_learns(name: str):
    for probes in (0, 3) if name in PROBING else (0,):
        model = build(name, mlp([2, 4, 3, 2], SINE), **({"probes": probes} if probes else {}))
        networks = random_stack(mlp([2, 4, 3, 2], SINE), 6, 0)
        model(networks).square().sum().backward()
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


@models
def test_wrong_permutations_and_other_places_are_noticed(name: str):
    architecture = mlp([2, 4, 3, 2], SINE)
    networks = random_stack(architecture, 3, 0)
    model = build(name, architecture)
    # Of the rows of one weight alone, and of what has a place: these are other networks.
    for key, axis in (("1.weight", 1), ("0.weight", 2), ("2.weight", 1), ("1.bias", 1)):
        values = networks.parameters()
        values[key] = values[key].flip(axis)
        wrong = NeuralGraphStack.from_parameters(architecture, values)
        assert relative(model(wrong), model(networks)) > 1e-6, key

    place = torch.randn(architecture.num_nodes, 8).double()
    encoder = model.encoder
    hook = encoder.register_forward_hook(lambda _, __, found: (found[0] + place, found[1]))

    def states(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        found = model.states(NeuralGraphStack(architecture, x, e))
        return found.x, found.edge_attr

    assert_not_equivariant(states, architecture, features=(networks.x, networks.edge_attr))
    hook.remove()


@models
def test_states_alone_and_what_is_refused(name: str):
    architecture = mlp([2, 4, 2], SINE)
    networks = random_stack(architecture, 2, 0)
    model = build(name, architecture, outputs=0)
    states = model.states(networks)
    assert isinstance(states, States)
    assert states.x.shape == (2, architecture.num_nodes, model.channels)
    if states.edge_attr is not None:
        assert states.edge_attr.shape == (2, architecture.num_edges, model.edge_channels)
    with pytest.raises(ValueError, match="num_outputs=0 and has no read-out"):
        model(networks)
    with pytest.raises(ArchitectureError, match="3 inputs; the model was built for 2"):
        model.states(random_stack(mlp([3, 4, 2], SINE), 1, 0))


@pytest.mark.parametrize("name", PROBING)
def test_with_probes(name: str):
    architecture = mlp([2, 4, 3, 1], SINE)
    networks = random_stack(architecture, 3, 0)
    model = build(name, architecture, probes=3)
    assert model.traits.access == "with probes"
    assert build(name, architecture).traits.access == "generic weights-only"
    check_symmetry(model, networks)
    graphs = [*networks, random_stack(mlp([2, 3, 1], SINE), 1, 0)[0]]
    answers = torch.cat([model(graph) for graph in graphs])
    assert relative(model(Batch.from_data_list(graphs)), answers) < 1e-10
    with pytest.raises(ArchitectureError, match="probes run the networks"):
        build(name, EVERY["residual"], probes=3)


@models
def test_checkpoints_change_nothing_but_what_is_kept(name: str):
    architecture = mlp([2, 5, 5, 2], SINE)
    networks = random_stack(architecture, 3, 0)
    found, kept = [], []
    for checkpoint in (False, True):
        model = build(name, architecture, checkpoint=checkpoint, dropout=0.5, layers=3).train()
        sizes: list[int] = []

        def pack(value: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(value.numel())
            return value

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            answers = model(networks)
        answers.square().sum().backward()
        found.append([answers, *(parameter.grad for parameter in model.parameters())])
        kept.append(sum(sizes))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert kept[1] < kept[0] / 2
