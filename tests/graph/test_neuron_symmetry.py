from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Activation,
    Architecture,
    NeuralGraphStack,
    NeuronGroup,
    Parameter,
    canonicalise_neurons,
    forward,
    sample_moves,
)
from nngraph.graph.relabelling import Symmetry
from nngraph.testing import random_parameters

# 10.1 is no float32. Depth goes with low frequencies: each layer multiplies rounding by its w0.
sine, odd = Activation("sine", w0=30), Activation("sine", w0=10.1)
mlp = Architecture.mlp
CHAINS = [
    pytest.param(mlp([2, 5, 1], sine), id="one hidden layer"),
    pytest.param(mlp([2, 6, 5, 4, 3], odd), id="three"),
    pytest.param(mlp([2, 1, 1, 2], sine), id="width one"),
    pytest.param(mlp([2, 5, 4, 1], odd, bias=False), id="no bias"),
    pytest.param(mlp([2, 5, 4, 3, 1], odd, bias=[True, False, True, False]), id="mixed biases"),
    pytest.param(mlp([2, 5, 4, 3, 1], [sine, "tanh", odd]), id="mixed activations"),
    pytest.param(mlp([3, 5, 2], [sine, sine]), id="sine outputs"),
    pytest.param(mlp([2, 3], sine), id="one affine map"),
    pytest.param(mlp([2, 5, 1], Activation("sine", w0=-7.0)), id="negative frequency"),
]


def draw(architecture: Architecture, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    return random_parameters(architecture, seed, lead=(count,))


def answers(architecture: Architecture, parameters: dict[str, Tensor]) -> Tensor:
    points = torch.linspace(-1, 1, 11 * architecture.widths[0], dtype=torch.float64)
    stack = NeuralGraphStack.from_parameters(architecture, parameters)
    return forward(stack, points.view(11, -1))


def moved_sines(
    architecture: Architecture, parameters: dict[str, Tensor],
    generator: torch.Generator | None = None, max_steps: int = 2,
) -> dict[str, Tensor]:  # fmt: skip
    return sample_moves(
        architecture, parameters, max_steps=max_steps, symmetries=["phase"], generator=generator
    )


def canonical_sines(architecture: Architecture, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return canonicalise_neurons(architecture, parameters, ["phase"])


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("architecture", CHAINS)
def test_the_symmetry_leaves_the_function_as_it_is(architecture: Architecture):
    parameters = draw(architecture)
    generator = torch.Generator().manual_seed(1)
    moved = moved_sines(architecture, parameters, generator)
    expected = answers(architecture, parameters)
    torch.testing.assert_close(answers(architecture, moved), expected, rtol=0, atol=1e-12)
    if len(architecture.widths) > 2:
        assert distance(moved, parameters) > 0.01
        again = moved_sines(architecture, parameters, generator)
        assert distance(moved, again) > 0.01


@pytest.mark.parametrize("architecture", CHAINS)
def test_the_canonical_form_is_one_per_orbit(architecture: Architecture):
    parameters = draw(architecture)
    canonical = canonical_sines(architecture, parameters)
    assert list(canonical) == list(parameters)
    torch.testing.assert_close(
        answers(architecture, canonical), answers(architecture, parameters), rtol=0, atol=1e-12
    )
    assert distance(canonical_sines(architecture, canonical), canonical) < 1e-14
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        moved = moved_sines(architecture, parameters, generator, 3)
        assert distance(canonical_sines(architecture, moved), canonical) < 1e-12


@pytest.mark.parametrize("architecture", CHAINS)
def test_the_canonical_form_commutes_with_relabelling(architecture: Architecture):
    parameters = draw(architecture)
    for seed in range(3):
        relabelling = Symmetry(architecture).sample_stack(4, seed)
        one = relabelling.act_on_parameters(canonical_sines(architecture, parameters))
        other = canonical_sines(architecture, relabelling.act_on_parameters(parameters))
        assert distance(one, other) < 1e-14


def test_phases_and_signs_by_hand():
    architecture = mlp([1, 3, 1], Activation("sine", w0=2.0))
    pi = torch.pi
    parameters = {
        "0.weight": torch.tensor([[1.0], [-2.0], [3.0]]).double(),
        # phases 2 b: 3 pi / 4 -> -pi / 4 -> pi / 4; -pi / 4 -> pi / 4; 2 pi + 1 -> 1
        "0.bias": torch.tensor([3 * pi / 8, -pi / 8, pi + 0.5]).double(),
        "1.weight": torch.tensor([[1.0, 10.0, 100.0]]).double(),
        "1.bias": torch.tensor([7.0]).double(),
    }
    found = canonical_sines(architecture, parameters)
    expected = {
        "0.weight": torch.tensor([[-1.0], [2.0], [3.0]]).double(),
        "0.bias": torch.tensor([pi / 8, pi / 8, 0.5]).double(),
        # the first neuron's step and its flip cancel
        "1.weight": torch.tensor([[1.0, -10.0, 100.0]]).double(),
        "1.bias": parameters["1.bias"],
    }
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_bias_of_zero_leaves_the_sign_to_the_largest_weight():
    architecture = mlp([2, 4, 3, 1], sine)
    parameters = draw(architecture)
    for name in ("0.bias", "1.bias"):
        parameters[name] = torch.zeros_like(parameters[name])
    canonical = canonical_sines(architecture, parameters)
    largest = canonical["0.weight"].abs().argmax(-1, keepdim=True)
    assert bool((canonical["0.weight"].gather(-1, largest) > 0).all())
    moved = moved_sines(architecture, parameters, torch.Generator().manual_seed(0), 0)
    assert distance(moved, parameters) > 0.01
    assert distance(canonical_sines(architecture, moved), canonical) < 1e-12


def test_other_activations_stay():
    architecture = mlp([2, 5, 4, 1], ["tanh", "relu"])
    parameters = draw(architecture)
    generator = torch.Generator().manual_seed(0)
    for found in (
        canonical_sines(architecture, parameters),
        moved_sines(architecture, parameters, generator),
    ):
        assert all(torch.equal(found[name], parameters[name]) for name in parameters)


def test_one_network_and_a_stack_have_the_same_form():
    architecture = mlp([2, 5, 4, 1], odd)
    parameters = draw(architecture)
    stacked = canonical_sines(architecture, parameters)
    for index in range(4):
        single = {name: value[index] for name, value in parameters.items()}
        found = canonical_sines(architecture, single)
        assert all(torch.equal(found[name], stacked[name][index]) for name in found)


def test_what_is_not_a_chain_is_refused():
    groups = (NeuronGroup("in", 2, "input"), NeuronGroup("out", 2, "output", sine))
    parameters = (Parameter("a", (2, 2), (1, 0)), Parameter("b", (2, 2), (1, 0)))
    with pytest.raises(ArchitectureError, match="not a chain"):
        moved_sines(Architecture(groups, parameters), {})
    with pytest.raises(ArchitectureError, match="not a chain"):
        canonical_sines(Architecture(groups, parameters), {})
