"""Matching the neurons of two networks: what was planted is found, and nothing ever gets worse."""

from __future__ import annotations

import math
from itertools import pairwise, permutations, product

import pytest
import torch
from torch import nn

from converters import to_graph
from nngraph import kernels
from nngraph.alignment import (
    Barrier,
    barrier,
    canonical_form,
    data_loss,
    distance,
    interpolate,
    match_activations,
    match_embeddings,
    match_features,
    match_sinkhorn,
    match_weights,
    relabel_softly,
    run,
    sinkhorn,
)
from nngraph.alignment.factors import soft_inner_product
from nngraph.alignment.gains import space_gains
from nngraph.alignment.steps import assign
from nngraph.alignment.terms import inner_product, split_factors, terms_of
from nngraph.drawing.alignment import draw_alignment, similarity
from nngraph.errors import ArchitectureError, InvalidGraphError, NonFiniteError
from nngraph.graph import (
    Activation,
    Architecture,
    NeuralGraph,
    Relabelling,
    Symmetry,
    forward,
    sample_moves,
)
from nngraph.graph.spaces import Factor
from nngraph.nn import NetworkEncoder, StateNetwork, States, input_features
from nngraph.tasks.matching import matching_loss
from nngraph.testing import random_architectures, random_parameters, structured_architectures

ALL = [*random_architectures(), *structured_architectures()]
every_architecture = pytest.mark.parametrize(
    "architecture", [a for _, a in ALL], ids=[name for name, _ in ALL]
)


def network(architecture: Architecture, seed: int, dtype: torch.dtype = torch.float64):
    parameters = random_parameters(architecture, seed, dtype)
    return NeuralGraph.from_parameters(architecture, parameters)


def equal(a: NeuralGraph, b: NeuralGraph) -> bool:
    other = b.parameters()
    return all(torch.equal(value, other[name]) for name, value in a.parameters().items())


def heads_architecture() -> Architecture:
    return dict(structured_architectures())["heads"]


class Block(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(channels, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.two = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


class Recurrent(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.read, self.step = nn.Linear(3, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        h = torch.tanh(self.read(x))
        return self.head(torch.tanh(h + self.step(h)))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


MODULES = {
    "residual-convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), Block(5, 6), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(20, 3),
        ),
        (2, 3, 6, 6),
    ),
    "attention": (encoder, (2, 4, 6)),
    "grouped-convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.GroupNorm(2, 6), nn.ReLU(),
            nn.Conv2d(6, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 2),
        ),
        (2, 3, 4, 4),
    ),
    "both-ends": (Recurrent, (2, 3)),
}  # fmt: skip


@pytest.fixture(params=MODULES)
def module_and_input(request):
    make, shape = MODULES[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().double().eval()
        with torch.no_grad():
            for value in module.parameters():
                value.copy_(torch.randn_like(value))
            for value in module.buffers():
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) + 0.5)
        return module, torch.randn(*shape, dtype=torch.float64)


# -- what was planted is found -------------------------------------------------------------------


@every_architecture
def test_planted_relabelling_is_found(architecture):
    a, planted = network(architecture, 0), Symmetry(architecture).sample(1)
    found = match_weights(a, planted.act_on_graph(a), starts=1)
    assert found.relabelling == planted.invert()
    assert equal(found.apply(planted.act_on_graph(a)), a)


def test_planted_relabelling_of_a_module_is_found(module_and_input):
    module, x = module_and_input
    a = to_graph(module, x)
    planted = Symmetry(a.architecture).sample(1)
    b = planted.act_on_graph(a)
    noisy = b.with_parameters(
        {
            name: v + 0.2 * torch.randn(v.shape, generator=torch.Generator().manual_seed(3)).to(v)
            if v.is_floating_point() else v
            for name, v in b.parameters().items()
        }
    )  # fmt: skip
    assert match_weights(a, b, starts=1).relabelling == planted.invert()
    found = match_weights(a, noisy)
    assert found.relabelling == planted.invert()
    # The module itself says that nothing was changed but the order.
    aligned = torch.func.functional_call(module, found.apply(noisy).parameters(), (x,))
    torch.testing.assert_close(
        aligned, torch.func.functional_call(module, noisy.parameters(), (x,)), rtol=1e-9, atol=1e-9
    )


