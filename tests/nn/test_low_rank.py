"""Reading products of low rank: no matrix between factors is seen, all else is."""

from __future__ import annotations

import pytest
import torch
from state_laws import relative, train_a_little

from converters import canonicalise, symmetry_spec
from converters.populations import LowRankPairs
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Architecture,
    NeuralGraphStack,
    NeuronGroup,
    Parameter,
    low_rank_pairs,
    sample_gauges,
    to_batch,
)
from nngraph.nn import LowRankNetwork
from nngraph.testing import random_stack


def adapter(rank: int, layers: dict[str, tuple[int, int]], kernel: int = 0) -> Architecture:
    groups, parameters = [], []
    for name, (inputs, outputs) in layers.items():
        first, taps = len(groups), (kernel,) * 2 if kernel else ()
        groups += [
            NeuronGroup(f"{name}.in", inputs, "input"),
            NeuronGroup(f"{name}.rank", rank, "hidden", space=f"{name}.rank"),
            NeuronGroup(f"{name}.out", outputs, "output"),
        ]
        none, ones = tuple(None for _ in taps), tuple(1 for _ in taps)
        parameters += [
            Parameter(f"{name}.lora_A", (rank, inputs, *taps), (first + 1, first, *none)),
            Parameter(f"{name}.lora_B", (outputs, rank, *ones), (first + 2, first + 1, *none)),
        ]
    return Architecture(tuple(groups), tuple(parameters))


LAYERS = {"q": (6, 5), "v": (6, 7)}
SMALL = {"hidden": 8, "probes_per_side": 3, "spectrum": 4}
CASES = {
    "linear": adapter(3, LAYERS), "convolutions": adapter(2, LAYERS, kernel=3),
    "rank one": adapter(1, LAYERS), "rank above the sizes": adapter(9, LAYERS),
}  # fmt: skip
cases = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES)


def build(*architectures: Architecture) -> LowRankNetwork:
    torch.manual_seed(0)
    return LowRankNetwork(architectures, 4, **SMALL).double().eval()


def moved(networks: NeuralGraphStack, condition: float, seed: int = 0) -> NeuralGraphStack:
    generator = torch.Generator().manual_seed(seed)
    values = networks.parameters()
    found = sample_gauges(networks.architecture, values, condition, generator)
    assert any(relative(found[name], values[name]) > 1e-3 for name in values) or condition == 1
    return networks.with_parameters(found)


@cases
def test_no_matrix_between_the_factors_changes_products_or_answers(architecture: Architecture):
    networks, model = random_stack(architecture, 4, 0), build(architecture)
    model.fit_statistics(networks)
    for condition in (1.0, 1e2, 1e4):
        other = moved(networks, condition)
        values, found = networks.parameters(), other.parameters()
        for pair in low_rank_pairs(architecture):
            up, down = pair.factors(values)
            up_now, down_now = pair.factors(found)
            assert relative(up_now @ down_now, up @ down) < 1e-13 * condition
        assert relative(model(other), model(networks)) < 1e-12 * max(condition, 100)
    train_a_little(model, networks)
    model.eval()
    assert relative(model(moved(networks, 100.0)), model(networks)) < 1e-9
    assert relative(model(networks.to_batch()), model(networks)) < 1e-10


@cases
def test_what_changes_a_product_changes_the_answer(architecture: Architecture):
    networks, model = random_stack(architecture, 3, 0), build(architecture)
    for name in networks.parameters():
        values = networks.parameters()
        for wrong in (values[name].roll(1, 2), values[name] * 1.1, -values[name]):
            other = networks.with_parameters({**values, name: wrong})
            assert relative(model(other), model(networks)) > 1e-6 or architecture.num_edges < 30


def test_maps_of_one_factor_alone_are_noticed():
    networks, model = random_stack(CASES["linear"], 3, 0), build(CASES["linear"])
    values = networks.parameters()
    found = sample_gauges(CASES["linear"], values, 3.0, torch.Generator().manual_seed(0))
    half = networks.with_parameters({**values, "q.lora_A": found["q.lora_A"]})
    assert relative(model(half), model(networks)) > 1e-3


