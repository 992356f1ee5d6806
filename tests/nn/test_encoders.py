"""First states of neurons and weights: every option commutes with relabelling and learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    ACTIVATIONS,
    Architecture,
    NeuralGraphStack,
    NeuronGroup,
    Parameter,
    Symmetry,
    to_batch,
)
from nngraph.graph.batching import order_edges
from nngraph.graph.topology.topology import Topology
from nngraph.nn import (
    EncoderOptions,
    FourierFeatures,
    MessagePassingNetwork,
    NetworkEncoder,
    input_features,
)
from nngraph.nn.encoders import positions
from nngraph.nn.encoders.positions import ActivationFeatures, sinusoids
from nngraph.nn.encoders.statistics import edge_statistics, group_statistics
from nngraph.nn.features import SizeLimits
from nngraph.testing import (
    assert_equivariant,
    assert_not_equivariant,
    random_architectures,
    random_stack,
    structured_architectures,
)

mlp = Architecture.mlp
STRUCTURED = dict(structured_architectures())
EVERY = {**dict(random_architectures()), **STRUCTURED}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "nothing but parameters": {"positions": "none", "levels": "none", "activations": False},
    "sinusoidal": {"positions": "sinusoidal", "levels": "both"},
    "what it is": {"levels": "outputs", "kinds": True, "kernel_sizes": True},
    "statistics": {"statistics": True},
    "waves": {"frequencies": 3, "fan_in": True},
    "ordered": {"ordered": True, "messages": 4, "unit_weights": False},
    "all": {
        "positions": "sinusoidal", "levels": "both", "kinds": True, "kernel_sizes": True,
        "statistics": True, "frequencies": 3, "ordered": True, "messages": 4, "fan_in": True,
    },
}  # fmt: skip
options = pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
#: What an option by itself meets; nothing and everything at once meet all architectures.
FEW = ("one-affine-map", "width-one", "mixed-biases", "convolutions", "concatenation", "heads")


def encoder(
    architectures: list[Architecture], edge_channels: int = 4, **changes: Any
) -> NetworkEncoder:
    torch.manual_seed(0)
    return NetworkEncoder(
        SizeLimits.of(architectures), 6, edge_channels, options=EncoderOptions(**changes)
    ).double()


def of_features(built: NetworkEncoder, networks: NeuralGraphStack):
    def function(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        given = NeuralGraphStack(networks.architecture, x, e, integers=networks.integers)
        return built(input_features(given))

    return function


@pytest.mark.parametrize(
    ("option", "name"),
    [(o, name) for o in OPTIONS for name in (EVERY if o in ("default", "all") else FEW)],
)
def test_states_commute_with_relabelling(option: str, name: str):
    changes = OPTIONS[option]
    networks = random_stack(EVERY[name], 3, 0)
    built = encoder([EVERY[name]], **changes)
    built.scales.fit(networks)
    assert_equivariant(
        of_features(built, networks), EVERY[name], features=(networks.x, networks.edge_attr)
    )


@options
def test_a_batch_of_all_is_read_as_one_by_one(changes: dict[str, Any]):
    built = encoder(list(EVERY.values()), **changes)
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(EVERY.values())]
    batch = input_features(to_batch(graphs))
    x, e = built(batch)
    apart = [built(input_features(graph)) for graph in graphs]
    torch.testing.assert_close(x, torch.cat([x for x, _ in apart]), rtol=1e-10, atol=1e-10)
    edges = order_edges(batch.topology, torch.cat([e for _, e in apart]))
    torch.testing.assert_close(e, edges, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("edge_channels", [4, 0])
@options
def test_every_parameter_learns(changes: dict[str, Any], edge_channels: int):
    groups = NeuronGroup("in", 2, "input"), NeuronGroup("out", 2, "output")
    parameters = Parameter("place", (2,), (0,), "bias"), Parameter("w", (2, 2), (1, 0))
    # All layers, and a parameter on inputs, as constants have.
    every = [*EVERY.values(), mlp([2, *[3] * 6, 2]), Architecture(groups, parameters)]
    built = encoder(every, edge_channels, **changes)
    graphs = [random_stack(a, 1, seed)[0] for seed, a in enumerate(every)]
    x, e = built(input_features(to_batch(graphs)))
    (x.square().sum() + (0 if e is None else e.square().sum())).backward()
    still = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert (e is None) == (edge_channels == 0)


@pytest.mark.parametrize("name", ["statistics", "ordered", "all"])
def test_a_permutation_of_one_weight_alone_is_noticed(name: str):
    """That is another network: no relabelling of the states makes up for it."""
    architecture = mlp([2, 4, 3, 2])
    networks = random_stack(architecture, 2, 0)
    values = networks.parameters()
    values["1.weight"] = values["1.weight"].flip(2)
    wrong = NeuralGraphStack.from_parameters(architecture, values)
    built = encoder([architecture], **OPTIONS[name])
    found, expected = (built(input_features(n))[0].detach() for n in (wrong, networks))
    # Sums of squares over each layer, which a relabelling leaves.
    apart = kernels.pool(found.square() - expected.square(), Topology.of(architecture).nodes.group)
    assert float(apart.abs().max()) > 1e-3


class TestBrokenSymmetry:
    def test_places_of_hidden_neurons_break_it_and_the_switch_mends_it(self):
        architecture = mlp([2, 4, 3, 2])
        networks = random_stack(architecture, 3, 0)
        built = encoder([architecture], break_symmetry=True)
        function, features = of_features(built, networks), (networks.x, networks.edge_attr)
        assert built.breaks_symmetry
        assert_not_equivariant(function, architecture, features=features)
        built.breaks_symmetry = False
        assert_equivariant(function, architecture, features=features)
        built.breaks_symmetry = True
        assert_not_equivariant(function, architecture, features=features)

    def test_hidden_neurons_alone_are_told_apart(self):
        networks = random_stack(mlp([2, 4, 3, 2]), 1, 0)
        built = encoder([networks.architecture], break_symmetry=True)
        with_positions = built(input_features(networks))[0]
        built.breaks_symmetry = False
        apart = (with_positions - built(input_features(networks))[0]).abs().amax(-1)[0]
        assert (apart > 1e-3).tolist() == [False] * 2 + [True] * 7 + [False] * 2

    def test_an_encoder_without_them_is_exact_for_good(self):
        built = encoder([mlp([2, 4, 2])])
        built.breaks_symmetry = False
        assert not built.breaks_symmetry
        with pytest.raises(ValueError, match="build it with break_symmetry=True"):
            built.breaks_symmetry = True


class TestPositions:
    def test_networks_of_more_inputs_and_outputs_are_served_by_sinusoids_alone(self):
        small, large = mlp([2, 4, 2]), mlp([5, 4, 7])
        networks = random_stack(large, 2, 0)
        for changes in ({}, {"ordered": True}):
            with pytest.raises(ArchitectureError, match="5 inputs; the model was built for 2"):
                encoder([small], **changes)(input_features(networks))
            built = encoder([small], positions="sinusoidal", **changes)
            assert_equivariant(
                of_features(built, networks), large, features=(networks.x, networks.edge_attr)
            )
            # ... each of which has a place of its own.
            x = built.positions["inputs"](Topology.of(large)) + built.positions["outputs"](
                Topology.of(large)
            )
            placed = torch.cat([x[:5], x[-7:]]).detach()
            assert not x[5:9].any()
            assert float(torch.pdist(placed).min()) > 1e-3

    def test_sinusoids_by_hand(self):
        found = sinusoids(torch.tensor([0, 3]), 4, torch.float64)
        three = torch.tensor([3.0, 0.03]).double()
        expected = [torch.tensor([0, 0, 1, 1]), torch.cat([three.sin(), three.cos()])]
        torch.testing.assert_close(found, torch.stack(expected))

    def test_the_last_layers_of_deeper_networks_are_known_from_the_outputs(self):
        shallow, deep = mlp([2, 4, 4, 1]), mlp([2, 4, 4, 4, 4, 4, 1])
        built = encoder([shallow], levels="outputs")
        places = [built.positions["depths_from_output"](Topology.of(a)) for a in (shallow, deep)]
        torch.testing.assert_close(places[0][-9:], places[1][-9:], rtol=0, atol=0)
        of_blocks = built.block_positions["depths_from_output"]
        blocks = [of_blocks(Topology.of(a)) for a in (shallow, deep)]
        torch.testing.assert_close(blocks[0][-2:], blocks[1][-2:], rtol=0, atol=0)
        assert not torch.equal(places[0][-1], places[0][-2])

    def test_what_is_unknown_is_refused(self):
        with pytest.raises(ValueError, match="levels is 'depth'; expected"):
            encoder([mlp([2, 1])], levels="depth")
        with pytest.raises(ValueError, match="positions is 'random'; expected"):
            encoder([mlp([2, 1])], positions="random")


class TestKinds:
    def test_a_mean_and_another_column_at_its_place_are_told_apart(self):
        def network(column: str) -> NeuralGraphStack:
            groups = (NeuronGroup("in", 2, "input"), NeuronGroup("out", 2, "output"))
            parameters = (
                Parameter("w", (2, 2), (1, 0)), Parameter("b", (2,), (1,), "bias"),
                Parameter("c", (2,), (1,), column),
            )  # fmt: skip
            return random_stack(Architecture(groups, parameters), 1, 0)

        networks = [network("running_mean"), network("embedding")]
        assert torch.equal(networks[0].x, networks[1].x)
        for kinds in (False, True):
            built = encoder([n.architecture for n in networks], kinds=kinds)
            one, other = (built(input_features(n))[0] for n in networks)
            assert torch.equal(one, other) != kinds

    def test_kernels_of_a_size_never_seen_have_a_place_of_their_own(self):
        sizes = encoder([STRUCTURED["convolutions"]], kernel_sizes=True).block_positions
        found = sizes["kernel_sizes"](Topology.of(STRUCTURED["convolutions"]))
        weight = sizes["kernel_sizes"].map.weight
        three = torch.tensor([3.0, 3.0, 1.0]).double().log()
        torch.testing.assert_close(found[0], weight @ three)
        assert not found[1].any()


class TestFourierFeatures:
    def test_by_hand_and_from_the_state_dict(self):
        torch.manual_seed(1)
        waves = FourierFeatures(2, 3, bandwidth=0.5, seed=7)
        torch.manual_seed(2)
        again = FourierFeatures(2, 3, bandwidth=0.5, seed=7)
        other = FourierFeatures(2, 3, bandwidth=0.5, seed=8)
        assert torch.equal(waves.frequency, again.frequency)
        assert not torch.equal(waves.frequency, other.frequency)
        other.load_state_dict(waves.state_dict())
        values = torch.randn(4, 5, 2)
        expected = torch.stack(
            [f(2 * torch.pi * values @ b) for f in (torch.cos, torch.sin) for b in waves.frequency],
            dim=-1,
        )
        torch.testing.assert_close(other(values), expected)


class TestStatistics:
    def test_of_one_tensor_by_hand(self):
        topology = Topology.of(mlp([2, 2, 1]))
        e = torch.tensor([1.0, 3, 5, 5, 2, 4]).double().reshape(6, 1)
        blocks = edge_statistics(topology, e, "block")
        deviation = (11 / 4) ** 0.5
        expected = [3.5, deviation, 1, 2.5, 4, 5, 5]
        torch.testing.assert_close(blocks[0], torch.tensor(expected).double())
        incoming = edge_statistics(topology, e, "target")
        assert incoming[2].tolist() == [2, 1, 1, 1.5, 2, 2.5, 3]
        assert incoming[:2].eq(0).all()  # nothing leads to inputs
        x = torch.tensor([0.0, 0, 1, 3, 7]).double().reshape(5, 1)
        assert group_statistics(topology, x)[1].tolist() == [2, 1, 1, 1.5, 2, 2.5, 3]


class TestScalesOfOtherWidths:
    def stack(self, width: int) -> NeuralGraphStack:
        return random_stack(mlp([2, width, width, 1]), 50, width)

    def test_with_the_fan_in_wider_networks_look_alike(self):
        """Of weights of variance 1 / fan-in, units have variance 1 and sums stay as they were."""
        for fan_in in (True, False):
            built = encoder([mlp([2, 8, 8, 1])], fan_in=fan_in)
            built.scales.fit(self.stack(8))
            wide = input_features(self.stack(200))
            taps, _ = built.scales.all(wide)
            middle = taps[:, 400:-200]
            expected = 1.0 if fan_in else 8 / 200
            assert float(middle.square().mean() * 200) == pytest.approx(expected, rel=0.05)

    def test_on_the_training_width_it_changes_nothing(self):
        taps = []
        for fan_in in (True, False):
            built = encoder([mlp([2, 8, 8, 1])], fan_in=fan_in)
            built.scales.fit(self.stack(8))
            taps.append(built.scales.all(input_features(self.stack(8)))[0])
        torch.testing.assert_close(*taps, rtol=1e-12, atol=1e-12)


def test_symmetric_answers_also_for_tied_weights():
    """Equal entries: quantiles do not depend on which comes first."""
    architecture = mlp([2, 4, 4, 2])
    networks = random_stack(architecture, 2, 0, zero_fraction=0.6)
    built = encoder([architecture], statistics=True)
    relabelling = Symmetry(architecture).sample(1)
    x, e = built(input_features(networks))
    moved = built(input_features(relabelling.act_on_stack(networks)))
    expected = relabelling.act_on_nodes(x), relabelling.act_on_edges(e)
    torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-10)


def test_models_from_before_new_activations_are_loaded():
    def build(seed: int) -> MessagePassingNetwork:
        torch.manual_seed(seed)
        model = MessagePassingNetwork(mlp([2, 3, 1]), 3, channels=8, messages=4, hidden=16)
        return model.double().eval()

    model, other, name = build(1), build(2), "encoder.positions.activations.table"
    old, own = dict(model.state_dict()), other.state_dict()[name].clone()
    old[name] = old[name][:17]
    other.load_state_dict(old)
    assert torch.equal(other.state_dict()[name], torch.cat([old[name], own[17:]]))
    networks = random_stack(mlp([2, 3, 1]), 2, 0)
    assert torch.equal(other(networks), model(networks))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict({**old, name: old[name][:, :3]})


def test_activations_that_are_new_leave_the_draws_of_a_seed(monkeypatch: pytest.MonkeyPatch):
    def draws() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return ActivationFeatures(4).table.detach(), torch.rand(3)

    table, after = draws()
    monkeypatch.setattr(positions, "ACTIVATIONS", {**ACTIVATIONS, "new": ACTIVATIONS["relu"]})
    longer, same = draws()
    assert torch.equal(same, after)
    assert torch.equal(longer[:-1], table)
    assert len(torch.unique(longer, dim=0)) == len(ACTIVATIONS) + 1