def test_a_wrong_relabelling_is_noticed():
    architecture = Architecture.mlp([3, 5, 4, 2])
    a, planted = network(architecture, 0), Symmetry(architecture).sample(1)
    b = planted.act_on_graph(a)
    wrong = Symmetry(architecture).sample(7)
    assert wrong != planted.invert()
    assert not equal(wrong.act_on_graph(b), a)
    assert distance(a, wrong.act_on_graph(b)) > 0.5
    assert distance(a, match_weights(a, b).apply(b)) == 0


@pytest.mark.parametrize("method", ["sinkhorn", "activations"])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_other_methods_find_it_too(method, activation):
    architecture = Architecture.mlp([6, 5, 4, 3], activation)
    a, planted = network(architecture, 0), Symmetry(architecture).sample(1)
    b = planted.act_on_graph(a)
    if method == "sinkhorn":
        found = match_sinkhorn(a, b, steps=40, iterations=8)
    else:
        inputs = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        found = match_activations(a, b, inputs)
    assert found.relabelling == planted.invert()
    assert found.method == method


def test_soft_permutations_find_heads():
    architecture = heads_architecture()
    a, planted = network(architecture, 0), Symmetry(architecture).sample(1)
    found = match_sinkhorn(a, planted.act_on_graph(a), steps=40, iterations=8)
    assert found.relabelling == planted.invert()


# -- the descent ---------------------------------------------------------------------------------


@every_architecture
def test_the_product_never_falls_and_is_told_right(architecture):
    a, b = network(architecture, 0), network(architecture, 1)
    found = match_weights(a, b, starts=3, generator=2)
    assert all(s <= t for s, t in pairwise(found.history))
    told = inner_product(terms_of(a, found.apply(b)))
    assert found.history[-1] == pytest.approx(told, rel=1e-10)
    assert told >= inner_product(terms_of(a, b)) * (1 - 1e-12) - 1e-12


@every_architecture
def test_the_first_start_does_not_depend_on_labels(architecture):
    a, b = network(architecture, 0), network(architecture, 1)
    moved = Symmetry(architecture).sample(5).act_on_graph(b)
    one, other = (match_weights(a, v, starts=1) for v in (b, moved))
    assert equal(one.apply(b), other.apply(moved))
    # Relabelling the first network relabels the answer.
    g = Symmetry(architecture).sample(6)
    third = match_weights(g.act_on_graph(a), b, starts=1)
    assert equal(third.apply(b), g.act_on_graph(one.apply(b)))


@every_architecture
def test_gains_are_the_slopes_of_the_soft_product(architecture):
    terms = terms_of(network(architecture, 0), network(architecture, 1))
    for space, index in Symmetry(architecture).identity().indices.items():
        eye = torch.eye(index.shape[-1], dtype=torch.float64).expand(*index.shape, -1)
        eye = eye.clone().requires_grad_()
        value = soft_inner_product(terms, {space: eye})
        (slope,) = torch.autograd.grad(value, eye)
        gains, _ = space_gains(architecture.permutations, terms, space)
        torch.testing.assert_close(gains, slope.reshape(gains.shape), rtol=1e-10, atol=1e-12)
        assert value.item() == pytest.approx(inner_product(terms), rel=1e-10)


