"""Networks of any architecture, read so that no scale and no sign of a neuron leaves a trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from state_laws import relative
from test_neuron_scales import MODULES, shaken
from torch import nn

from converters import to_graph
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    NeuronScale,
    Symmetry,
    Topology,
    sample_scales,
    scale_parameters,
    to_batch,
)
from nngraph.nn import EditingNetwork, SymmetricNetwork
from nngraph.nn.layers.characters import KIND_NAMES, characters_of
from nngraph.zoo.classifiers.spec import ClassifierSpec

CNN = ClassifierSpec((6, 6, 1), 3, (3, 3, 4), (3, 3, 3), norm=True, residual=True)


@pytest.fixture(scope="module")
def networks() -> dict[str, NeuralGraph]:
    made = {name: (make(), inputs()) for name, (make, inputs) in MODULES.items()}
    layers = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    made["relu and tanh"] = nn.Sequential(*layers), torch.randn(2, 2, dtype=torch.float64)
    graphs = {name: to_graph(shaken(module), x) for name, (module, x) in made.items()}
    values = shaken(CNN.module()).state_dict()
    own = CNN.architecture()
    own_values = {p.name: values[p.name] for p in own.parameters}
    return graphs | {"classifier": NeuralGraph.from_parameters(own, own_values)}


def build(*architectures: Architecture, outputs: int = 3, back: bool = True) -> SymmetricNetwork:
    torch.manual_seed(0)
    model = SymmetricNetwork(
        architectures, outputs, channels=(6, 5), messages=8, hidden=16, state_channels=7,
        bidirectional=back,
    )  # fmt: skip
    return model.double().eval()


def moved(graph: NeuralGraph, bound: float = 1e3) -> NeuralGraph:
    """Return the same function: every neuron moved by all that its architecture states."""
    drawn = sample_scales(graph.architecture, bound=bound)
    values = scale_parameters(graph.architecture, graph.parameters(), drawn)
    return graph.with_parameters(values)


def stacked(graph: NeuralGraph) -> NeuralGraphStack:
    """Return three networks that differ from it."""
    values = {
        name: value + 0.1 * torch.rand(3, *value.shape, dtype=value.dtype)
        if value.is_floating_point() else value.expand(3, *value.shape)
        for name, value in graph.parameters().items()
    }
    return NeuralGraphStack.from_parameters(graph.architecture, values)


@pytest.mark.parametrize("back", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("name", [*MODULES, "relu and tanh", "classifier"])
def test_nothing_moves_that_is_derived(networks: dict[str, NeuralGraph], name: str, back: bool):
    graph = networks[name]
    # With an architecture beside it that is no chain.
    model = build(graph.architecture, CNN.architecture(), back=back)
    model.fit_statistics(stacked(networks["classifier"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):  # fresh, and trained
        other = moved(graph)
        assert relative(other.edge_attr, graph.edge_attr) > 0.1
        assert relative(model.embed(other), model.embed(graph)) < 1e-10
        assert relative(model(other), model(graph)) < 1e-10
        relabelling = Symmetry(graph.architecture).sample()
        again = relabelling.act_on_graph(other)
        assert relative(model(again), model(graph)) < 1e-10
        if back:
            states = model.states(graph).x
            assert relative(model.states(other).x, states) < 1e-10
            expected = relabelling.act_on_nodes(states)
            assert relative(model.states(again).x, expected) < 1e-10
        optimizer.zero_grad()
        model(stacked(graph)).square().mean().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(bool(grad.isfinite().all()) for grad in grads)
        optimizer.step()


def test_every_tensor_is_read(networks: dict[str, NeuralGraph]):
    for name in ("depthwise", "transformer", "classifier"):
        graph = networks[name]
        model = build(graph.architecture, CNN.architecture())
        known = model.embed(graph)
        values = graph.parameters()
        for key, value in values.items():
            if value.is_floating_point():
                changed = {**values, key: value * 1.1 + 0.01 * torch.rand_like(value)}
                assert relative(model.embed(graph.with_parameters(changed)), known) > 1e-7, key


def test_a_batch_of_all_is_read_as_each_alone(networks: dict[str, NeuralGraph]):
    graphs = list(networks.values())
    model = build(*(graph.architecture for graph in graphs))
    answers = model.embed(to_batch(graphs))
    assert relative(model.embed(to_batch([moved(graph) for graph in graphs])), answers) < 1e-10
    for graph, answer in zip(graphs, answers, strict=True):
        assert relative(model.embed(graph)[0], answer) < 1e-10
    stack = stacked(graphs[0])
    assert relative(model.embed(stack), model.embed(stack.to_batch())) < 1e-10


@pytest.mark.parametrize("name", ["residual", "depthwise", "classifier"])
def test_edits_are_moved_as_the_networks_are(networks: dict[str, NeuralGraph], name: str):
    stack = stacked(networks[name])
    architecture = stack.architecture
    body = build(architecture, outputs=0)
    model = EditingNetwork(body, context=4, rank=3, hidden=8, scale=100.0).double()
    drawn = sample_scales(architecture, (3,), 30.0)

    def scaled(networks: NeuralGraphStack) -> dict[str, torch.Tensor]:
        return scale_parameters(architecture, networks.parameters(), drawn)

    edited = model.edit(stack)
    assert relative(edited.edge_attr, stack.edge_attr) > 1e-3
    expected = stack.with_parameters(scaled(edited))
    found = model.edit(stack.with_parameters(scaled(stack)))
    assert relative(found.edge_attr, expected.edge_attr) < 1e-10
    assert relative(found.x, expected.x) < 1e-10


def test_what_is_no_symmetry_changes_the_answer(networks: dict[str, NeuralGraph]):
    graph = networks["residual"]
    model, values = build(graph.architecture), graph.parameters()
    known = model.embed(graph)
    first = graph.architecture.scales[0]
    less = replace(graph.architecture, scales=(replace(first, powers=first.powers[1:]),))
    wrong = scale_parameters(less, values, sample_scales(less))
    assert relative(model.embed(graph.with_parameters(wrong)), known) > 1e-4
    # A neuron with ReLU is not its negative.
    name = "first.weight"
    negative = {**values, name: values[name] * -1}
    assert relative(model.embed(graph.with_parameters(negative)), known) > 1e-4
    # Nor is anything known of scales that an architecture does not state, as those of old files.
    plain = replace(graph.architecture, scales=())
    unknown = NeuralGraph.from_parameters(plain, values)
    other = NeuralGraph.from_parameters(plain, moved(graph).parameters())
    model = build(plain)
    assert relative(model.embed(other), model.embed(unknown)) > 1e-4


def test_what_is_multiplied_otherwise_is_not_read(networks: dict[str, NeuralGraph]):
    """A scale that contradicts the others costs what its tensors tell, and never the symmetry."""
    graph = networks["residual"]
    architecture = graph.architecture
    first = next(s for s in architecture.scales if len(s.powers) > 2)
    odd = NeuronScale(first.space, first.kind, first.powers[:1])
    architecture = replace(architecture, scales=(*architecture.scales, odd))
    assert not bool(characters_of(Topology.of(architecture)).live.all())
    graph = NeuralGraph.from_parameters(architecture, graph.parameters())
    model = build(architecture)
    assert relative(model.embed(moved(graph)), model.embed(graph)) < 1e-10


def test_a_model_of_chains_refuses_others(networks: dict[str, NeuralGraph]):
    model = build(Architecture.mlp([1, 3, 3, 2]))
    with pytest.raises(ArchitectureError, match="built for chains alone"):
        model(networks["residual"])


def test_kinds_are_those_of_what_is_stated(networks: dict[str, NeuralGraph]):
    architecture = networks["classifier"].architecture
    found = characters_of(Topology.of(architecture))
    names = list(KIND_NAMES.values())
    starts = architecture.node_starts
    for group, start in zip(architecture.groups, starts, strict=False):
        kind = int(found.kind[start])
        expected = "linear" if group.name.endswith(".map") else "homogeneous"
        assert (names[kind] if kind >= 0 else group.role) == (
            expected if group.role == "hidden" else group.role
        )
    assert bool(found.live.all())
    assert int(found.normed.sum()) == 3


def test_dead_neurons_have_a_gradient(networks: dict[str, NeuralGraph]):
    graph = networks["residual"]
    model = build(graph.architecture)
    values = {n: v.clone() for n, v in graph.parameters().items()}
    for name, value in values.items():
        if value.is_floating_point():
            value[:1] = value[:1] if name.startswith("head") else 0
            value.requires_grad_()
    model(NeuralGraph.from_parameters(graph.architecture, values)).sum().backward()
    grads = [p.grad for p in (*model.parameters(), *values.values()) if p.grad is not None]
    assert all(bool(grad.isfinite().all()) for grad in grads)
