"""Brute force = partitions = closed form, and the numbers that must come out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from basis_cases import SPACES, axes, mlp, residual

from nngraph.basis import Basis, WeightSpace, coordinate_orbits, dimension, pair_orbits
from nngraph.basis.terms import count_partitions, set_partitions
from nngraph.errors import ArchitectureError
from nngraph.graph.architecture import Architecture


@pytest.mark.parametrize("name", SPACES)
def test_brute_force_partitions_and_closed_form_agree(name):
    space = SPACES[name]
    closed, listed = dimension(space), dimension(space, method="enumeration")
    pairs, coordinates = pair_orbits(space), coordinate_orbits(space)
    assert closed == listed
    assert closed.linear == pairs.max() + 1 == len(np.unique(pairs))
    assert closed.constant == closed.invariant == coordinates.max() + 1
    for (source, target), count in closed.table.items():
        rows, columns = Basis(space).slices((source, target))
        assert len(np.unique(pairs[rows, columns])) == count
    for tensor, start in zip(space.tensors, space.starts, strict=False):
        part = coordinates[start : start + tensor.numel]
        assert len(np.unique(part)) == closed.constants[tensor.name]


@pytest.mark.parametrize("name", SPACES)
def test_the_orbits_themselves_agree(name):
    # Not only their number: two pairs lie in one brute-force orbit iff they have one label.
    space = SPACES[name]
    orbits, start = pair_orbits(space), 0
    mine = np.zeros_like(orbits)
    basis = Basis(space)
    for key, block in basis.blocks.items():
        mine[basis.slices(key)] = start + block.labels
        start += block.dimension
    matched = np.unique(np.stack([orbits.ravel(), mine.ravel()]), axis=1)
    assert matched.shape[1] == start == orbits.max() + 1


@pytest.mark.parametrize(
    ("widths", "linear", "constant"),
    [
        ((2, 5, 5, 1), 75, 7),
        ((2, 5, 5, 3), 163, 11),
        ((3, 5, 5, 5, 2), 196, 12),
        ((2, 5, 5, 5, 5, 2), 222, 13),
        ((2, 5, 5, 5, 5, 3), 287, 15),
        ((2, 3, 2), 74, 7),
        ((784, 128, 128, 10), 1_269_190, 807),
        # The layer on channels' worth of weights has as many, whatever the width.
        ((2, 2, 2, 1), 75, 7),
        ((2, 10**6, 10**6, 1), 75, 7),
    ],
)
def test_known_values(widths, linear, constant):
    count = dimension(Architecture.mlp(widths))
    assert (count.linear, count.constant, count.invariant) == (linear, constant, constant)


@pytest.mark.parametrize("depth", range(1, 9))
@pytest.mark.parametrize("width", [2, 7])
def test_all_neurons_permuted(depth, width):
    # Two indices of a space are all that a pair of tensors of a chain has: width 2 is enough.
    count = dimension(Architecture.mlp([width] * (depth + 1)), permute_io=True)
    assert count.linear == 4 * depth**2 + 10 * depth - 4
    assert count.constant == 2 * depth


def test_all_neurons_permuted_is_less_at_width_one():
    # With a single neuron everywhere each tensor is a number, and nothing is ever tied.
    count = dimension(Architecture.mlp([1, 1, 1]), permute_io=True)
    assert (count.linear, count.constant) == (16, 4)


@pytest.mark.parametrize("name", [n for n in SPACES if n[0].isdigit()])
def test_sum_of_squares(name):
    # DESIGN.md section 2, for chains with widths of at least 2.
    space = SPACES[name]
    c = {t.name: t.free_numel for t in space.tensors}
    of = {
        h: sum(c[t.name] for t in space.tensors if h in {a.space for a in t.axes})
        for h in space.sizes
    }
    both = [t for t in space.tensors if sum(a.space is not None for a in t.axes) == 2]
    expected = sum(c.values()) ** 2 + sum(n**2 for n in of.values()) + len(both)
    assert dimension(space).linear == expected


@pytest.mark.parametrize(
    ("space", "linear", "constant"),
    [
        # A tensor with a space twice has Bell(4) = 15 maps to itself, 2 constants; by hand.
        (axes({"h": 4}, W=("h", "h")), 15, 2),
        (axes({"h": 3}, W=("h", "h")), 14, 2),
        (axes({"h": 2}, W=("h", "h")), 8, 2),
        (axes({"h": 1}, W=("h", "h")), 1, 1),
        # Bell(6) = 203, Bell(3) = 5.
        (axes({"h": 6}, T=("h", "h", "h")), 203, 5),
        (axes({"h": 5}, T=("h", "h", "h")), 202, 5),
        (axes({"h": 1000}, T=("h", "h", "h"), f=(2,)), 203 + 2 * 2 * 5 + 4, 7),
        (axes({"a": 9, "b": 9}, K=("a", "b", 3, 3)), 4 * 81, 9),
        (axes({}, s=()), 1, 1),
    ],
)
def test_by_hand(space, linear, constant):
    count = dimension(space)
    assert (count.linear, count.constant) == (linear, constant)


def test_between_two_spaces():
    # Channels multiply; invariant functions with 4 outputs are 4 times the invariants.
    space = mlp(2, 3, 3, 1)
    count = dimension(space.with_channels(2), space.with_channels(3))
    assert (count.linear, count.constant, count.invariant) == (6 * 75, 3 * 7, 2 * 7)
    features = dimension(space, WeightSpace.free("invariant", 4))
    assert (features.linear, features.constant) == (4 * 7, 4)
    wide = pair_orbits(mlp(2, 2, 2, 1).with_channels(2), mlp(2, 2, 2, 1).with_channels(3))
    assert wide.max() + 1 == 6 * 75


@pytest.mark.parametrize("items", range(7))
@pytest.mark.parametrize("most", range(1, 8))
def test_partitions(items, most):
    found = list(set_partitions(items, most))
    assert len(found) == len(set(found)) == count_partitions(items, most)
    # Naively: the ways in which `items` indices of a space of `most` neurons can coincide.
    if most**items <= 5000:
        ties = {
            tuple(a == b for a, b in itertools.combinations(values, 2))
            for values in itertools.product(range(most), repeat=items)
        }
        assert len(found) == len(ties)


def test_permute_io_keeps_hidden_groups_without_a_space_fixed():
    base = residual()
    groups = tuple(
        type(g)(g.name, g.size, g.role, g.activation, None) for g in base.groups
    )
    fixed = Architecture(groups, base.parameters)
    spaces = WeightSpace.of(fixed, permute_io=True).sizes
    assert spaces == {"input": 2, "output": 2}
    assert dimension(fixed).linear == sum(p.numel for p in base.parameters) ** 2


def test_permute_io_does_not_join_an_input_with_a_space_of_its_name():
    groups = Architecture.mlp([3, 3, 2]).groups
    named = (groups[0], type(groups[1])("h", 3, "hidden", space="input"), groups[2])
    architecture = Architecture(named, Architecture.mlp([3, 3, 2]).parameters)
    assert set(WeightSpace.of(architecture, permute_io=True).sizes) == {"input", "input'", "output"}


def test_the_table_is_plain_data():
    data = dimension(Architecture.mlp([2, 3, 3, 1])).to_dict()
    assert (data["linear"], data["constant"]) == (75, 7)
    assert sum(block["elements"] for block in data["blocks"]) == 75
    assert {"from": "1.weight", "to": "1.weight", "elements": 4} in data["blocks"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pair_orbits(mlp(2, 64, 64, 1)), "brute force .* dimension"),
        (lambda: coordinate_orbits(mlp(2, 8, 1), limit=10), "33 coordinates"),
        (lambda: dimension(mlp(2, 2), method="guess"), "'closed' or 'enumeration'"),
        (lambda: dimension(mlp(2, 2), permute_io=True), "already say"),
        (lambda: axes({"h": 2}, W=("h", "k")), "space 'k'"),
        (lambda: axes({"h": 0}, W=("h",)), "size 0"),
        (lambda: dimension(axes({"h": 2}, W=("h",)), axes({"h": 3}, V=("h",))), "size 3"),
        (lambda: WeightSpace(mlp(2, 2).tensors * 2), "unique"),
        (lambda: mlp(2, 2).tensor("W"), "no tensor 'W'"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ArchitectureError, match=words):
        make()