def brute_force(a: NeuralGraph, b: NeuralGraph) -> float:
    """Try every relabelling."""
    architecture = a.architecture
    choices = []
    for space, index in Symmetry(architecture).identity().indices.items():
        rows = index.reshape(-1, index.shape[-1])
        one = [torch.tensor(p) for p in permutations(range(index.shape[-1]))]
        choices.append(
            [(space, torch.stack(p).view(index.shape)) for p in product(one, repeat=len(rows))]
        )
    return max(
        inner_product(terms_of(a, Relabelling(architecture, dict(choice)).act_on_graph(b)))
        for choice in product(*choices)
    )


def test_heads_and_their_features_are_matched_at_best():
    """Heads with the features of each: 2! (3!)^2 (2!)^2 = 288 relabellings, and one step."""
    architecture = heads_architecture()
    a, b = network(architecture, 0), network(architecture, 10)
    found = match_weights(a, b, starts=1)
    assert found.history[-1] == pytest.approx(brute_force(a, b), rel=1e-10)


def test_a_space_at_both_ends_is_matched_at_best():
    """Quadratic problems of 5 neurons: one of three starts finds the best of 120."""
    architecture = to_graph(Recurrent(5), torch.zeros(2, 3)).architecture
    for seed in (0, 4, 8):
        a, b = network(architecture, seed), network(architecture, seed + 20)
        found = match_weights(a, b, starts=3)
        assert found.history[-1] == pytest.approx(brute_force(a, b), rel=1e-10)


def test_more_starts_are_never_worse():
    architecture = Architecture.mlp([2, 6, 6, 6, 1])
    a, b = network(architecture, 0), network(architecture, 1)
    values = [match_weights(a, b, starts=n, generator=0).history[-1] for n in (1, 2, 4, 8)]
    assert all(s <= t * (1 + 1e-12) for s, t in pairwise(values))


def test_statistics_of_norms_move_but_do_not_count():
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    a = to_graph(module.eval(), torch.zeros(1, 1, 2, 2))
    planted = Symmetry(a.architecture).sample(1)
    b = planted.act_on_graph(a)
    values = b.parameters()
    values["1.running_var"] = 1000 * torch.arange(1.0, 5.0)
    b = b.with_parameters(values)
    found = match_weights(a, b, starts=1)
    assert found.relabelling == planted.invert()
    assert distance(a, found.apply(b)) == 0
    index = found.relabelling.indices["0"]
    assert torch.equal(found.apply(b).parameters()["1.running_var"], values["1.running_var"][index])


# -- degenerate cases ----------------------------------------------------------------------------


def test_equal_neurons_and_zero_weights_stay_as_they_are():
    architecture = Architecture.mlp([2, 4, 3, 1])
    zero = network(architecture, 0).with_parameters(
        {p.name: torch.zeros(p.shape) for p in architecture.parameters}
    )
    same = zero.with_parameters({n: torch.ones_like(v) for n, v in zero.parameters().items()})
    for a, b in ((zero, zero), (same, same), (zero, same)):
        found = match_weights(a, b)
        assert found.relabelling == Symmetry(architecture).identity()
        assert len(found.history) == 1


def test_float32_and_half_precision_are_matched_exactly():
    architecture = Architecture.mlp([4, 6, 5, 2])
    for dtype in (torch.float32, torch.bfloat16):
        a, planted = network(architecture, 0, dtype), Symmetry(architecture).sample(1)
        found = match_weights(a, planted.act_on_graph(a), starts=1)
        assert found.relabelling == planted.invert()
        assert found.apply(a).parameters()["0.weight"].dtype == dtype


# -- signs and scales ----------------------------------------------------------------------------


