"""What is particular to the general message passing: places of outputs, options of its layer."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack, to_batch
from nngraph.graph.topology.topology import Topology
from nngraph.kernels.tiled import tiles
from nngraph.nn import MessagePassingLayer, MessagePassingNetwork, input_features
from nngraph.testing import (
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    random_architectures,
    random_features,
    random_stack,
    structured_architectures,
)

mlp = Architecture.mlp
SMALL: dict[str, Any] = {"channels": 8, "messages": 4, "edge_channels": 4, "hidden": 16}


class TestPlacesOfOutputs:
    def states(self, model: MessagePassingNetwork, networks) -> list[Tensor]:
        """Node states that enter the first round."""
        seen: list[Tensor] = []
        hook = model.rounds[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
        model(networks)
        hook.remove()
        return seen

    def test_each_output_neuron_has_its_row_and_no_other_neuron_has_one(self):
        architecture = mlp([2, 4, 3, 3])
        networks = random_stack(architecture, 2, 0)
        model = MessagePassingNetwork(architecture, 1, **SMALL).double().eval()
        (before,) = self.states(model, networks)
        change = torch.randn(3, 8).double()
        with torch.no_grad():
            model.encoder.positions["outputs"].rows.table += change
        (after,) = self.states(model, networks)
        expected = torch.zeros_like(before)
        expected[:, -3:] = change
        torch.testing.assert_close(after - before, expected)

    def test_in_a_ragged_batch_of_fewer_outputs_and_other_depths(self):
        model = MessagePassingNetwork(mlp([2, 4, 3]), 1, **SMALL).double().eval()
        graphs = [random_stack(mlp(w), 1, 0)[0] for w in ([2, 3, 2], [2, 2, 2, 3], [2, 5, 1])]
        apart = torch.cat([states for g in graphs for states in self.states(model, g)], dim=-2)
        (together,) = self.states(model, Batch.from_data_list(graphs))
        torch.testing.assert_close(together.squeeze(0), apart.squeeze(0))
        with torch.no_grad():
            model.encoder.positions["outputs"].rows.table += 1
        moved = self.states(model, Batch.from_data_list(graphs))[0] - together
        role = Topology.of_batch([g.architecture for g in graphs]).nodes.role
        torch.testing.assert_close(moved, (role == 2).double().unsqueeze(-1).expand_as(moved))


OPTIONS: dict[str, dict[str, Any]] = {
    "no norm": {"norm": False},
    "sum": {"pooling": "sum"},
    "max": {"pooling": "max"},
    "attention": {"pooling": "attention"},
    "tensor nodes": {"tensor_nodes": True},
    "no norm, attention, tensor nodes": {
        "norm": False, "pooling": "attention", "tensor_nodes": True,
    },
}  # fmt: skip
options = pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
architectures = pytest.mark.parametrize(
    "architecture",
    [a for _, a in random_architectures()],
    ids=[n for n, _ in random_architectures()],
)
#: With states of edges all of them; without, those where their absence meets something special.
NETWORKS = [
    pytest.param(a, channels, id=f"{name}-{channels}")
    for channels, names in ((4, None), (0, ("one-affine-map", "width-one", "mixed-biases")))
    for name, a in random_architectures()
    if names is None or name in names
]
MIXED = [[2, 5, 1], [2, 3, 4, 1], [2, 1], [2, 2, 2, 2, 2], [1, 4, 3, 2], [2, 3, 4, 1]]


def layer(edge_channels: int = 4, **changes: Any) -> MessagePassingLayer:
    torch.manual_seed(0)
    return MessagePassingLayer(6, edge_channels, **changes).double()


def network(architecture: Architecture, **changes: Any) -> MessagePassingNetwork:
    torch.manual_seed(0)
    return MessagePassingNetwork(architecture, 2, **{**SMALL, **changes}).double().eval()


class TestOptions:
    @options
    @architectures
    def test_the_layer_commutes_with_relabelling(self, architecture, changes):
        topology, built = Topology.of(architecture), layer(**changes)

        def function(x: Tensor, e: Tensor):
            x, update = built(topology, e[..., 0], x, e)
            return x, update.edges

        assert_equivariant(function, architecture, node_channels=6, edge_channels=4)

    @pytest.mark.parametrize(("architecture", "edge_channels"), NETWORKS)
    @options
    def test_the_network_is_invariant_and_reads_every_batch_alike(
        self, architecture, changes, edge_channels
    ):
        model = network(architecture, edge_channels=edge_channels, rounds=2, **changes)
        stack = random_stack(architecture, 3, 0)
        model.fit_statistics(stack)
        assert_invariant(
            lambda x, e: model(NeuralGraphStack(architecture, x, e)),
            architecture,
            features=(stack.x, stack.edge_attr),
        )
        answers = model(stack)
        torch.testing.assert_close(model(stack.to_batch()), answers)
        torch.testing.assert_close(torch.cat([model(graph) for graph in stack]), answers)

    @pytest.mark.parametrize("edge_channels", [4, 0])
    @options
    def test_networks_in_a_ragged_batch_do_not_hear_of_one_another(self, changes, edge_channels):
        model = network(mlp([2, 4, 2]), edge_channels=edge_channels, rounds=2, **changes)
        graphs = [random_stack(mlp(w), 1, seed)[0] for seed, w in enumerate(MIXED)]
        expected = torch.cat([model(graph) for graph in graphs])
        torch.testing.assert_close(model(Batch.from_data_list(graphs)), expected)
        turned = model(Batch.from_data_list(graphs[::-1])).flip(0)
        torch.testing.assert_close(turned, expected)

    @pytest.mark.parametrize("edge_channels", [4, 0])
    @options
    def test_every_parameter_learns(self, changes, edge_channels):
        model = network(mlp([2, 4, 3, 2]), edge_channels=edge_channels, rounds=2, **changes)
        # The deeper networks are for the map that serves them alone.
        widths = [[2, 4, 3, 2]] * 4 + [[2, 3, 3, 3, 2]] * 2
        graphs = [random_stack(mlp(w), 1, seed)[0] for seed, w in enumerate(widths)]
        model(Batch.from_data_list(graphs)).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())

    @options
    def test_gradients_of_the_layer(self, changes):
        architecture = mlp([1, 2, 1])
        topology, built = Topology.of(architecture), layer(**changes)
        x, e = (f.requires_grad_() for f in random_features(architecture, 2, 6, 4, 0))
        weight = torch.randn(2, topology.num_edges, dtype=torch.float64)

        def function(x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
            x, update = built(topology, weight, x, e)
            return (x, *update)

        assert torch.autograd.gradcheck(function, (x, e), fast_mode=True)

    def test_defaults_are_todays_parameters(self):
        names = {name.split(".")[0] for name, _ in layer().named_parameters()}
        assert names == {
            "norm", "forwards", "backwards", "edge_norm", "edge", "source", "target", "update",
        }  # fmt: skip
        assert not [n for n, _ in layer(norm=False).named_parameters() if "norm" in n]

    def test_an_unknown_pooling_is_refused(self):
        with pytest.raises(ValueError, match="op is 'median'"):
            layer(pooling="median")

    @options
    def test_a_layer_that_tells_hidden_neurons_apart_is_noticed(self, changes):
        architecture = mlp([2, 4, 3, 2])
        topology, built = Topology.of(architecture), layer(**changes)
        place = torch.randn(topology.num_nodes, 6).double()

        def function(x: Tensor, e: Tensor):
            x, update = built(topology, e[..., 0], x + place, e)
            return x, update.edges

        assert_not_equivariant(
            function,
            architecture,
            node_channels=6,
            edge_channels=4,
        )

    def test_tensor_nodes_equal_a_loop(self):
        batch = Topology.of_batch([mlp(w) for w in MIXED])
        nodes = layer(tensor_nodes=True).tensors
        x = torch.randn(batch.num_nodes, 6).double()
        e = torch.randn(batch.num_edges, 4).double()
        groups, blocks = nodes(batch, x, e)
        for graph in range(batch.num_graphs):
            kinds = (
                (groups, x, batch.nodes.group.index, batch.groups.graph.index, nodes.groups),
                (blocks, e, batch.edge_block, batch.blocks.graph.index, nodes.blocks),
            )
            z = [
                torch.stack(
                    [
                        torch.nn.functional.silu(linear(values[index == k].mean(0)))
                        for k in (owner == graph).nonzero().flatten()
                    ]
                )
                for _, values, index, owner, linear in kinds
            ]
            summary = torch.cat(z).mean(0)
            for (found, _, _, owner, _), own in zip(kinds, z, strict=True):
                expected = nodes.update(torch.cat([own, summary.expand_as(own)], dim=-1))
                torch.testing.assert_close(found[owner == graph], expected)


STRUCTURED = dict(structured_architectures())


class TestCheckpoints:
    @pytest.mark.parametrize("edge_channels", [4, 0])
    @options
    def test_nothing_changes_but_what_is_kept(self, changes, edge_channels):
        architecture = mlp([2, 6, 6, 2])
        stack = random_stack(architecture, 3, 0)
        found, kept = [], []
        for checkpoint in (False, True):
            torch.manual_seed(0)
            model = network(
                architecture, edge_channels=edge_channels, rounds=3, dropout=0.5,
                checkpoint=checkpoint, **changes,
            ).train()  # fmt: skip
            torch.manual_seed(1)
            sizes: list[int] = []

            def pack(value: Tensor, sizes: list[int] = sizes) -> Tensor:
                sizes.append(value.numel())
                return value

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                answers = model(stack)
            answers.square().sum().backward()
            found.append([answers, *(parameter.grad for parameter in model.parameters())])
            kept.append(sum(sizes))
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
        assert kept[1] < kept[0] / 2

    def test_answers_without_gradients_are_the_same(self):
        stack = random_stack(mlp([2, 4, 2]), 3, 0)
        torch.manual_seed(0)
        model = network(mlp([2, 4, 2]), rounds=2, checkpoint=True)
        expected = model(stack)
        with torch.no_grad():
            torch.testing.assert_close(model(stack), expected)


class TestNetworksThatAreNoChains:
    def model(self) -> MessagePassingNetwork:
        every = [*STRUCTURED.values(), mlp([2, 4, 3])]
        return MessagePassingNetwork(every, 3, **SMALL, tensor_nodes=True).double().eval()

    @pytest.mark.parametrize("name", STRUCTURED)
    def test_invariant_and_not_to_anything_else(self, name: str):
        model, networks = self.model(), random_stack(STRUCTURED[name], 3, 0)
        model.fit_statistics(networks)
        architecture, integers = networks.architecture, networks.integers
        assert_invariant(
            lambda x, e: model(NeuralGraphStack(architecture, x, e, integers=integers)),
            architecture,
            features=(networks.x, networks.edge_attr),
        )
        # Every parameter counts.
        for key, value in networks.parameters().items():
            if value.dtype.is_floating_point:
                changed = {k: v.clone() for k, v in networks.parameters().items()}
                changed[key][0].flatten()[-1] += 1
                other = NeuralGraphStack.from_parameters(networks.architecture, changed)
                moved = (model(other) - model(networks)).abs().amax(-1)
                assert moved[0] > 1e-9, key
                assert not moved[1:].any()

    def test_one_batch_of_all_answers_as_one_by_one(self):
        model = self.model()
        graphs = [random_stack(a, 1, 0)[0] for a in (*STRUCTURED.values(), mlp([2, 4, 3]))]
        together = model(to_batch(graphs))
        apart = torch.cat([model(graph) for graph in graphs])
        torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)

    def test_what_it_was_not_built_for_is_refused(self):
        model = MessagePassingNetwork(mlp([2, 4, 3]), 3, **SMALL).double()
        with pytest.raises(ArchitectureError, match="9 taps on edges; the model was built for 1"):
            model(random_stack(STRUCTURED["convolutions"], 1, 0))
        with pytest.raises(ArchitectureError, match="probes run the networks"):
            MessagePassingNetwork(STRUCTURED["residual"], 3, probes=4)


class TestStreamedEdges:
    """States of weights that are made anew in every round are those that are stored."""

    CASES: ClassVar[dict[str, Any]] = {
        "stack": random_stack(mlp([2, 5, 4, 2]), 3, 0),
        "convolutions": random_stack(STRUCTURED["convolutions"], 2, 1),
        "grouped": random_stack(STRUCTURED["grouped"], 2, 1),
        "ragged": to_batch(
            [random_stack(a, 1, 0)[0] for a in (*STRUCTURED.values(), mlp([2, 4, 3]))]
        ),
    }

    @pytest.mark.parametrize("norm", [True, False])
    @pytest.mark.parametrize("name", CASES)
    def test_the_same_answers_and_gradients(
        self, name: str, norm: bool, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(tiles, "TILE", 16)  # several tiles, also within a row of blocks
        networks = self.CASES[name]
        every = [*STRUCTURED.values(), mlp([2, 4, 3]), mlp([2, 5, 4, 2])]
        models = [
            MessagePassingNetwork(every, 3, **SMALL, rounds=3, norm=norm, stream=stream).double()
            for stream in (False, True)
        ]
        models[1].load_state_dict(models[0].state_dict())
        features = input_features(networks)
        features.edge_attr.requires_grad_()
        answers = [model.eval()(features) for model in models]
        torch.testing.assert_close(*answers, rtol=1e-11, atol=1e-11)
        gradients = [
            torch.autograd.grad(
                answer.square().sum(), [features.edge_attr, *model.parameters()],
                allow_unused=True,
            )
            for answer, model in zip(answers, models, strict=True)
        ]  # fmt: skip
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)

    def test_other_backends_store_them(self):
        networks = self.CASES["stack"]
        features = input_features(networks)
        t = features.topology
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        updates = [
            kernels.StreamedUpdate(
                draw(4, 4), draw(3, t.num_nodes, 4), draw(3, t.num_nodes, 4), block
            )
            for block in (None, draw(3, len(t.blocks.size), 4))
        ]
        start = features.taps, draw(4, 1), draw(len(t.blocks.size), 4)
        found = [
            kernels.streamed_edge_means(t, *start, updates, backend=backend)
            for backend in kernels.BACKENDS
        ]
        for other in found[1:]:
            for one, two in zip(found[0], other, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)

    def test_what_cannot_be_streamed_is_refused(self):
        for options in ({"pooling": "max"}, {"tensor_nodes": True}):
            with pytest.raises(ValueError, match="pooled by means alone"):
                MessagePassingNetwork(mlp([2, 3, 1]), 1, **SMALL, stream=True, **options)
