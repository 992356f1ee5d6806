"""Networks to networks: the read-out commutes with relabelling, for every batch and body."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack, forward, to_batch
from nngraph.graph.topology.topology import Topology
from nngraph.nn import (
    AddedNeurons,
    EditingNetwork,
    Features,
    MessagePassingNetwork,
    StateNetwork,
    States,
    WeightReadout,
    input_features,
    output_networks,
)
from nngraph.testing import (
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    random_architectures,
    random_stack,
    structured_architectures,
)

mlp = Architecture.mlp
SMALL: dict[str, Any] = {"channels": 6, "messages": 4, "hidden": 8}
READOUT: dict[str, Any] = {"rank": 3, "hidden": 8}
CHAINS, STRUCTURED = dict(random_architectures()), dict(structured_architectures())
ALL = {**CHAINS, **STRUCTURED}
architectures = pytest.mark.parametrize("architecture", ALL.values(), ids=ALL)
edge_channels = pytest.mark.parametrize("edge_channels", [3, 0], ids=["edge states", "no edges"])


def editor(
    architecture: Architecture | list[Architecture], edge_channels: int = 3, **readout: Any
) -> EditingNetwork:
    torch.manual_seed(0)
    body = MessagePassingNetwork(architecture, 0, edge_channels=edge_channels, **SMALL)
    return EditingNetwork(body, **{**READOUT, "context": 4, **readout}).double().eval()


def train_a_little(model: EditingNetwork, networks: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        edited = [input_features(copy) for copy in model.copies(networks)]
        loss = sum(
            (f.x - 1).square().mean() + (f.edge_attr - 1).square().mean() for f in edited
        )
        loss.backward()
        optimizer.step()


@edge_channels
@architectures
def test_commutes_with_relabelling_before_and_after_training(architecture, edge_channels: int):
    networks = random_stack(architecture, 3, 0)
    model = editor(architecture, edge_channels, copies=2, scale=0.3)
    model.fit_statistics(networks)

    def copy(number: int, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        stack = NeuralGraphStack(architecture, x, e, integers=networks.integers)
        edited = model.copies(stack)[number]
        return edited.x - x, edited.edge_attr - e

    for _ in range(2):
        for number in range(2):
            assert_equivariant(
                lambda x, e, n=number: copy(n, x, e), architecture,
                features=(networks.x, networks.edge_attr),
            )  # fmt: skip
        train_a_little(model, networks)


@edge_channels
def test_a_readout_that_tells_hidden_neurons_apart_is_noticed(edge_channels: int):
    architecture = mlp([2, 4, 3, 2])
    model = editor(architecture, edge_channels, scale=0.3)
    place = torch.randn(architecture.num_nodes, 6).double()

    def marked(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        states, context = model._read(NeuralGraphStack(architecture, x, e))
        moved = States(states.features, states.x + place, states.edge_attr)
        (edited,) = model.readout(moved, context)
        return edited.x, edited.edge_attr

    networks = random_stack(architecture, 3, 0)
    features = networks.x, networks.edge_attr
    assert_not_equivariant(marked, architecture, features=features, at_least=1e-4)


@edge_channels
@architectures
def test_one_answer_for_stacks_batches_and_graphs(architecture, edge_channels: int):
    networks = random_stack(architecture, 3, 0)
    model = editor(architecture, edge_channels, copies=2)
    model.fit_statistics(networks)
    batches = model.copies(networks.to_batch())
    for stacked, batched in zip(model.copies(networks), batches, strict=True):
        assert isinstance(batched, Batch)
        for one, other in zip(stacked, batched.to_data_list(), strict=True):
            same(one, other)
    for number, graph in enumerate(networks):
        for one, other in zip(model.copies(networks), model.copies(graph), strict=True):
            assert isinstance(other, NeuralGraph)
            same(one[number], other)


def same(one: NeuralGraph, other: NeuralGraph) -> None:
    assert one.architecture == other.architecture
    for name, value in one.parameters().items():
        torch.testing.assert_close(other.parameters()[name], value)


MIXED = {
    "chains": [CHAINS[name] for name in ("no-bias", "width-one", "one-affine-map", "no-bias")],
    "structured": [*STRUCTURED.values(), mlp([2, 4, 3]), STRUCTURED["residual"]],
}


@edge_channels
@pytest.mark.parametrize("kind", MIXED)
def test_networks_of_many_architectures_are_edited_one_by_one(kind: str, edge_channels: int):
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(MIXED[kind])]
    model = editor(MIXED[kind], edge_channels, copies=2, scale=0.5)
    for number, together in enumerate(model.copies(to_batch(graphs))):
        for graph, edited in zip(graphs, together.to_data_list(), strict=True):
            alone = model.copies(graph)[number]
            same(alone, edited)
            changes = [
                (value - graph.parameters()[name]).abs().max()
                for name, value in alone.parameters().items()
            ]
            assert max(changes) > 1e-3


@architectures
def test_only_learned_parameters_change_and_little_at_the_start(architecture):
    """Missing biases stay missing, ones of residuals ones, and taps that no kernel has 0."""
    networks = random_stack(architecture, 3, 0)
    model = editor(architecture)
    model.fit_statistics(networks)
    (edited,) = model.copies(networks)
    again = NeuralGraphStack.from_parameters(architecture, edited.parameters())
    assert torch.equal(again.x, edited.x)
    assert torch.equal(again.edge_attr, edited.edge_attr)
    for name, value in networks.parameters().items():
        if value.dtype.is_floating_point:
            change = (edited.parameters()[name] - value).square().mean().sqrt()
            assert 0 < change < 0.05 * value.square().mean().sqrt()
        else:
            assert torch.equal(edited.parameters()[name], value)


def test_running_statistics_are_no_parameters():
    from nngraph.graph import NeuronGroup, Parameter

    groups = NeuronGroup("in", 2, "input"), NeuronGroup("a", 3, "hidden", space="a")
    architecture = Architecture(
        groups,
        (
            Parameter("weight", (3, 2), (1, 0)),
            Parameter("bias", (3,), (1,), "bias"),
            Parameter("mean", (3,), (1,), "running_mean"),
            Parameter("var", (3,), (1,), "running_var"),
            Parameter("own", (3,), (1,), "factor"),
        ),
    )
    networks = random_stack(architecture, 2, 0)
    (edited,) = editor(architecture, scale=0.5).copies(networks)
    changed = {
        name
        for name, value in networks.parameters().items()
        if not torch.equal(value, edited.parameters()[name])
    }
    assert changed == {"weight", "bias", "own"}


def test_against_a_loop_over_edges():
    """The equation of the docstring, edge by edge."""
    architecture = mlp([2, 3, 2, 1])
    networks = random_stack(architecture, 1, 0)
    model = editor(architecture, copies=2, scale=0.3)
    model.fit_statistics(networks)
    with torch.no_grad():
        model.readout.weight_scale.uniform_(0.1, 1)
    (states, context), readout = model._read(networks), model.readout
    hidden = readout._hidden(states, context)[0]
    topology = states.topology
    assert states.edge_attr is not None
    for copy, edited in enumerate(readout(states, context)):
        wide = slice(3 * copy, 3 * copy + 3)
        for edge, (j, i) in enumerate(zip(topology.source, topology.target, strict=True)):
            a, b = readout.target(hidden[i])[wide], readout.source(hidden[j])[wide]
            said = readout.edge.weight[copy] @ states.edge_attr[0, edge]
            level = topology.nodes.level[i]
            size = readout.weight_scale[level, copy] * readout.scales.weight[level]
            expected = networks.edge_attr[0, edge, 0] + size * (a @ b / 3**0.5 + said)
            torch.testing.assert_close(edited.edge_attr[0, edge, 0], expected)


def test_copies_differ_and_are_joined_exactly():
    architecture = CHAINS["several-outputs"]
    networks = random_stack(architecture, 3, 0)
    model = editor(architecture, copies=3, scale=0.5)
    copies = model.copies(networks)
    assert (copies[0].edge_attr - copies[1].edge_attr).abs().max() > 1e-3
    inputs = torch.randn(5, 2).double()
    average = sum(forward(copy, inputs) for copy in copies) / 3
    torch.testing.assert_close(forward(model.edit(networks), inputs), average)
    assert editor(architecture).edit(networks).architecture == architecture


@edge_channels
def test_every_parameter_learns_and_deeper_networks_are_edited(edge_channels: int):
    model = editor(mlp([2, 4, 3, 2]), edge_channels, copies=2)
    graphs = [random_stack(mlp(w), 1, seed)[0] for seed, w in
              enumerate([[2, 4, 3, 2]] * 4 + [[2, 3, 3, 3, 2]] * 2)]  # fmt: skip
    for copy in model.copies(to_batch(graphs)):
        (copy.x.square().sum() + copy.edge_attr.square().sum()).backward(retain_graph=True)
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_what_is_not_stored_is_not_read():
    body = MessagePassingNetwork(mlp([2, 3, 1]), 0, stream=True, **SMALL).double()
    networks = random_stack(mlp([2, 3, 1]), 2, 0)
    assert body.edge_channels == 0
    assert body.states(networks).edge_attr is None
    assert EditingNetwork(body, **READOUT).double().copies(networks)[0].edge_attr.shape == (2, 9, 1)


class TestStatesOfMessagePassing:
    def test_the_answer_is_as_it_was_and_states_commute(self):
        architecture = CHAINS["mixed-biases"]
        torch.manual_seed(0)
        model = MessagePassingNetwork(architecture, 3, edge_channels=2, **SMALL).double().eval()
        assert isinstance(model, StateNetwork)
        networks = random_stack(architecture, 3, 0)
        assert model(networks).shape == (3, 3)

        def states(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
            found = model.states(NeuralGraphStack(architecture, x, e))
            return found.x, found.edge_attr

        assert_equivariant(states, architecture, features=(networks.x, networks.edge_attr))
        assert states(networks.x, networks.edge_attr)[0].shape[-1] == model.channels
        bare = MessagePassingNetwork(architecture, 0, edge_channels=2, **SMALL).double()
        with pytest.raises(ValueError, match="has no read-out"):
            bare(networks)


class TestFormOfNetworks:
    @architectures
    def test_back_and_forth(self, architecture):
        networks = random_stack(architecture, 2, 0)
        networks.y = torch.tensor([3, 4])
        for given in (networks, networks.to_batch(), networks[1], input_features(networks)):
            features = input_features(given)
            # Where there is no parameter there is a constant, which is not carried.
            edges = 2 * features.edge_attr if architecture.is_chain else features.edge_attr
            back = output_networks(Features(features.topology, 2 * features.x, edges), given)
            assert type(back) is type(given)
            torch.testing.assert_close(input_features(back).edge_attr, edges)
            torch.testing.assert_close(input_features(back).x, 2 * features.x)
            if not isinstance(back, Features):
                assert torch.equal(back.y, given.y)
        torch.testing.assert_close(networks.to_batch().x, networks.x.flatten(0, 1))  # untouched


def test_mistakes_are_refused():
    limits = editor(mlp([2, 3, 1])).body.limits
    for name in ("rank", "copies", "hidden", "scale"):
        with pytest.raises(ValueError, match=f"{name} is 0; expected a positive number"):
            WeightReadout(limits, 4, 0, **{name: 0})
    with pytest.raises(ValueError, match=r"'flat', which gives neurons no states.*message-passing"):
        EditingNetwork.of(mlp([2, 3, 1]), "flat")
    built = EditingNetwork.of(mlp([2, 3, 1]), options=SMALL, copies=2)
    assert built.traits.access == "generic weights-only"
    assert built.traits.reads_signs
    features = input_features(random_stack(mlp([2, 3, 1]), 1, 0, torch.float32))
    states = States(features, torch.randn(1, 6, 6))
    with pytest.raises(ValueError, match="build it with edge_channels=0"):
        WeightReadout(limits, 6, 3)(states)
    with pytest.raises(ValueError, match="called with a context; expected none"):
        WeightReadout(limits, 6, 0)(states, torch.zeros(1, 4))


def test_nothing_of_edge_size_but_the_weights(monkeypatch: pytest.MonkeyPatch):
    """Without states of weights, no primitive that makes features of edges is called."""
    model = editor(mlp([2, 4, 3, 1]), edge_channels=0)
    networks = random_stack(mlp([2, 4, 3, 1]), 2, 0)
    states, context = model._read(networks)

    def refused(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("features of edges are made")

    for name in ("gather", "edge_affine"):
        monkeypatch.setattr(kernels, name, refused)
    (edited,) = model.readout(states, context)
    assert edited.topology == Topology.of(mlp([2, 4, 3, 1]))


ADDABLE = {
    name: architecture
    for name, architecture in CHAINS.items()
    if len(architecture.groups) > 2 and architecture.groups[-1].activation.name == "identity"
}


class TestAddedNeurons:
    @pytest.mark.parametrize("architecture", ADDABLE.values(), ids=ADDABLE)
    def test_are_neurons_of_one_network(self, architecture):
        torch.manual_seed(0)
        added = AddedNeurons(architecture, 4, 6).double()
        context = torch.randn(3, 4).double()
        inputs = torch.randn(5, architecture.widths[0]).double()
        assert not added.run(context, inputs).any()  # at the start
        for parameter in added.outgoing.parameters():
            torch.nn.init.normal_(parameter)
        stack = added(context)
        names = [p.name for p in architecture.parameters]
        assert [p.name for p in stack.architecture.parameters] == names
        outputs = added.run(context, inputs)
        torch.testing.assert_close(outputs, forward(stack, inputs))
        outputs.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in added.parameters())

    def test_an_edit_has_them_beside_its_own(self):
        architecture = CHAINS["several-outputs"]
        networks, inputs = random_stack(architecture, 3, 0), torch.randn(5, 2).double()
        model = editor(architecture, copies=2, added=6)
        torch.nn.init.normal_(model.added.outgoing["2/weight"].weight)
        edited = model.edit(networks)
        assert edited.architecture.widths == (2, 2 * 4 + 6, 2 * 3 + 6, 3)
        torch.testing.assert_close(forward(edited, inputs), model(networks, inputs))
        copies, context = model.copies(networks), model._read(networks)[1]
        own = (forward(copies[0], inputs) + forward(copies[1], inputs)) / 2
        beside = forward(model.added(context), inputs)
        assert beside.abs().max() > 1e-3
        torch.testing.assert_close(model(networks, inputs), own + beside)

    def test_what_it_draws_does_not_depend_on_labels(self):
        architecture = CHAINS["equal-widths"]
        model, inputs = editor(architecture, copies=2, added=6), torch.randn(5, 3).double()
        torch.nn.init.normal_(model.added.outgoing["2/weight"].weight)
        assert_invariant(
            lambda x, e: model(NeuralGraphStack(architecture, x, e), inputs), architecture
        )

    def test_mistakes_are_refused(self):
        for architecture in (mlp([2, 3]), mlp([2, 3, 1], ["tanh", "tanh"]), STRUCTURED["residual"]):
            with pytest.raises(ArchitectureError, match="neurons cannot be added"):
                AddedNeurons(architecture, 4, 6)
        with pytest.raises(ValueError, match="without a context"):
            editor(mlp([2, 3, 1]), context=0, added=4)


class TestContext:
    def test_of_another_model(self):
        architecture = mlp([2, 4, 3, 1], "sine")
        model = EditingNetwork.of(
            architecture, "message-passing", {"edge_channels": 0, **SMALL}, "symmetric",
            {"num_outputs": 5, "messages": 4, "hidden": 8}, **{**READOUT, "copies": 2},
        ).double()  # fmt: skip
        assert model.traits.access == "activation-structured weights-only"
        assert model.readout.received.in_features == 5
        networks = random_stack(architecture, 4, 0)
        model.fit_statistics(networks)
        inputs = torch.randn(5, 2).double()
        one = model.eval()(networks, inputs)
        graphs = [networks[:1], networks[1:]]
        torch.testing.assert_close(torch.cat([model(part, inputs) for part in graphs]), one)

    def test_several_stacks_at_once(self):
        architectures = [mlp([2, 4, 3, 1]), mlp([2, 5, 1])]
        model = editor(architectures, copies=2)
        stacks = [random_stack(a, 2 + i, i) for i, a in enumerate(architectures)]
        inputs = torch.randn(5, 2).double()
        together = model(stacks, inputs)
        for stack, outputs in zip(stacks, together, strict=True):
            torch.testing.assert_close(outputs, model(stack, inputs))
            torch.testing.assert_close(model([stack], inputs)[0], outputs)
