"""How the tables of an equivariant linear layer lie in memory."""

from __future__ import annotations

import pytest
import torch

from nngraph.graph import Architecture
from nngraph.kernels.equivariant import table_layout as module
from nngraph.kernels.equivariant.table_layout import TableLayout
from nngraph.nn import EquivariantLinear, Terms
from nngraph.testing import random_architectures, random_features

mlp = Architecture.mlp
ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]


def test_equal_blocks_of_a_chain_are_one_run():
    layout = TableLayout.of(Terms.of(mlp([2, *[5] * 7, 1])))
    runs = [(run.on_edges, run.count, run.rows, run.columns) for run in layout.runs]
    assert runs == [
        (True, 1, 5, 2), (True, 6, 5, 5), (True, 1, 1, 5), (False, 7, 5, 1), (False, 1, 1, 1),
    ]  # fmt: skip
    # The first hidden group has a slot for each input: its table is of another size.
    assert [(stack.tables, stack.slots) for stack in layout.stacks] == [
        ((0,), 4), (tuple(range(1, 7)), 3),
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_moves_fill_every_table_once(architecture: Architecture):
    terms = Terms.of(architecture)
    layout = TableLayout.of(terms)
    stacks = [
        torch.zeros(len(stack.tables), 1, stack.size, stack.slots, 1) for stack in layout.stacks
    ]
    for run in layout.runs:
        for axis, moves in run.moves.items():
            assert sum(move.count for move in moves) == run.count
            for move in moves:
                part = move.part(stacks)
                assert part.shape[1:3] == (move.count, run.size(axis))
                part += 1
    assert all(bool((stack == 1).all()) for stack in stacks)
    assert sum(len(stack.tables) for stack in layout.stacks) == len(terms.tables)


@pytest.mark.parametrize("numbers", [1, 12, 40, 10_000])
def test_tiles_cover_a_run_once(numbers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "TILE", numbers)
    (run,) = [run for run in TableLayout.of(Terms.of(mlp([2, *[3] * 5, 1]))).runs if run.mixed]
    seen = torch.zeros(2, 4, 3, 3, 1)
    for tile in run.tiles(2):
        tile.part(seen).add_(1)
        assert tile.part(seen).numel() <= max(numbers, 2 * 3)
    assert bool((seen == 1).all())


@pytest.mark.parametrize("numbers", [1, 50])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_change_nothing(
    architecture: Architecture, numbers: int, monkeypatch: pytest.MonkeyPatch
):
    layer = EquivariantLinear(architecture, 2, 3).double()
    x, edge_attr = random_features(architecture, 4, 2, 2, 0)
    inputs = [x.requires_grad_(), edge_attr.requires_grad_()]

    def step() -> list[torch.Tensor]:
        out = layer(*inputs)
        total = sum(value.sin().sum() for value in out)
        return [*out, *torch.autograd.grad(total, [*inputs, *layer.parameters()])]

    expected = step()
    monkeypatch.setattr(module, "TILE", numbers)
    for found, value in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