def test_signs_of_odd_neurons_are_found():
    architecture = Architecture.mlp([3, 5, 4, 2], "tanh")
    a, planted = network(architecture, 0), Symmetry(architecture).sample(1)
    values = a.parameters()
    flips = [torch.tensor([1.0, -1, -1, 1, -1]), torch.tensor([-1.0, -1, 1, 1])]
    for layer, flip in enumerate(flips):
        values[f"{layer}.weight"] = values[f"{layer}.weight"] * flip[:, None]
        values[f"{layer}.bias"] = values[f"{layer}.bias"] * flip
        values[f"{layer + 1}.weight"] = values[f"{layer + 1}.weight"] * flip
    b = planted.act_on_graph(a.with_parameters(values))
    inputs = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for found in (match_weights(a, b, signs=True), match_activations(a, b, inputs, signs=True)):
        assert distance(a, found.apply(b)) == 0
        assert [int((s < 0).sum()) for _, s in sorted(found.signs.items())] == [3, 2]
    assert distance(a, match_weights(a, b).apply(b)) > 0.1


def test_canonical_form_undoes_scales_and_keeps_the_function():
    architecture = Architecture.mlp([3, 6, 5, 4, 2], ["relu", Activation("leaky_relu"), "relu"])
    a = network(architecture, 0)
    values = a.parameters()
    for layer in range(3):
        size = values[f"{layer}.bias"].shape
        scale = torch.rand(size, generator=torch.Generator().manual_seed(layer)).double() * 3 + 0.1
        values[f"{layer}.weight"] = values[f"{layer}.weight"] * scale[:, None]
        values[f"{layer}.bias"] = values[f"{layer}.bias"] * scale
        values[f"{layer + 1}.weight"] = values[f"{layer + 1}.weight"] / scale
    planted = Symmetry(architecture).sample(1)
    b = planted.act_on_graph(a.with_parameters(values))
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    one, other = canonical_form(a), canonical_form(b)
    torch.testing.assert_close(run(one, x), run(a, x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(run(other, x), run(b, x), rtol=1e-10, atol=1e-12)
    assert distance(one, match_weights(one, other).apply(other)) < 1e-10
    assert distance(a, match_weights(a, b).apply(b)) > 0.1
    weight, bias, after = (one.parameters()[n] for n in ("1.weight", "1.bias", "2.weight"))
    torch.testing.assert_close(
        weight.square().sum(1) + bias.square(), after.square().sum(0), rtol=1e-9, atol=0.0
    )


def test_canonical_form_of_sines_and_of_neurons_without_weights():
    architecture = Architecture.mlp([2, 5, 4, 1], Activation("sine", w0=3))
    a = network(architecture, 0)
    generator = torch.Generator().manual_seed(0)
    values = sample_moves(
        architecture, a.parameters(), symmetries=["phase"], generator=generator
    )
    planted = Symmetry(architecture).sample(1)
    b = planted.act_on_graph(a.with_parameters(values))
    one, other = canonical_form(a), canonical_form(b)
    assert distance(one, match_weights(one, other, signs=True).apply(other)) < 1e-9
    dead = network(Architecture.mlp([2, 3, 1]), 0)
    values = dead.parameters()
    values["0.weight"][1], values["0.bias"][1] = 0, 0
    assert torch.isfinite(canonical_form(dead).parameters()["1.weight"]).all()


# -- soft relabellings ---------------------------------------------------------------------------


@every_architecture
def test_permutation_matrices_relabel_as_permutations_do(architecture):
    a, g = network(architecture, 0), Symmetry(architecture).sample(1)
    hard = {s: nn.functional.one_hot(i, i.shape[-1]) for s, i in g.indices.items()}
    soft, expected = relabel_softly(a, hard).parameters(), g.act_on_graph(a).parameters()
    for name, value in expected.items():
        torch.testing.assert_close(soft[name], value, rtol=1e-12, atol=1e-12)


def test_sinkhorn_gives_doubly_stochastic_matrices():
    logits = torch.randn(3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = sinkhorn(logits, 0.5, 400)
    ones = torch.ones(3, 7, dtype=torch.float64)
    torch.testing.assert_close(matrix.sum(-1), ones, rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix.sum(-2), ones, rtol=0, atol=1e-12)
    # Colder, it tends to the assignment of most gain.
    cold = sinkhorn(logits, 0.005, 2000)
    assert torch.equal(cold.argmax(-1), assign(logits)[0])


def test_sinkhorn_on_a_loss_is_never_worse_than_its_start():
    architecture = Architecture.mlp([3, 5, 4, 2], "tanh")
    a, b = network(architecture, 0), network(architecture, 1)
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = data_loss(x, run(a, x))
    start = match_weights(a, b).relabelling
    found = match_sinkhorn(a, b, loss, start=start, steps=30, iterations=8)
    middle = [
        float(loss(interpolate(a, g.act_on_graph(b), 0.5))) for g in (start, found.relabelling)
    ]
    assert middle[1] <= middle[0]
    assert found.history[-1] == pytest.approx(-middle[1], rel=1e-10)
    assert all(s < t for s, t in pairwise(found.history))


def test_factors_are_split_at_the_parts_of_a_block():
    architecture = dict(structured_architectures())["grouped"]
    two_by_three = architecture.groups[1].factors
    outer, rest = split_factors(two_by_three, 2)
    assert [f.size for f in outer] == [2]
    assert [f.size for f in rest] == [3]
    assert split_factors(two_by_three, 1) == ([], list(two_by_three))
    # A fixed factor may be cut: the parts are its first places.
    outer, rest = split_factors((Factor(6), Factor(2, "a")), 3)
    assert (outer, rest) == ([Factor(3)], [Factor(2), Factor(2, "a")])


# -- features and learned states -----------------------------------------------------------------


class Tiny(StateNetwork):
    """States of neurons: what their own parameters say, and what their weights bring of others."""

    column = "generic weights-only"

    def __init__(self, architecture, num_outputs=0, channels=16):
        super().__init__(architecture, num_outputs, channels, 0)
        self.encoder = NetworkEncoder(self.limits, channels, 0)
        self.heads = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))

    def states(self, networks):
        features = input_features(networks)
        x, _ = self.encoder(features)
        ahead, back = (
            kernels.propagate(features.topology, features.weight, x, to)
            for to in ("target", "source")
        )
        return States(features, self.heads[0](x) + self.heads[1](ahead) + self.heads[2](back))


def test_embeddings_of_a_relabelled_network_are_matched():
    architecture = Architecture.mlp([3, 6, 5, 2])
    a, planted = network(architecture, 0), Symmetry(architecture).sample(1)
    b = planted.act_on_graph(a)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tiny(architecture).double().train()
    found = match_embeddings(model, a, b)
    assert found.relabelling == planted.invert()
    assert model.training


def test_the_matching_loss_is_least_for_the_right_answer():
    architecture = Architecture.mlp([2, 5, 4, 1])
    x = torch.randn(3, architecture.num_nodes, 16, generator=torch.Generator().manual_seed(0))
    g = Symmetry(architecture).sample_stack(3, 1)
    nodes = torch.arange(architecture.num_nodes).expand(3, -1).unsqueeze(-1)
    y, old = g.act_on_nodes(x), g.act_on_nodes(nodes).squeeze(-1)
    right = matching_loss(architecture, x, y, old)
    wrong = matching_loss(architecture, x, y, nodes.squeeze(-1))
    assert right < 0.1 < 1 < wrong
    # Nothing to tell neurons apart by: the logarithm of their number, on average.
    blind = matching_loss(architecture, torch.ones_like(x), torch.ones_like(y), old)
    expected = (5 * math.log(5) + 4 * math.log(4)) / 9
    assert blind.item() == pytest.approx(expected, rel=1e-5)


# -- the path between ----------------------------------------------------------------------------


def test_interpolation_meets_both_ends_and_the_middle():
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))
    a = to_graph(module.eval(), torch.zeros(1, 1, 2, 2))
    b = network(a.architecture, 1, torch.float32)
    assert equal(interpolate(a, b, 0.0), a)
    for name, value in interpolate(a, b, 1.0).parameters().items():
        expected = b.parameters()[name] if value.is_floating_point() else a.parameters()[name]
        assert torch.equal(value, expected)
    middle = interpolate(a, b, 0.5).parameters()["0.weight"]
    expected = (a.parameters()["0.weight"] + b.parameters()["0.weight"]) / 2
    torch.testing.assert_close(middle, expected)


