"""Projection is the average over the group, and coefficients say what is left over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basis_cases import SPACES, axes, group_matrix, mlp, whole_group

from nngraph.basis import Basis, coefficients, project, sample
from nngraph.errors import ArchitectureError, NonFiniteError

SMALL = [
    "2-3-2", "widths 1 and 2", "permuted one map", "residual", "recurrent, width 2", "recurrent",
    "convolution", "three axes, width 2", "mixed axes",
]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_projection_is_the_average_over_the_whole_group(name):
    space = SPACES[name]
    matrix = np.random.default_rng(0).standard_normal((space.numel, space.numel))
    group = [group_matrix(space, relabelling) for relabelling in whole_group(space.sizes)]
    average = sum(g.T @ matrix @ g for g in group) / len(group)
    np.testing.assert_allclose(project(matrix, space), average, atol=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_projection_is_a_projection(name):
    space = SPACES[name]
    basis = Basis(space)
    matrix = np.random.default_rng(1).standard_normal((space.numel, space.numel))
    once = basis.project(matrix)
    np.testing.assert_allclose(basis.project(once), once, atol=1e-12)
    assert abs(np.sum((matrix - once) * once)) < 1e-9  # orthogonal
    np.testing.assert_allclose(basis.coefficients(matrix).matrix(), once, atol=1e-11)


@pytest.mark.parametrize("name", SPACES)
def test_coefficients_of_a_map_are_those_it_was_made_of(name):
    map_ = sample(SPACES[name], seed=4)
    found = coefficients(map_.matrix(), SPACES[name])
    assert found.residual < 1e-14
    for key, values in map_.linear.items():
        np.testing.assert_allclose(found.values[key], values, atol=1e-11)


def test_coefficients_by_hand():
    # y_i = 2 x_i + 3 sum_j x_j on one space: two elements, pooling first.
    matrix = 2 * np.eye(4) + 3 * np.ones((4, 4))
    found = coefficients(torch.tensor(matrix), axes({"h": 4}, b=("h",)))
    assert {e.name: round(c, 12) for e, c in found.items()} == {
        "b -> b: pool over the neurons, spread over the neurons": 3,
        "b -> b: keep the neurons": 2,
    }


@pytest.mark.parametrize("place", [(0, 0), (5, 17), (30, 2)])
def test_one_changed_entry_is_noticed(place):
    space = mlp(2, 3, 3, 3)
    basis = Basis(space)
    matrix = sample(space, seed=2).matrix()
    matrix[place] += 0.01
    found = basis.coefficients(matrix)
    assert found.residual > 1e-4
    worst = max(found.residuals, key=found.residuals.__getitem__)
    rows, columns = basis.slices(worst)
    assert rows.start <= place[0] < rows.stop
    assert columns.start <= place[1] < columns.stop
    assert sum(residual > 1e-12 for residual in found.residuals.values()) == 1


def test_one_block():
    space = mlp(2, 3, 4, 1)
    basis = Basis(space)
    key = ("0.weight", "1.weight")
    matrix = np.random.default_rng(3).standard_normal((12, 6))
    whole = np.zeros((space.numel, space.numel))
    whole[basis.slices(key)] = matrix
    expected = basis.project(whole)[basis.slices(key)]
    np.testing.assert_allclose(basis.project(matrix, key), expected)
    np.testing.assert_allclose(project(matrix, space, block=key), expected)
    found = basis.coefficients(matrix, block=key)
    np.testing.assert_allclose(found.matrix(), expected)
    assert found.residual == pytest.approx(
        np.linalg.norm(matrix - expected) / np.linalg.norm(matrix)
    )


def test_constants_and_invariants_project_too():
    space = mlp(2, 3, 1)
    vector = np.arange(space.numel, dtype=float)[:, None]
    means = Basis(space).constants.project(vector)[:, 0]
    assert means[:6].tolist() == [2, 3, 2, 3, 2, 3]  # columns of the first weight, [3, 2]
    np.testing.assert_allclose(Basis(space).invariants.project(vector.T)[0], means)


def test_errors():
    basis = Basis(mlp(2, 3, 1))
    with pytest.raises(ArchitectureError, match="13 x 13"):
        basis.project(np.zeros((3, 3)))
    with pytest.raises(ArchitectureError, match=r"block 0\.weight -> 0\.bias has 3 x 6"):
        basis.project(np.zeros((3, 3)), ("0.weight", "0.bias"))
    with pytest.raises(NonFiniteError):
        basis.coefficients(np.full((13, 13), np.nan))
    with pytest.raises(ArchitectureError, match="no tensor 'W'"):
        basis.project(np.zeros((3, 3)), ("W", "0.bias"))
