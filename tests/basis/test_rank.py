"""The judge judges: complete layers pass, and each fault is told by its name."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from basis_cases import SPACES, axes, mlp, residual
from torch import nn

from nngraph.basis import Basis, WeightSpace, layer_matrix, rank_of, sample, stacked
from nngraph.errors import ArchitectureError, NonFiniteError
from nngraph.graph.architecture import Architecture


class Elements(nn.Module):
    """One parameter per basis element and constant, each a dense matrix: complete by making."""

    def __init__(self, source, target=None, without=(), dtype=torch.float64):
        super().__init__()
        self.source, self.target = source, source if target is None else target
        basis = Basis(source, target)
        linear, constant = [], []
        for one, found in ((basis, linear), (basis.constants, constant)):
            for key, block in one.blocks.items():
                for element in block.elements():
                    if element.name not in without:
                        matrix = np.zeros((one.target.numel, one.source.numel))
                        matrix[one.slices(key)] = element.matrix()
                        found.append(matrix)
        self.register_buffer("matrices", torch.tensor(np.array(linear), dtype=dtype))
        self.register_buffer("vectors", torch.tensor(np.array(constant)[:, :, 0], dtype=dtype))
        self.linear = nn.Parameter(torch.randn(len(linear), dtype=dtype))
        self.constant = nn.Parameter(torch.randn(len(constant), dtype=dtype))

    def weights(self):
        return self.linear, self.constant

    def forward(self, values):
        linear, constant = self.weights()
        matrix = (linear @ self.matrices.flatten(1)).reshape(self.matrices.shape[1:])
        out = self.source.flatten(values) @ matrix.T + constant @ self.vectors
        return self.target.unflatten(out)


@pytest.mark.parametrize(
    "name", ["2-3-2", "2-2-2-2-2-3", "widths 1 and 2", "residual", "recurrent", "free only"]
)
def test_a_complete_layer_is_complete(name):
    space = SPACES[name]
    report = rank_of(Elements(space), space)
    basis = Basis(space)
    assert report.complete
    assert report.complete_linear
    assert report.method == "unit"
    assert (report.rank, report.rank_constants) == (basis.dimension, basis.constants.dimension)
    assert report.rank_in_total == basis.dimension + basis.constants.dimension
    assert report.residual < 1e-14
    assert report.missing == ()
    assert report.verdict.startswith(f"complete: spans all {basis.dimension} linear maps")


def test_random_settings_find_the_same_rank():
    space = mlp(2, 3, 1)
    layer = Elements(space, without=["0.bias -> 0.bias: keep the neurons"])
    unit, random = (rank_of(layer, space, method=method) for method in ("unit", "random"))
    assert random.method == "random"
    assert [(b.rank, b.missing) for b in unit.blocks] == [
        (b.rank, b.missing) for b in random.blocks
    ]


@pytest.mark.parametrize("number", range(0, 75, 4))
def test_a_missing_element_is_told_by_name(number):
    space = mlp(2, 3, 3, 1)
    gone = list(Basis(space).elements())[number]
    report = rank_of(Elements(space, without=[gone.name]), space)
    assert not report.complete
    assert report.equivariant
    assert report.missing == (gone.name,)
    assert report.rank == 74
    (short,) = [block for block in report.blocks if block.rank < block.expected]
    assert (short.source, short.target) == (gone.term.source.name, gone.term.target.name)
    assert report.verdict == "1 of 75 linear maps missing."
    assert gone.name in report.table()


def test_a_missing_constant_is_told_by_name():
    space = mlp(2, 3, 1)
    name = "constant -> 0.weight[:, 1]: spread over the output side"
    report = rank_of(Elements(space, without=[name]), space)
    assert report.missing == (name,)
    assert report.complete_linear
    assert not report.complete
    assert report.verdict == "1 of 5 constants missing."


def test_a_whole_term_is_told_in_one_line():
    space = mlp(2, 3, 2)
    gone = [
        f"0.weight[:, {i}] -> 1.weight[{j}, :]: keep the shared neurons"
        for i in range(2)
        for j in range(2)
    ]
    report = rank_of(Elements(space, without=gone), space)
    assert report.missing == ("0.weight[:, *] -> 1.weight[*, :]: keep the shared neurons (all 4)",)


class HandWritten(nn.Module):
    """Equivariant map of one hidden weight [a, b], in plain torch: four mixing terms."""

    def __init__(self, position=False, rows=True, extra=None):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        self.rows, self.position, self.extra = rows, position, extra

    def forward(self, values):
        w, t = values["W"], self.theta
        out = t[0] * w + t[1] * w.mean(1, keepdim=True) + t[2] * w.mean((1, 2), keepdim=True) + t[3]
        if self.rows:
            out = out + t[4] * w.mean(2, keepdim=True)
        if self.position:
            out = out + t[0] * torch.arange(w.shape[1])[:, None] * w * 1e-3
        if self.extra is not None:
            out = self.extra(out)
        return {"W": out}


HAND = axes({"a": 3, "b": 4}, W=("a", "b"))


def test_a_layer_that_shares_nothing_with_the_judge():
    assert rank_of(HandWritten(), HAND).complete
    report = rank_of(HandWritten(rows=False), HAND)
    assert report.missing == (
        "W -> W: pool over the input side, keep the output side, spread over the input side",
    )


def test_a_position_dependent_term_is_told():
    report = rank_of(HandWritten(position=True), HAND)
    assert not report.equivariant
    assert not report.complete
    assert not report.complete_linear
    assert report.rank == 4
    assert 1e-4 < report.residual < 1e-2
    assert report.verdict.startswith("not equivariant")
    assert "W -> W" in report.verdict

    space = mlp(2, 3, 2)

    class Sloped(Elements):
        def forward(self, values):
            out = super().forward(values)
            slope = self.constant[0] * torch.tensor([0.0, 0.0, 1e-6])
            return {**out, "0.bias": out["0.bias"] + slope}

    report = rank_of(Sloped(space), space)
    assert not report.complete
    assert [b.name for b in report.constants if b.residual > 1e-8] == ["constant -> 0.bias"]
    assert all(b.residual < 1e-12 for b in report.blocks)


def test_tied_parameters_are_told():
    space = axes({"h": 3, "k": 3}, b=("h",), c=("k",))

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.ones(5, dtype=torch.float64))

        def forward(self, values):
            t, total = self.theta, {n: v.sum(-1, keepdim=True) for n, v in values.items()}
            return {
                n: t[0] * v + t[1] * total[n] + t[2] * total["c" if n == "b" else "b"] + t[3]
                for n, v in values.items()
            }

    report = rank_of(Shared(), space)
    assert (report.rank, report.expected, report.rank_constants) == (6, 6, 2)
    assert report.missing == ()
    assert report.rank_in_total == 4
    assert report.tied == 4
    assert not report.complete
    assert report.verdict == "4 directions lost by tying blocks to one another."


def test_elements_tied_within_a_block_are_both_missing():
    class Tied(HandWritten):
        def forward(self, values):
            w, t = values["W"], self.theta
            return {"W": t[0] * (w + w.sum((1, 2), keepdim=True)) + t[1]}

    (block,) = rank_of(Tied(), HAND).blocks
    assert (block.expected, block.rank, len(block.missing)) == (4, 1, 4)


class Factored(Elements):
    """Nonlinear in its parameters: each coefficient is a product."""

    def __init__(self, space):
        super().__init__(space)
        self.other = nn.Parameter(torch.randn_like(self.linear))

    def weights(self):
        return self.linear * self.other, self.constant


def test_layers_that_are_not_linear_in_their_parameters():
    space = mlp(2, 3, 1)
    report = rank_of(Factored(space), space)
    assert report.complete
    assert report.method == "random"
    with pytest.raises(ArchitectureError, match="not affine in its parameters"):
        rank_of(Factored(space), space, method="unit")


def test_weights_divided_by_their_own_size():
    space = mlp(2, 2, 1)

    class Normalised(Elements):
        def weights(self):
            return self.linear / self.linear.norm(), self.constant

    report = rank_of(Normalised(space), space)
    assert (report.complete, report.method) == (True, "random")


def test_parameters_are_put_back():
    layer = Elements(mlp(2, 2, 1))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    rank_of(layer, mlp(2, 2, 1))
    with pytest.raises(ArchitectureError):
        rank_of(layer, mlp(2, 2, 1), mlp(2, 3, 1))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_frozen_parameters_do_not_vary():
    layer = Elements(mlp(2, 2, 1))
    layer.constant.requires_grad_(False)
    report = rank_of(layer, mlp(2, 2, 1))
    # The frozen constant is still there, as one direction.
    assert report.rank_in_total == report.expected + 1
    assert report.tied == report.rank_constants - 1
    with pytest.raises(ArchitectureError, match="no parameters"):
        rank_of(layer.requires_grad_(False), mlp(2, 2, 1))


def test_a_function_with_its_parameters_apart():
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    space = axes({"h": 3}, b=("h",))

    def layer(values):
        b = values["b"]
        return {"b": theta[0] * b + theta[1] * b.sum(-1, keepdim=True)}

    report = rank_of(layer, space, parameters=[theta])
    assert report.complete_linear
    assert report.rank_constants == 0


def test_single_precision():
    space = mlp(2, 3, 3, 1)
    gone = "1.bias -> 1.bias: keep the neurons"
    assert rank_of(Elements(space, dtype=torch.float32), space).complete
    report = rank_of(Elements(space, without=[gone], dtype=torch.float32), space)
    assert report.missing == (gone,)


@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_channels(channels):
    space = mlp(1, 2, 1)
    source, target = (space.with_channels(c) for c in channels)
    report = rank_of(Elements(source, target), source, target)
    assert report.complete
    assert report.expected == channels[0] * channels[1] * Basis(space).dimension
    assert report.expected_constants == channels[1] * Basis(space).constants.dimension


class StackedElements(Elements):
    """The complete layer as the library's layers come: on ``x`` and ``edge_attr``."""

    def __init__(self, architecture, source, target, **options):
        super().__init__(source, target, **options)
        self.architecture = architecture

    def forward(self, x, edge_attr):
        widths = self.architecture.widths
        values, node, edge = {}, widths[0], 0
        for i, (d_in, d_out) in enumerate(itertools.pairwise(widths)):
            block = edge_attr[:, edge : edge + d_in * d_out]
            values[f"{i}.weight"] = block.reshape(len(x), d_out, d_in, -1)
            values[f"{i}.bias"] = x[:, node : node + d_out]
            edge, node = edge + d_in * d_out, node + d_out
        out = super().forward(values)
        if "invariant" in out:
            return out["invariant"]
        inputs = torch.full((len(x), widths[0], self.target.tensors[0].shape[-1]), 7.0)
        biases = [out[f"{i}.bias"] for i in range(len(widths) - 1)]
        weights = [out[f"{i}.weight"].flatten(1, 2) for i in range(len(widths) - 1)]
        return torch.cat([inputs.to(x), *biases], 1), torch.cat(weights, 1)