def test_the_barrier_is_the_excess_over_the_line():
    found = Barrier((0.0, 0.25, 0.5, 1.0), (1.0, 2.0, 2.5, 3.0))
    assert found.excess == (0.0, 0.5, 0.5, 0.0)
    assert found.height == 0.5
    assert Barrier((0.0, 0.5, 1.0), (1.0, 0.5, 1.0)).height == 0
    a = network(Architecture.mlp([2, 3, 1]), 0)
    assert barrier(a, a, lambda n: n.parameters()["0.weight"].sum()).height == pytest.approx(0)


def test_matching_removes_the_barrier_of_a_relabelled_network():
    architecture = Architecture.mlp([4, 8, 6, 3])
    a = network(architecture, 0)
    b = Symmetry(architecture).sample(1).act_on_graph(a)
    x = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = data_loss(x, run(a, x).argmax(-1))
    assert barrier(a, b, loss).height > 0.05
    assert barrier(a, match_weights(a, b).apply(b), loss).height < 1e-12
    torch.testing.assert_close(run(a, x), forward(a, x), rtol=1e-10, atol=1e-12)


def test_similarity_of_a_network_with_itself_is_one_on_the_diagonal(tmp_path):
    architecture = Architecture.mlp([3, 6, 5, 2])
    a, b = network(architecture, 0), network(architecture, 1)
    same = similarity(a, a, "hidden.1")
    torch.testing.assert_close(same.diagonal(), torch.ones(6, dtype=torch.float64))
    assert float(same.abs().max()) <= 1 + 1e-12
    pytest.importorskip("matplotlib")
    x = torch.randn(9, 3, dtype=torch.float64)
    barriers = {"before": barrier(a, b, data_loss(x, run(a, x)), (0, 0.5, 1))}
    path = draw_alignment(tmp_path / "pair.png", a, b, match_weights(a, b), barriers)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ArchitectureError, match="no neuron space"):
        similarity(a, b, "hidden.9")


