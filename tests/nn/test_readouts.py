"""Read-outs: one answer for all relabellings, batches and depths; each summary against a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack, to_batch
from nngraph.graph.topology.topology import Topology
from nngraph.nn import (
    EncoderOptions,
    MessagePassingNetwork,
    NetworkEncoder,
    Networks,
    Readout,
    ReadoutOptions,
    StateNetwork,
    States,
)
from nngraph.nn.features import SizeLimits
from nngraph.nn.readouts.readout import Attention, LayerwiseMeans, LevelMeans
from nngraph.testing import (
    assert_invariant,
    random_architectures,
    random_features,
    random_stack,
    structured_architectures,
)

mlp = Architecture.mlp
STRUCTURED = dict(structured_architectures())
EVERY = {**dict(random_architectures()), **STRUCTURED}
OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "layerwise": {"layerwise": True},
    "attention": {"readout": "attention", "queries": 2},
    "outputs": {"readout": "outputs"},
    "mean without outputs": {"outputs": False},
    "layerwise without outputs": {"layerwise": True, "outputs": False},
    "attention without outputs": {"readout": "attention", "outputs": False},
}
#: That no number of levels and outputs bounds.
FREE = ["layerwise without outputs", "attention without outputs"]
options = pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
#: Where outputs are left out, less is read: a few architectures will do.
FEW = ("one-affine-map", "width-one", "several-outputs", "convolutions", "heads")


def readout(architectures: list[Architecture], edge_channels: int = 4, **changes: Any) -> Readout:
    torch.manual_seed(0)
    options = ReadoutOptions(**{"hidden": 8, **changes})
    return Readout(SizeLimits.of(architectures), 6, edge_channels, 3, options).double().eval()


class Plain(StateNetwork):
    """The encoder's states, as they are."""

    def __init__(self, architecture: Any, num_outputs: int, encoder: Any = (), **changes: Any):
        options = ReadoutOptions(**{"hidden": 8, **changes})
        super().__init__(architecture, num_outputs, 6, 4, options)
        self.encoder = NetworkEncoder(self.limits, 6, 4, options=EncoderOptions(**dict(encoder)))

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        return States(features, *self.encoder(features))


@pytest.mark.parametrize(
    ("option", "name", "edge_channels"),
    [
        *((option, name, 4) for option in OPTIONS if "without" not in option for name in EVERY),
        *((option, name, 4) for option in OPTIONS if "without" in option for name in FEW),
        *((option, name, 0) for option in OPTIONS for name in ("width-one", "grouped")),
    ],
)
def test_relabelling_changes_nothing(option: str, name: str, edge_channels: int):
    changes = OPTIONS[option]
    topology, built = Topology.of(EVERY[name]), readout([EVERY[name]], edge_channels, **changes)
    assert_invariant(
        lambda x, e: built(topology, x, e if edge_channels else None),
        EVERY[name],
        node_channels=6,
        edge_channels=max(edge_channels, 1),
    )


@options
def test_a_batch_of_all_is_read_as_one_by_one(changes: dict[str, Any]):
    torch.manual_seed(0)
    model = Plain(list(EVERY.values()), 3, **changes).double().eval()
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(EVERY.values())]
    together, apart = model(to_batch(graphs)), torch.cat([model(graph) for graph in graphs])
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)
    stack = random_stack(EVERY["several-outputs"], 3, 0)
    answers = torch.cat([model(graph) for graph in stack])
    torch.testing.assert_close(model(stack), answers, rtol=1e-10, atol=1e-12)


@options
def test_every_parameter_learns_and_every_state_is_read(changes: dict[str, Any]):
    architecture = mlp([2, 4, 3, 2])
    topology, built = Topology.of(architecture), readout([architecture], **changes)
    x, e = (f.requires_grad_() for f in random_features(architecture, 3, 6, 4, 0))
    built(topology, x, e).square().sum().backward()
    assert [n for n, p in built.named_parameters() if p.grad is None or not p.grad.any()] == []
    if changes.get("readout") == "outputs":
        assert e.grad is None
        assert x.grad.any(-1)[0].tolist() == [False] * 9 + [True] * 2
    else:
        assert x.grad.any(-1).all()
        assert e.grad.any(-1).all()


