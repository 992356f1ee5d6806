"""The helpers that all laws are stated with must themselves notice what is wrong."""

import pytest
import torch

from nngraph.graph import Architecture, NeuralGraphStack, Symmetry, forward
from nngraph.testing import (
    assert_as_precise,
    assert_equivariant,
    assert_invariant,
    assert_not_equivariant,
    random_architectures,
    random_features,
    random_parameters,
)

ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]
MOVING = [p for p in ARCHITECTURES if Symmetry(p.values[0]).order() > 1]


def node_pass(architecture):
    """Neurons gather from their edges: equivariant, by loops over blocks."""

    def function(x, edge_attr):
        out = x.clone()
        starts = architecture.node_starts
        for block in architecture.blocks:
            weights = edge_attr[:, block.start : block.stop].unflatten(1, block.shape)
            into = slice(starts[block.target], starts[block.target + 1])
            out[:, into] = out[:, into] + weights.sum(2)
        return out, None

    return function


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equivariant_functions_pass(architecture):
    assert_equivariant(lambda x, e: (x.relu(), e.sin()), architecture, node_channels=3)
    assert_equivariant(node_pass(architecture), architecture, node_channels=2, edge_channels=2)
    assert_equivariant(lambda x, e: (None, e * e.mean((1, 2), keepdim=True)), architecture)
    assert_invariant(lambda x, e: (x.sum(1), e.amax((1, 2))), architecture, edge_channels=2)


@pytest.mark.parametrize("architecture", MOVING)
def test_other_functions_are_noticed(architecture):
    wrong = [
        lambda x, e: (x.cumsum(1), e),
        lambda x, e: (x, e.flip(1)),
        lambda x, e: (x * torch.arange(x.shape[1])[:, None], e),
        lambda x, e: (x.roll(1, 1), None),
        lambda x, e: (x.double().to(torch.bfloat16).cumsum(1), None),
    ]
    for function in wrong:
        assert_not_equivariant(function, architecture)
        with pytest.raises(AssertionError, match="not equivariant"):
            assert_equivariant(function, architecture)
        with pytest.raises(AssertionError, match="not invariant"):
            assert_invariant(function, architecture)
    with pytest.raises(AssertionError, match="equivariant on"):
        assert_not_equivariant(lambda x, e: (x, e), architecture)


def test_small_errors_and_single_weights_are_noticed():
    architecture = Architecture.mlp([2, 8, 8, 1])

    def slightly(x, e):
        e = e.clone()
        e[:, 20] += 1e-6
        return x, e

    with pytest.raises(AssertionError, match="in the edges"):
        assert_equivariant(slightly, architecture)


def test_the_wrong_group_is_noticed():
    # Pooling that forgets which neuron is which input is invariant to more, which is no error;
    # a function that treats one hidden neuron apart is invariant to less.
    architecture = Architecture.mlp([2, 3, 1])
    assert_invariant(lambda x, e: x.sum(1), architecture)
    assert_invariant(lambda x, e: x[:, :2], architecture)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(lambda x, e: x[:, 2], architecture)


def test_outputs_that_are_no_answer_are_refused():
    architecture = Architecture.mlp([2, 3, 1])
    with pytest.raises(AssertionError, match="NaN"):
        assert_equivariant(lambda x, e: (x * float("nan"), e), architecture)
    with pytest.raises(AssertionError, match="1 outputs"):
        assert_equivariant(lambda x, e: x, architecture)
    with pytest.raises(AssertionError, match="no relabelling"):
        assert_not_equivariant(lambda x, e: (x, e), Architecture.mlp([2, 1]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_running_a_network_is_invariant(architecture):
    inputs = torch.randn(5, architecture.widths[0], dtype=torch.float64)
    assert_invariant(
        lambda x, e: forward(NeuralGraphStack(architecture, x, e), inputs),
        architecture,
        tolerance=1e-9,  # sines of w0 = 30 one after another amplify rounding
    )


def test_samples_are_seeded_and_of_the_kind_asked_for():
    architecture = Architecture.mlp([20, 30, 4])
    one = random_parameters(architecture, 3, torch.bfloat16, zero_fraction=0.25, lead=(50,))
    other = random_parameters(architecture, 3, torch.bfloat16, zero_fraction=0.25, lead=(50,))
    for parameter in architecture.parameters:
        value = one[parameter.name]
        assert torch.equal(value, other[parameter.name])
        assert value.dtype == torch.bfloat16
        assert value.shape == (50, *parameter.shape)
    assert (one["0.weight"] == 0).double().mean() == pytest.approx(0.25, abs=0.02)
    x, edge_attr = random_features(architecture, 2, 3, 4, 0)
    assert x.shape == (2, 54, 3)
    assert edge_attr.shape == (2, 720, 4)


def test_a_function_as_precise_as_the_plain_one_passes():
    x, y = torch.randn(2, 64, 8, dtype=torch.bfloat16)

    def plain(x, y):
        return [x.exp() * y, x.sum(0)]

    errors = assert_as_precise(plain, plain, [x, y])
    assert len(errors) == 4  # two outputs, two gradients
    assert all(one == other for one, other in errors)
    assert 1e-4 < errors[0][1] < 1e-2  # that of bfloat16
    # Exact where the plain form rounds.
    wider = assert_as_precise(
        lambda x, y: [v.bfloat16() for v in plain(x.float(), y.float())], plain, [x, y]
    )
    assert wider[0][0] < wider[0][1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: [x.exp() * 1.02], "output 0 errs by"),
        (lambda x: [x.exp() + (x - x.detach())], "gradient of input 0 errs by"),
        (lambda x: [x.exp() * float("nan")], "output 0 errs by nan"),
        (lambda x: [x.exp().float()], "output 0 is torch.float32; expected torch.bfloat16"),
        (lambda x: [x.exp()[:1]], "output 0 has shape"),
    ],
)
def test_errors_above_those_of_the_plain_form_are_noticed(wrong, message):
    x = torch.randn(64, 8, dtype=torch.bfloat16)
    with pytest.raises(AssertionError, match=message):
        assert_as_precise(wrong, lambda x: [x.exp()], [x])