# -- mistakes ------------------------------------------------------------------------------------


def test_mistakes_are_told():
    architecture = Architecture.mlp([2, 4, 1])
    a = network(architecture, 0)
    with pytest.raises(InvalidGraphError, match=r"'0.weight' is \(4, 2\) in one and \(5, 2\)"):
        match_weights(a, network(Architecture.mlp([2, 5, 1]), 0))
    with pytest.raises(InvalidGraphError, match="second of two networks to match is a dict"):
        match_weights(a, a.parameters())
    values = a.parameters()
    values["1.weight"] = values["1.weight"].clone().fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"'1.weight' of the second network"):
        match_weights(a, a.with_parameters(values))
    with pytest.raises(ValueError, match="starts is 0"):
        match_weights(a, a, starts=0)
    with pytest.raises(ArchitectureError, match="for chains alone"):
        match_weights(*[network(heads_architecture(), 0)] * 2, signs=True)
    with pytest.raises(InvalidGraphError, match=r"expected \(7, K\)"):
        match_features(architecture, torch.zeros(7, 3), torch.zeros(6, 3))
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        barrier(a, a, lambda n: torch.zeros(()), (0, 0.7, 0.5, 1))
    with pytest.raises(InvalidGraphError, match="one answer to each input"):
        data_loss(torch.zeros(3, 2), torch.zeros(2))
    line = Architecture.mlp([2, 1])
    with pytest.raises(ArchitectureError, match="nothing to match"):
        matching_loss(line, *[torch.zeros(1, 3, 2)] * 2, torch.arange(3)[None])
