"""The proof that a user runs: it passes on the library, and it notices what is wrong."""

import json

import pytest
import torch

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.nn import MODELS, EquivariantLinear
from nngraph.validation import (
    LAYERS,
    ValidatedLayer,
    at_most,
    default_architecture,
    validate,
)


class WithoutTerm(EquivariantLinear):
    """Leaves one node mixing out."""

    def __init__(self, architecture: Architecture, in_channels: int, out_channels: int) -> None:
        super().__init__(architecture, in_channels, out_channels)
        self.node_weights[0].requires_grad_(False).zero_()


class ByPosition(EquivariantLinear):
    """Scales every neuron by its place."""

    def forward(self, x, edge_attr):
        x, edge_attr = super().forward(x, edge_attr)
        place = torch.linspace(1, 1.01, x.shape[-2], dtype=x.dtype)
        return x * place[:, None], edge_attr


@pytest.mark.parametrize("widths", [[2, 5, 3], [2, 8, 8, 3], [3, 1, 4, 2], [2, 3]], ids=str)
def test_the_library_keeps_what_it_claims(widths: list[int]):
    result = validate(default_architecture(widths))
    assert result.passed, str(result)
    assert {check.name for check in result.layers} == set(LAYERS)
    assert {check.name for check in result.models} == set(MODELS) - {"flat"}
    complete = [check for check in result.layers if check.claims_all]
    assert all(check.spanned == check.elements and not check.missing for check in complete)
    assert "verdict: everything holds" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["passed"] is True


def test_networks_of_other_activations_are_read_by_the_generic_models():
    result = validate(Architecture.mlp([2, 6, 6, 1], "relu"))
    assert result.passed
    assert {check.name for check in result.models} == set(MODELS) - {"flat"}


def test_a_missing_term_is_named():
    result = validate(Architecture.mlp([2, 5, 5, 1]), {"short": ValidatedLayer(WithoutTerm)})
    assert not result.passed
    (check,) = result.layers
    assert check.missing
    assert check.outside < 1e-10
    assert "missing: " in str(result)
    assert "something falls short" in str(result)


def test_a_term_that_depends_on_the_place_is_noticed():
    result = validate(Architecture.mlp([2, 5, 5, 1]), {"placed": ValidatedLayer(ByPosition)})
    (check,) = result.layers
    assert not check.passed
    assert check.outside > 1e-4
    assert check.errors["cpu float64"] > 1e-4


def test_a_layer_whose_package_is_absent_is_reported_so():
    layers = {"absent": ValidatedLayer(EquivariantLinear, needs="no_such_package")}
    result = validate(Architecture.mlp([2, 3, 1]), layers)
    assert result.layers == []
    assert result.absent == ["absent: no_such_package is not installed"]


def test_wide_networks_are_judged_at_a_small_width():
    architecture = Architecture.mlp([784, 128, 64, 10], bias=[True, False, True])
    assert at_most(architecture, 4).widths == (4, 4, 4, 4)
    assert [p.name for p in at_most(architecture, 4).parameters] == [
        "0.weight", "0.bias", "1.weight", "2.weight", "2.bias",
    ]  # fmt: skip


def test_what_is_no_chain_is_refused():
    chain = Architecture.mlp([2, 3, 1])
    skipping = Architecture(chain.groups, chain.parameters[:2])
    with pytest.raises(ArchitectureError, match="not a chain"):
        validate(skipping)