def test_other_ranks_and_some_of_the_layers_are_read():
    small, large = adapter(2, LAYERS), adapter(5, LAYERS)
    model, graphs = build(small, large), []
    for architecture in (small, large, adapter(4, LAYERS), adapter(3, {"v": (6, 7)})):
        graphs += list(random_stack(architecture, 2, 0))
    each = torch.cat([model(graph) for graph in graphs])
    assert relative(model(to_batch(graphs)), each) < 1e-10
    # A product of rank 2 is one of rank 5, too: the answer is that of the product.
    values = random_stack(small, 2, 0).parameters()
    wide = {
        name: torch.cat([value, value.new_zeros(2, *shape)], axis)
        for (name, value), (shape, axis) in zip(
            values.items(), [((3, 6), 1), ((5, 3), 2), ((3, 6), 1), ((7, 3), 2)], strict=True
        )
    }
    padded = NeuralGraphStack.from_parameters(large, wide)
    assert relative(model(padded), model(random_stack(small, 2, 0))) < 1e-10
    with pytest.raises(ArchitectureError, match=r"product of low rank 'v\.lora_A' of 7 x 5"):
        model(random_stack(adapter(2, {"v": (5, 7)}), 2, 0))
    with pytest.raises(ArchitectureError, match=r"tensor '0\.weight', which none has"):
        model(random_stack(Architecture.mlp([2, 3, 1], "relu"), 2, 0))


def test_adapters_without_an_effect_are_read_and_learned_from():
    networks = random_stack(CASES["linear"], 3, 0)
    values = networks.parameters()
    zero = {n: v * ("lora_A" in n) for n, v in values.items()}
    model = build(CASES["linear"])
    model.fit_statistics(networks.with_parameters(zero))
    answers = model(networks.with_parameters(zero))
    answers.square().sum().backward()
    assert bool(answers.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_pairs_are_those_of_the_derived_symmetry_and_the_alternative_is_one_form():
    tensors = {
        f"{name}.lora_{side}.weight": torch.zeros((3, size[0]) if side == "A" else (size[1], 3))
        for name, size in LAYERS.items() for side in "AB"
    }
    module = LowRankPairs(tensors)
    spec = symmetry_spec(module.to_empty(device="cpu"), tuple(torch.zeros(1, 6) for _ in LAYERS))
    groups, parameters = CASES["linear"].groups, CASES["linear"].parameters
    named = [Parameter(f"{p.name}.weight", p.shape, p.axes) for p in parameters]
    architecture = Architecture(groups, tuple(named))
    linear = [maps for maps in spec.generators if maps.kind == "linear"]
    derived = {(p.name, p.power) for maps in linear for p in maps.powers}
    pairs = low_rank_pairs(architecture)
    assert derived == {(p.down, 1) for p in pairs} | {(p.up, -1) for p in pairs}
    networks = random_stack(architecture, 3, 0)
    one, other = (canonicalise(n, spec) for n in (networks, moved(networks, 100.0)))
    assert relative(other.edge_attr, one.edge_attr) < 1e-9


def test_neurons_that_are_more_than_a_product_are_no_pair():
    chain = Architecture.mlp([4, 3, 2], "identity", bias=False)
    assert [p.rank for p in low_rank_pairs(chain)] == [3]
    for other in (
        Architecture.mlp([4, 3, 2], "relu", bias=False), Architecture.mlp([4, 3, 2], "identity"),
        Architecture.mlp([4, 3, 3, 2], "identity", bias=False),
    ):  # fmt: skip
        assert low_rank_pairs(other) == ()
    with pytest.raises(ArchitectureError, match=r"condition is 0\.5"):
        sample_gauges(chain, random_stack(chain, 2, 0).parameters(), 0.5)
