"""The table of activations: every row computes, is described, and has the symmetry it claims."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import ACTIVATIONS, Activation, Architecture
from nngraph.testing import every_activation

EVERY = [*every_activation(), Activation("other")]
KNOWN = every_activation()

#: claimed -> what else it means
IMPLIED = {
    "none": {"none"},
    "sign": {"none", "sign"},
    "positive_scale": {"none", "positive_scale"},
    "any_scale": {"none", "sign", "positive_scale", "any_scale"},
    "phase": {"none", "sign", "phase"},
}


def commutes(activation: Activation, factors: tuple[float, ...]) -> bool:
    return all(same(activation(q * POINTS), q * activation(POINTS)) for q in factors)


def steps(activation: Activation) -> bool:
    # Of those alone that have a frequency: 0 steps as it likes.
    w0 = dict(activation.options).get("w0", 0.0)
    return bool(w0) and same(activation(POINTS + math.pi / w0), -activation(POINTS))


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-11, atol=1e-11)


# Up to 30, where the last of the default thresholds is passed.
POINTS = torch.cat([torch.linspace(-30, 30, 601), torch.linspace(-1, 1, 101)]).double()
HOLDS = {
    "none": lambda a: True,
    "sign": lambda a: commutes(a, (-1.0,)),
    "positive_scale": lambda a: commutes(a, (0.01, 0.5, 3.0)),
    "any_scale": lambda a: commutes(a, (0.01, 0.5, 3.0, -0.2, -4.0)),
    "phase": lambda a: commutes(a, (-1.0,)) and steps(a),
}


def test_every_option_is_tried():
    assert {activation.name for activation in KNOWN} == set(ACTIVATIONS) - {"other"}
    tried: dict[tuple[str, str], set[float]] = {}
    for activation in KNOWN:
        for option, value in activation.options:
            tried.setdefault((activation.name, option), set()).add(value)
    assert all(len(values) > 1 for values in tried.values())


@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_a_function_has_the_symmetry_it_claims_and_no_more(activation: Activation):
    assert {kind for kind, holds in HOLDS.items() if holds(activation)} == IMPLIED[
        activation.symmetry
    ]


def test_each_symmetry_is_claimed_of_some():
    assert {activation.symmetry for activation in EVERY} == set(IMPLIED)
    # Far below 0 their exponential is infinite, and 0 times that no number.
    for options in ({"alpha": 0.0}, {"scale": 0.0}):
        overflowing = Activation("elu", input_scale=-1.0, **options)
        assert overflowing.symmetry == "none"
        assert bool(overflowing(torch.tensor(-1e3)).isnan())


@pytest.mark.parametrize("activation", KNOWN, ids=str)
def test_every_function_is_pointwise_and_has_a_derivative(activation: Activation):
    points = torch.tensor([[-2.1, -0.3], [0.4, 7.7]], dtype=torch.float64, requires_grad=True)
    values = activation(points)
    torch.testing.assert_close(values[1], activation(points[1]))
    assert values.dtype == torch.float64
    (slope,) = torch.autograd.grad(values.sum(), points)
    with torch.no_grad():
        found = (activation(points + 1e-6) - activation(points - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "module"),
    [
        (Activation("elu", alpha=2.0), torch.nn.ELU(2.0)),
        (Activation("celu", alpha=0.5), torch.nn.CELU(0.5)),
        (
            Activation("elu", alpha=1.6732632423543772, scale=1.0507009873554805),
            torch.nn.SELU(),
        ),
        (Activation("elu", alpha=0.5, input_scale=2.0), torch.nn.CELU(0.5)),
        (Activation("selu"), torch.nn.SELU()),
        (Activation("hardtanh"), torch.nn.Hardtanh()),
        (Activation("softsign"), torch.nn.Softsign()),
        (Activation("tanhshrink"), torch.nn.Tanhshrink()),
        (Activation("softshrink"), torch.nn.Softshrink()),
        (Activation("hardshrink"), torch.nn.Hardshrink()),
        (Activation("threshold", threshold=0.3, value=-2.0), torch.nn.Threshold(0.3, -2.0)),
        (Activation("log_sigmoid"), torch.nn.LogSigmoid()),
        (Activation("softplus", beta=2.0), torch.nn.Softplus(2.0)),
        (Activation("gelu_tanh"), torch.nn.GELU("tanh")),
    ],
    ids=str,
)
def test_options_mean_what_torch_means(activation: Activation, module: torch.nn.Module):
    torch.testing.assert_close(activation(POINTS), module(POINTS), rtol=1e-14, atol=1e-14)


def test_learned_tables_keep_their_rows():
    assert list(ACTIVATIONS)[:17] == [
        "identity", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "sigmoid", "softplus",
        "relu6", "hardswish", "hardsigmoid", "mish", "selu", "tanh", "sine", "other",
    ]  # fmt: skip


# -- what is not known exactly --------------------------------------------------------------------

PRELU = Activation("other", operator="aten.prelu")


def test_an_unknown_function_is_told_apart_by_its_operator():
    others = [Activation("other"), PRELU, Activation("other", operator="aten.rrelu")]
    assert len(set(others)) == 3
    assert [str(other) for other in others] == ["other", "other(aten.prelu)", "other(aten.rrelu)"]
    assert all(other.symmetry == "none" for other in others)


@pytest.mark.parametrize("activation", [*EVERY, PRELU], ids=str)
def test_every_activation_is_described_in_files(activation: Activation):
    assert pickle.loads(pickle.dumps(activation)) == copy.deepcopy(activation) == activation
    architecture = Architecture.mlp([2, 3, 1], activation)
    back = Architecture.from_json(architecture.to_json())
    assert back == architecture
    assert back.groups[1].activation == activation


def test_files_of_old_are_read():
    described = Architecture.mlp([2, 3, 1], "elu").to_dict()
    described["groups"][1]["activation"] = {"name": "elu", "alpha": 2.0}
    read = Architecture.from_json(json.dumps(described)).groups[1].activation
    assert read == Activation("elu", alpha=2.0)
    described["groups"][1]["activation"] = {"name": "other"}
    assert Architecture.from_json(json.dumps(described)).groups[1].activation.operator == ""
    old = Activation.__new__(Activation)
    old.__setstate__({"name": "elu", "options": (("alpha", 2.0),)})
    assert old == read


def test_an_unknown_function_says_which_it_is():
    with pytest.raises(ArchitectureError, match=r"other\(aten.prelu\) is not known exactly"):
        PRELU(torch.zeros(3))
    with pytest.raises(ArchitectureError, match="activation other is not known exactly"):
        Activation("other")(torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("celu", {"alpha": 0.0}, r"no celu with alpha=0: .*alpha cannot be 0"),
        ("hardtanh", {"min_val": 1.0, "max_val": -1.0}, "no hardtanh with max_val=-1, min_val=1"),
        ("softshrink", {"lambd": -0.1}, r"no softshrink with lambd=-0.1"),
        ("relu", {"operator": "aten.relu"}, "operator 'aten.relu'; expected .* for 'other' alone"),
        ("other", {"operator": 3}, "operator 3; expected a string"),
        ("other", {"operator": None}, "operator None; expected a string"),
        ("sine", {"self": 1.0}, "no option 'self'"),
        ("sine", {"w0": 10**400}, "w0' of activation 'sine' is 1000.*; expected a finite number"),
        ("sine", {"w0": -math.inf}, "expected a finite number"),
    ],
    ids=str,
)
def test_what_no_function_takes_is_refused(name: str, options: dict[str, object], message: str):
    with pytest.raises(ArchitectureError, match=message):
        Activation(name, **options)
    described = Architecture.mlp([2, 3, 1]).to_dict()
    described["groups"][1]["activation"] = {"name": name, **options}
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict(described)
