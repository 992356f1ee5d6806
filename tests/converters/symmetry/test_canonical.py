"""Canonical forms: the same function, one form of an orbit, once is enough; and dead neurons."""

from __future__ import annotations

from dataclasses import replace

import group_cases
import pytest
import torch
from graph_cases import Function
from torch import Tensor, nn
from torch.func import functional_call

from converters import canonicalise, symmetry_spec, to_graph
from converters.symmetry import SymmetryElement, SymmetrySpec
from nngraph.alignment import canonical_form
from nngraph.graph import NeuralGraphStack

CASES = [
    "MLP of relu", "MLP of absolute value", "MLP of the identity", "residual CNN",
    "depthwise with batch norm", "attention in one matrix", "RMS norm without weight",
    "LoRA of rank 4", "RNN of ReLU", "LSTM",
]  # fmt: skip


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(
        float((found[n] - v).abs().max() / v.abs().max().clamp_min(1e-300))
        for n, v in expected.items() if v.is_floating_point()
    )


def maps_alone(spec: SymmetrySpec, seed: int, bound: float) -> SymmetryElement:
    return replace(spec.sample(seed, bound), relabelling=spec.permutations.identity())


@pytest.mark.parametrize("name", CASES)
def test_there_is_one_form_of_each_orbit_and_its_function_is_the_same(name: str):
    module, inputs = group_cases.build(name)
    spec, state = symmetry_spec(module, inputs[:3]), module.state_dict()
    found = canonicalise(state, spec)
    with torch.no_grad():
        y, expected = functional_call(module, found, (inputs[:3],)), module(inputs[:3])
    assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
    assert error(found, state) > 1e-3
    assert error(canonicalise(found, spec), found) < 1e-10
    moved = spec.act(state, maps_alone(spec, 1, bound=100.0))
    assert error(canonicalise(moved, spec), found) < 1e-9
    # The order of neurons is left to who reads it, save where matrices mix them.
    relabelling = spec.permutations.sample(3)
    mixed = {maps.space for maps in spec.generators if maps.is_matrix}
    left = {s: i for s, i in spec.permutations.identity().items() if s in mixed}
    relabelled = canonicalise(spec.permutations.permute(state, relabelling), spec)
    expected = spec.permutations.permute(found, {**relabelling, **left})
    assert error(relabelled, expected) < 1e-10


def test_another_function_has_another_form():
    module, inputs = group_cases.build("MLP of relu")
    spec, state = symmetry_spec(module, inputs), module.state_dict()
    wrong = SymmetryElement(tuple(-m for m in spec.sample(0).maps), spec.permutations.identity())
    assert error(canonicalise(spec.act(state, wrong), spec), canonicalise(state, spec)) > 0.1


def test_of_a_chain_it_is_the_form_that_alignment_has():
    module, inputs = group_cases.build("MLP of relu")
    graph, spec = to_graph(module, inputs), symmetry_spec(module, inputs)
    assert error(canonicalise(graph, spec).parameters(), canonical_form(graph).parameters()) < 1e-12
    values = {n: v.expand(2, *v.shape) for n, v in graph.parameters().items()}
    stack = NeuralGraphStack.from_parameters(graph.architecture, values)
    moved = spec.act(stack, [maps_alone(spec, seed, 3.0) for seed in range(2)])
    found = canonicalise(moved, spec).parameters()
    assert error(found, canonicalise(stack, spec).parameters()) < 1e-12


def test_a_product_of_low_rank_has_the_factors_of_its_singular_values():
    module = nn.Sequential(nn.Linear(7, 3, bias=False), nn.Linear(3, 6, bias=False)).double()
    spec = symmetry_spec(module, torch.randn(2, 7).double())
    found = canonicalise(module.state_dict(), spec)
    down, up = found["0.weight"], found["1.weight"]
    left, middle, _ = torch.linalg.svd((module[1].weight @ module[0].weight).detach())
    assert torch.allclose(down @ down.T, middle[:3].diag(), atol=1e-12)
    assert torch.allclose(up.T @ up, middle[:3].diag(), atol=1e-12)
    assert torch.allclose((left[:, :3] * middle[:3].sqrt()).abs(), up.abs(), atol=1e-12)
    assert bool((torch.stack([(down**3).sum(1), (up**3).sum(0)]).amax(0) > 0).all())


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("function", [torch.relu, torch.tanh, lambda x: x])
def test_what_is_dead_is_left_and_the_rest_is_canonical(width: int, function):
    torch.manual_seed(0)
    layers = [nn.Linear(3, width, bias=False), Function(function), nn.Linear(width, 2)]
    module, inputs = nn.Sequential(*layers).double(), torch.randn(4, 3).double()
    spec, state = symmetry_spec(module, inputs), module.state_dict()
    for name in ("2.weight", "0.weight"):
        state[name] = state[name].clone()
        state[name].select(1 if name == "2.weight" else 0, 0).zero_()
        found = canonicalise(state, spec)
        assert all(bool(value.isfinite().all()) for value in found.values())
        assert error(canonicalise(found, spec), found) < 1e-12
        y, expected = (functional_call(module, s, (inputs,)) for s in (found, state))
        assert torch.allclose(y, expected, atol=1e-12)
    zero = {name: torch.zeros_like(value) for name, value in state.items()}
    assert all(torch.equal(v, zero[n]) for n, v in canonicalise(zero, spec).items())


def test_channels_that_a_batch_norm_shuts_are_left_as_they_are():
    module, inputs = group_cases.build("residual CNN")
    spec, state = symmetry_spec(module, inputs[:3]), module.state_dict()
    for name in ("1.running_mean", "0.weight", "3.body.1.weight"):
        state[name] = state[name].clone()
        state[name][:2] = 0
    found = canonicalise(state, spec)
    y, expected = (functional_call(module, s, (inputs[:3],)) for s in (found, state))
    assert torch.allclose(y, expected, atol=1e-12)
    assert error(canonicalise(found, spec), found) < 1e-8
    assert max(float(v.abs().max()) for v in found.values()) < 100