@options
def test_states_of_another_layer_are_noticed(changes: dict[str, Any]):
    """Exchanging neurons of different layers is no relabelling."""
    architecture = mlp([2, 3, 4, 2])
    topology, built = Topology.of(architecture), readout([architecture], **changes)
    x, e = random_features(architecture, 2, 6, 4, 0)
    other = x.clone()
    # An output for a hidden neuron. Attention alone does not know layers: states have to.
    other[:, [4, -1]] = x[:, [-1, 4]]
    apart = (built(topology, other, e) - built(topology, x, e)).detach().abs().max()
    assert (float(apart) > 1e-6) == (changes != OPTIONS["attention without outputs"])
    other = x.clone()
    other[:, 4] = x[:, 5]
    apart = (built(topology, other, e) - built(topology, x, e)).detach().abs().max()
    assert (float(apart) > 1e-6) == (changes != OPTIONS["outputs"])


class TestSummaries:
    def states(self, architectures: list[Architecture]) -> tuple[Topology, Tensor, Tensor]:
        topology = Topology.of_batch(architectures)
        generator = torch.Generator().manual_seed(0)
        shapes = (topology.num_nodes, 6), (topology.num_edges, 4)
        x, e = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        return topology, x, e

    BATCH = [mlp([2, 3, 1]), mlp([2, 4, 5, 4, 2]), mlp([3, 2])]  # noqa: RUF012

    def test_level_means(self):
        t, x, e = self.states(self.BATCH)
        found = LevelMeans(3, 6, 4)(t, x, e)
        at = t.nodes.level.clamp(max=2)
        for graph in range(3):
            nodes = [(t.nodes.graph.index == graph) & (at == level) for level in range(3)]
            level = t.blocks.level.clamp(max=2)[t.edge_block]
            edges = [(t.blocks.graph.index[t.edge_block] == graph) & (level == k) for k in range(3)]
            means = [x[rows].mean(0) for rows in nodes] + [e[rows].mean(0) for rows in edges]
            torch.testing.assert_close(found[graph], torch.cat(means).nan_to_num())

    def test_layerwise_means(self):
        t, x, e = self.states(self.BATCH)
        built = LayerwiseMeans(6, 4, 5).double()
        found = built(t, x, e)
        silu = nn.functional.silu
        for graph in range(3):
            own = [(of.graph.index == graph).nonzero() for of in (t.groups, t.blocks)]
            groups = [x[t.nodes.group.index == g].mean(0) for g in own[0]]
            blocks = [e[t.edge_block == k].mean(0) for k in own[1]]
            expected = [
                silu(built.groups(torch.stack(groups))).mean(0),
                silu(built.blocks(torch.stack(blocks))).mean(0),
            ]
            torch.testing.assert_close(found[graph], torch.cat(expected))

    def test_attention(self):
        t, x, e = self.states(self.BATCH)
        built = Attention(6, 4, 2).double()
        found = built(t, x, e)

        def attended(values: Tensor, query: nn.Linear) -> Tensor:
            share = query(values).softmax(0).repeat_interleave(values.shape[1] // 2, 1)
            return (share * values).sum(0)

        for graph in range(3):
            blocks = [
                attended(e[t.edge_block == k], built.weights)
                for k in (t.blocks.graph.index == graph).nonzero()
            ]
            expected = [
                attended(x[t.nodes.graph.index == graph], built.neurons),
                attended(torch.stack(blocks), built.blocks),
            ]
            torch.testing.assert_close(found[graph], torch.cat(expected))

    def test_attention_finds_one_neuron_among_many(self):
        """Which a mean cannot: that is what it is for."""
        topology = Topology.of(mlp([1, 200, 1]))
        x = torch.zeros(1, 202, 2).double()
        x[0, 77] = torch.tensor([50.0, 3.0])
        built = Attention(2, 0, 1).double()
        built.neurons.weight.data = torch.tensor([[1.0, 0.0]]).double()
        torch.testing.assert_close(built(topology, x, None)[0], x[0, 77])


class TestDepthsAndWidthsNeverSeen:
    @pytest.mark.parametrize("name", FREE)
    def test_no_parameter_depends_on_the_architecture(self, name: str):
        shapes = [
            {n: p.shape for n, p in readout([mlp(w)], **OPTIONS[name]).named_parameters()}
            for w in ([2, 3, 1], [9, 30, 4, 5, 6, 7, 8, 5])
        ]
        assert shapes[0] == shapes[1]

    @pytest.mark.parametrize("name", FREE)
    def test_networks_of_any_inputs_outputs_widths_and_depths(self, name: str):
        torch.manual_seed(0)
        encoder = {"positions": "sinusoidal", "levels": "both", "fan_in": True}
        model = Plain(mlp([2, 4, 1]), 3, encoder, **OPTIONS[name]).double().eval()
        model.fit_statistics(random_stack(mlp([2, 4, 1]), 8, 0))
        answers = []
        for widths in ([2, 40, 1], [7, 3, 5, 4, 3, 2, 9], [1, 1]):
            networks = random_stack(mlp(widths), 2, 0)
            architecture = networks.architecture
            assert_invariant(
                lambda x, e, a=architecture: model(NeuralGraphStack(a, x, e)), architecture,
                features=(networks.x, networks.edge_attr),
            )  # fmt: skip
            answers.append(model(networks))
        assert len(torch.unique(torch.cat(answers)[:, 0])) == 6

    def test_means_per_level_tell_no_deeper_levels_apart_and_outputs_are_bounded(self):
        model = Plain(mlp([2, 4, 1]), 3).double()
        model(random_stack(mlp([2, 4, 4, 4, 1]), 2, 0))
        with pytest.raises(ArchitectureError, match="3 outputs; the model was built for 1"):
            model(random_stack(mlp([2, 4, 3]), 2, 0))


class TestEmbeddings:
    @options
    def test_vectors_of_networks_are_what_the_answer_is_made_of(self, changes: dict[str, Any]):
        architecture = mlp([2, 4, 3, 2])
        networks = random_stack(architecture, 3, 0)
        torch.manual_seed(0)
        model = Plain(architecture, 5, **changes).double().eval()
        vectors = model.embed(networks)
        assert vectors.shape == (3, model.readout.size)
        torch.testing.assert_close(model.readout.mlp(vectors), model(networks), rtol=0, atol=0)
        assert_invariant(
            lambda x, e: model.embed(NeuralGraphStack(architecture, x, e)), architecture,
            features=(networks.x, networks.edge_attr),
        )  # fmt: skip

    @pytest.mark.parametrize("stream", [False, True])
    def test_of_message_passing_with_all_that_it_hears(self, stream: bool):
        architecture = mlp([2, 4, 3, 2])
        networks = random_stack(architecture, 3, 0)
        torch.manual_seed(0)
        model = MessagePassingNetwork(
            architecture, 5, channels=6, messages=4, edge_channels=3, hidden=8, stream=stream,
            probes=0 if stream else 2,
        ).double().eval()  # fmt: skip
        vectors = model.embed(networks)
        torch.testing.assert_close(model.readout.mlp(vectors), model(networks), rtol=0, atol=0)
        states = model.states(networks)
        assert states.x.shape == (3, 11, 6)
        if stream:
            assert states.edge_attr is None
        else:
            assert states.edge_attr.shape == (3, 26, 3)

    def test_without_a_readout_there_are_none(self):
        architecture = mlp([2, 3, 1])
        networks = random_stack(architecture, 1, 0, torch.float32)
        for model in (Plain(architecture, 0), MessagePassingNetwork(architecture, 0)):
            assert model.readout is None
            for ask in (model, model.embed):
                with pytest.raises(ValueError, match="built with num_outputs=0"):
                    ask(networks)
            model.states(networks)


    def test_a_readout_of_ones_own_answers_and_makes_no_vectors(self):
        class Sums(nn.Module):
            def forward(self, topology: Topology, x: Tensor, e: Tensor) -> Tensor:
                return x.sum(-2)

        class Own(Plain):
            def make_readout(self, options: ReadoutOptions) -> nn.Module:
                return Sums()

        networks = random_stack(mlp([2, 3, 1]), 2, 0, torch.float32)
        model = Own(networks.architecture, 6)
        torch.testing.assert_close(model(networks), model.states(networks).x.sum(-2))
        with pytest.raises(ValueError, match="is a Sums, which makes no vectors"):
            model.embed(networks)


class TestMessagePassingWithOptions:
    OPTIONS = {  # noqa: RUF012
        "attention": {"readout": {"readout": "attention"}},
        "layerwise, no outputs": {"readout": {"layerwise": True, "outputs": False}},
        "all of the encoder": {
            "encoder": {
                "levels": "both", "kinds": True, "kernel_sizes": True, "statistics": True,
                "frequencies": 2, "fan_in": True, "unit_weights": True,
            }
        },
        "no pass": {"encoder": {"ordered": False}},
    }  # fmt: skip

    @pytest.mark.parametrize("name", ["convolutions", "several-outputs"])
    @pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
    def test_invariant(self, name: str, changes: dict[str, Any]):
        architecture = EVERY[name]
        networks = random_stack(architecture, 2, 0)
        torch.manual_seed(0)
        small = {"channels": 8, "messages": 4, "edge_channels": 4, "hidden": 8}
        model = MessagePassingNetwork(architecture, 3, **small, **changes).double().eval()
        model.fit_statistics(networks)
        integers = networks.integers
        assert_invariant(
            lambda x, e: model(NeuralGraphStack(architecture, x, e, integers=integers)),
            architecture, features=(networks.x, networks.edge_attr),
        )  # fmt: skip
        assert model.traits.invariant

    def test_a_model_that_breaks_the_symmetry_says_so(self):
        model = MessagePassingNetwork(mlp([2, 3, 1]), 1, encoder={"break_symmetry": True})
        assert not model.traits.invariant
        assert MessagePassingNetwork.traits.invariant

    def test_what_cannot_be_streamed_is_refused(self):
        for changes in (
            {"encoder": {"statistics": True}}, {"encoder": {"unit_weights": True}},
            {"encoder": {"frequencies": 2}}, {"readout": {"readout": "attention"}},
        ):  # fmt: skip
            with pytest.raises(ValueError, match="stream=True was given with statistics"):
                MessagePassingNetwork(mlp([2, 3, 1]), 1, stream=True, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"readout": "median"}, ValueError, "readout is 'median'; expected one of 'mean'"),
        ({"readout": "attention", "layerwise": True}, ValueError, "layerwise=True was given with"),
        ({"readout": "outputs", "outputs": False}, ValueError, "leaves nothing to read"),
        ({"readout": "attention", "queries": 0}, ValueError, "queries is 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: Any, error: Any, words: str):
    with pytest.raises(error, match=words):
        readout([mlp([2, 3, 1])], **changes)


def test_outputs_alone_are_not_read_of_networks_that_have_none():
    limits = SizeLimits(inputs=2, outputs=0, levels=3, columns=1, taps=1, chains=False)
    with pytest.raises(ArchitectureError, match="without output neurons"):
        Readout(limits, 6, 4, 3, ReadoutOptions(readout="outputs"))
