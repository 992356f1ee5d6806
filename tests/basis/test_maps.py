"""Maps that commute with signs and scales: formula, brute force and the action agree."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from basis_cases import SPACES, axes, mlp

from nngraph.basis import Basis, MapBasis, Maps, WeightSpace, map_orbits
from nngraph.cli import main
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.map_validation import MapValidation, validate_maps

KINDS = get_args(Maps)


@pytest.mark.parametrize("maps", KINDS)
@pytest.mark.parametrize("name", SPACES)
def test_formula_enumeration_and_brute_force_agree(name: str, maps: Maps):
    space = SPACES[name]
    for scaled in (list(space.sizes), list(space.sizes)[:1], []):
        basis, orbits = MapBasis(space, maps=maps, scaled=scaled), map_orbits(
            space, space, maps, scaled
        )
        listed = [element for block in basis.blocks.values() for element in block.elements()]
        assert basis.dimension == len(listed) == orbits.max(initial=-1) + 1
        projected = basis.project(np.random.default_rng(0).standard_normal(orbits.shape))
        assert not projected[orbits < 0].any()
        assert len(np.unique(projected[orbits >= 0])) == basis.dimension
    assert basis.dimension == Basis(space).dimension  # nothing is scaled


def act(space: WeightSpace, factors: dict[str, np.ndarray]) -> np.ndarray:
    """By what each entry is multiplied: neuron by neuron, and one axis after the other."""
    values = []
    for tensor in space.tensors:
        for index in np.ndindex(*tensor.shape):
            value = 1.0
            for axis, place in zip(tensor.axes, index, strict=True):
                if axis.space is not None:
                    own = factors[axis.space][place]
                    value *= 1 / own if axis.label == "input side" else own
            values.append(value)
    return np.array(values)


@pytest.mark.parametrize("maps", KINDS)
def test_elements_commute_and_no_other_orbit_does(maps: Maps):
    space, random = mlp(2, 3, 2, 2), np.random.default_rng(1)
    drawn = {name: random.uniform(1.5, 3, size) for name, size in space.sizes.items()}
    signs = {name: np.where(np.arange(size) == 1, -1, 1) for name, size in space.sizes.items()}
    by = act(space, signs if maps == "sign" else drawn)
    basis, left = MapBasis(space, maps=maps), 0
    for key, block in Basis(space).blocks.items():
        rows, columns = Basis(space).slices(key)
        for element in block.elements():
            matrix = element.matrix(distinct=True)
            commutes = np.allclose(matrix * by[None, columns], by[rows, None] * matrix)
            left += commutes
    assert left == basis.dimension


def test_biases_and_weights_are_told_apart():
    space = axes({"h": 3}, W=("h", "h"), b=("h",), V=(2, "h"))
    blocks = {maps: MapBasis(space, maps=maps).blocks for maps in KINDS}
    assert blocks["sign"]["b", "V"].dimension == 2      # a sign is its own inverse
    assert blocks["positive_scale"]["b", "V"].dimension == 0
    # of w_ij to w_ij, w_ji, w_ii, and between w_ii and w_jj
    assert blocks["sign"]["W", "W"].dimension == 4
    assert blocks["positive_scale"]["W", "W"].dimension == 3


def test_constants_are_what_nothing_moves():
    assert MapBasis(Architecture.mlp([2, 4, 3]), maps="sign").constants.dimension == 3


def test_what_cannot_be_is_refused():
    with pytest.raises(ArchitectureError, match="'phase'; expected one of sign, positive_scale"):
        MapBasis(mlp(2, 3, 1), maps="phase")  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match="'other' is no space"):
        MapBasis(mlp(2, 3, 1), maps="sign", scaled=["other"])
    with pytest.raises(ArchitectureError, match="no activation of 2-3-1 relu"):
        validate_maps(Architecture.mlp([2, 3, 1], "relu"), "sign")


def test_the_verdict_has_models_that_see_signs_and_models_that_do_not(
    capsys: pytest.CaptureFixture[str]
):
    assert main(["validate", "2", "5", "5", "1", "--group", "sign", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["relabelling"], data["linear"]) == (75, 15)
    changes = {model["name"]: model["errors"]["cpu float64"] for model in data["models"]}
    assert changes["symmetric"] < 1e-12 < 1e-3 < changes["message-passing"]
    assert data["error"] < 1e-12 < 0.1 < data["control"]


def test_a_wrong_count_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nngraph.map_validation.MODELS", {})
    result = validate_maps(Architecture.mlp([2, 5, 1], "relu"), "positive_scale")
    assert result.passed
    assert "verdict: everything holds" in str(result)
    wrong = {**result.blocks[0], "brute force": 7}
    assert not MapValidation(**{**vars(result), "blocks": [wrong]}).passed
    assert not MapValidation(**{**vars(result), "error": 1e-6}).passed
