"""Each element: its name, its matrix, its action, and that it commutes with relabelling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basis_cases import SPACES, axes, group_matrix, mlp, random_relabelling, whole_group

from nngraph.basis import Basis, elements, sample
from nngraph.errors import ArchitectureError
from nngraph.graph.architecture import Architecture

SOME = [
    "2-3-2", "widths 1 and 2", "permuted one map", "residual", "recurrent", "recurrent, width 1",
    "tied both ways", "convolution", "three axes, width 2", "mixed axes", "free only",
]  # fmt: skip


@pytest.mark.parametrize("distinct", [False, True], ids=["plain", "orbit"])
@pytest.mark.parametrize("name", SOME)
def test_elements_commute_and_are_a_basis(name, distinct):
    space = SPACES[name]
    group = [group_matrix(space, random_relabelling(space.sizes, seed)) for seed in range(3)]
    basis = Basis(space)
    for key, block in basis.blocks.items():
        rows, columns = basis.slices(key)
        found = [element.matrix(distinct) for element in block.elements()]
        for matrix in found:
            for g in group:
                assert (g[rows, rows] @ matrix == matrix @ g[columns, columns]).all()
            assert set(np.unique(matrix)) <= {0, 1}
        stack = np.array(found).reshape(len(found), -1)
        assert np.linalg.matrix_rank(stack) == len(found) == block.dimension
        if distinct:  # disjoint, and together everything: an orthogonal basis
            assert (stack.sum(0) == 1).all()


@pytest.mark.parametrize("name", SOME)
def test_plain_elements_and_orbits_span_the_same(name):
    for block in Basis(SPACES[name]).blocks.values():
        plain = np.array([e.matrix().ravel() for e in block.elements()])
        orbits = np.array([e.matrix(distinct=True).ravel() for e in block.elements()])
        both = np.concatenate([plain, orbits])
        assert np.linalg.matrix_rank(both) == block.dimension
        # and the change of basis is the one stated
        table = np.kron(block.zeta.T, np.eye(block.free_numel))
        np.testing.assert_array_equal(plain, table @ orbits)


@pytest.mark.parametrize("distinct", [False, True], ids=["plain", "orbit"])
@pytest.mark.parametrize("name", SOME)
def test_action_without_the_matrix(name, distinct):
    space = SPACES[name]
    generator = torch.Generator().manual_seed(1)
    for element in elements(space):
        source, target = element.term.source, element.term.target
        x = torch.randn(2, 3, *source.shape, dtype=torch.float64, generator=generator)
        got = element.apply({source.name: x}, distinct)
        assert set(got) == {target.name}
        expected = x.reshape(6, -1).numpy() @ element.matrix(distinct).T
        np.testing.assert_allclose(got[target.name].reshape(6, -1), expected, atol=1e-12)
        no_lead = element.apply({source.name: x[0, 0]}, distinct)[target.name]
        torch.testing.assert_close(no_lead, got[target.name][0, 0])


def test_gradients_pass_through_the_action():
    value = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    for element in elements(axes({"h": 3}, W=("h", "h"))):
        (grad,) = torch.autograd.grad(element.apply({"W": value})["W"].sum(), value)
        np.testing.assert_allclose(grad.reshape(-1), element.matrix().sum(0))


def by_name(space, name):
    (found,) = [element for element in elements(space) if element.name == name]
    return found


def test_names_say_what_the_elements_do():
    space = mlp(2, 3, 4, 3, 1)
    w1, w2 = torch.randn(4, 3), torch.randn(3, 4)
    element = by_name(
        space,
        "1.weight -> 2.weight: pool over the input side, keep the shared neurons, "
        "spread over the output side",
    )
    expected = torch.zeros(3, 4)
    for k in range(3):
        for j in range(4):
            for i in range(3):
                expected[k, j] += w1[j, i]
    torch.testing.assert_close(element.apply({"1.weight": w1})["2.weight"], expected)

    name = "2.weight -> 1.bias: pool over the output side, keep the shared neurons"
    element = by_name(space, name)
    torch.testing.assert_close(element.apply({"2.weight": w2})["1.bias"], w2.sum(0))

    first = torch.randn(3, 2)
    element = by_name(
        space,
        "0.weight[:, 1] -> 3.weight[0, :]: pool over the output side, spread over the input side",
    )
    got = element.apply({"0.weight": first})["3.weight"]
    torch.testing.assert_close(got, first[:, 1].sum().expand(1, 3))

    element = by_name(space, "3.bias[0] -> 3.bias[0]: copy")
    torch.testing.assert_close(element.apply({"3.bias": first[0, :1]})["3.bias"], first[0, :1])


def test_names_of_diagonals():
    space = axes({"h": 3}, W=("h", "h"), b=("h",))
    w = torch.randn(3, 3)
    for name, expected in {
        "W -> W: take the input side to the output side, take the output side to the input side":
            w.T,
        "W -> W: keep the output side, keep the input side": w,
        "W -> W: keep the diagonal (output side = input side)": torch.diag(w.diag()),
        "W -> W: pool over the diagonal (output side = input side), "
        "spread over the output side and the input side": w.trace().expand(3, 3),
        "W -> W: pool over the input side, "
        "take the output side to the diagonal (output side = input side)": torch.diag(w.sum(1)),
        "W -> b: take the diagonal (output side = input side) to the neurons": w.diag(),
    }.items():
        (got,) = by_name(space, name).apply({"W": w}).values()
        torch.testing.assert_close(got, expected.contiguous(), msg=name)


@pytest.mark.parametrize("name", SPACES)
def test_names_are_unique(name):
    basis = Basis(SPACES[name])
    names = [e.name for e in (*basis.elements(), *basis.constants.elements())]
    assert len(set(names)) == len(names) == basis.dimension + basis.constants.dimension


def test_elements_come_one_at_a_time():
    # 1,269,190 of them, with matrices of 10^5 x 10^5: nothing of the sort is made.
    basis = Basis(Architecture.mlp([784, 128, 128, 10]))
    assert basis.dimension == 1_269_190
    first = next(basis.elements())
    assert first.name.startswith("0.weight[:, 0] -> 0.weight[:, 0]: pool")
    last = basis.block("2.weight", "0.bias").element(9)
    assert last.name == (
        "2.weight[9, :] -> 0.bias: pool over the input side, spread over the neurons"
    )
    assert last.sparse().nnz == 128 * 128


@pytest.mark.parametrize("name", [*SOME, "2-3-3-3"])
def test_random_maps_commute(name):
    space = SPACES[name]
    map_ = sample(space, seed=5)
    matrix, bias = map_.matrix(), map_.bias()
    for seed in range(3):
        g = group_matrix(space, random_relabelling(space.sizes, seed))
        np.testing.assert_allclose(g @ matrix, matrix @ g, atol=1e-12)
        np.testing.assert_allclose(g @ bias, bias)
    x = torch.randn(2, 3, space.numel, dtype=torch.float64)
    got = space.flatten(map_.apply(space.unflatten(x)))
    np.testing.assert_allclose(got, x.numpy() @ matrix.T + bias, atol=1e-11)


def test_random_maps_depend_on_their_seed_alone():
    one, two, other = (sample(mlp(2, 3, 1), seed=seed).matrix() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


def test_values_of_random_maps_stay_of_order_one():
    space = mlp(2, 40, 40, 40, 3)
    x = torch.randn(4, space.numel, dtype=torch.float64)
    y = sample(space, seed=3).apply(space.unflatten(x))
    for value in y.values():
        assert 0.05 < value.std() < 20


def test_a_map_between_different_spaces_commutes():
    source, target = SPACES["recurrent"], axes({"h": 4}, T=("h", "h", 2), s=(3,))
    matrix = sample(source, target, seed=2).matrix()
    for relabelling in whole_group({"h": 4}):
        np.testing.assert_allclose(
            group_matrix(target, relabelling) @ matrix,
            matrix @ group_matrix(source, relabelling),
            atol=1e-12,
        )


def test_misshapen_values_are_refused():
    element = next(elements(mlp(2, 3, 1)))
    with pytest.raises(ArchitectureError, match=r"shape \(2, 3\)"):
        element.apply({"0.weight": torch.zeros(2, 3)})
    with pytest.raises(ArchitectureError, match=r"lack '0\.weight'"):
        sample(mlp(2, 3, 1)).apply({"0.bias": torch.zeros(3)})