def test_layers_on_stacked_features():
    architecture = Architecture.mlp([2, 3, 2])
    space = WeightSpace.of(architecture)
    one = space.with_channels(1)
    layer = StackedElements(architecture, one, one)
    report = rank_of(stacked(layer, architecture), architecture)
    assert (report.complete, report.expected, report.expected_constants) == (True, 74, 7)

    two, three = space.with_channels(2), space.with_channels(3)
    layer = StackedElements(architecture, two, three)
    report = rank_of(stacked(layer, architecture), two, three)
    assert (report.complete, report.expected) == (True, 6 * 74)
    with pytest.raises(ArchitectureError):
        rank_of(stacked(layer, architecture), architecture)


def test_invariant_layers_on_stacked_features():
    architecture = Architecture.mlp([2, 3, 2])
    source = WeightSpace.of(architecture).with_channels(2)
    target = WeightSpace.free("invariant", 4)
    gone = "1.bias[1, 0] -> invariant[3]: copy"
    for without in ((), (gone,)):
        layer = StackedElements(architecture, source, target, without=without)
        report = rank_of(stacked(layer, architecture), source, target)
        assert report.missing == without
        assert report.complete is (not without)
        assert report.expected == 4 * 2 * 7


def test_message_passing_alone_misses_what_is_not_adjacent():
    # Gathers and sums along edges: no global pooling, so 0.weight does not reach 2.weight.
    architecture = Architecture.mlp([2, 3, 3, 2])
    target, source = [], []
    for block, start in zip(architecture.blocks, (0, 2, 5), strict=True):
        d_out, d_in = block.shape
        for i in range(d_out):
            for j in range(d_in):
                target.append(start + d_in + i)
                source.append(start + j)

    class Round(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(6, dtype=torch.float64))

        def forward(self, x, edge_attr):
            t = self.theta
            nodes = t[0] * x + t[1] * x.new_zeros(x.shape).index_add(
                1, torch.tensor(target), edge_attr
            )
            edges = t[2] * edge_attr + t[3] * x[:, target] + t[4] * x[:, source] + t[5]
            return nodes, edges

    report = rank_of(stacked(Round(), architecture), architecture)
    assert not report.complete
    ranks = {(b.source, b.target): b.rank for b in report.blocks}
    assert ranks["0.weight", "2.weight"] == 0
    assert ranks["1.bias", "1.weight"] == ranks["1.bias", "2.weight"] == 1
    # Layers blind to positions cannot read one input alone: 0.weight is summed over them.
    assert ranks["0.weight", "0.bias"] == 1
    assert any("0.weight[:, *] -> 2.weight[*, :]" in name for name in report.missing)
    assert report.equivariant
    permuted = rank_of(stacked(Round(), architecture), architecture, permute_io=True)
    assert permuted.equivariant
    assert permuted.expected == 4 * 9 + 30 - 4


def test_residual_architectures_are_judged_too():
    architecture = residual()
    one = WeightSpace.of(architecture)
    layer = Elements(one)
    assert rank_of(layer, architecture).complete
    # A complete layer for fixed inputs is not equivariant to permuted ones.
    assert not rank_of(layer, architecture, permute_io=True).equivariant


def test_the_matrix_of_a_map_is_the_map():
    space = mlp(2, 3, 3)
    map_ = sample(space, seed=9)
    matrix, constant = layer_matrix(map_, space)
    np.testing.assert_allclose(matrix, map_.matrix(), atol=1e-12)
    np.testing.assert_allclose(constant, map_.bias(), atol=1e-12)


def test_the_report_is_plain_data():
    gone = "W -> W: pool over the input side, keep the output side, spread over the input side"
    report = rank_of(HandWritten(rows=False), HAND)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["complete"] is False
    assert data["blocks"] == [
        {
            "from": "W", "to": "W", "expected": 4, "rank": 3, "missing": [gone],
            "residual": report.blocks[0].residual,
        }
    ]  # fmt: skip
    assert report.table().splitlines() == [
        "block          elements  spanned  outside",
        "-----------------------------------------",
        "W -> W                4        3        -",
        "constant -> W         1        1        -",
        "-----------------------------------------",
        "linear                4        3",
        "constant              1        1",
        "",
        "missing:",
        f"  {gone}",
        "",
        "1 of 4 linear maps missing.",
    ]


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        (HandWritten(extra=torch.relu), ArchitectureError, "not affine in its input"),
        (HandWritten(extra=lambda x: x / 0), NonFiniteError, "not finite"),
        (HandWritten(extra=lambda x: x[..., :2]), ArchitectureError, "shape"),
        (HandWritten(extra=lambda x: x[:1]), ArchitectureError, "for a batch of"),
    ],
)
def test_layers_that_cannot_be_judged(layer, error, words):
    with pytest.raises(error, match=words):
        rank_of(layer, HAND)
    with pytest.raises(ArchitectureError, match="auto, unit, random"):
        rank_of(layer, HAND, method="guess")
