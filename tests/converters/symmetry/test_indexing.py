"""Masks, and reading and writing at indices: every space by hand."""

import pytest
import torch
from symmetry_cases import FREE, check, check_between, described
from torch import nn
from torch.nn import functional as F

from converters import verify
from converters.symmetry import derive


def written(h, where, what):
    h = h.clone()
    h[where(h)] = what(h)
    return h


def filled(h):
    out = torch.empty(h.shape, dtype=h.dtype)
    out[:] = h.relu()
    return out


ROWS = torch.tensor([True, False, True, True])
NEURONS = torch.tensor([True, False, True, True, False, False])
MASKED = {
    "h[h < 0] = 0": lambda h: written(h, lambda h: h < 0, lambda h: 0.0),
    "one number that is computed": lambda h: written(h, lambda h: h < 0, lambda h: h.mean()),
    "rows, by what is in them": lambda h: written(h, lambda h: h.sum(1) > 0, lambda h: 0.5),
    "rows, by a constant mask": lambda h: written(h, lambda h: ROWS, lambda h: h.mean(0)),
    "one row in place of those": lambda h: written(h, lambda h: h[:, :].amax(1) > 1,
                                                   lambda h: h.mean(0, keepdim=True)),
    "added where a mask is set": lambda h: h.index_put((h > 0,), h.sum() * 0 + 1, accumulate=True),
    "rows that are read": lambda h: h[h.sum(1) > 0].mean(0),
    "rows from rows": lambda h: written(h, lambda h: ROWS, lambda h: h[[1, 2, 0]] * 2),
    "masks of entries": lambda h: torch.where((h < 0) | ~(h > 1) ^ (h > 2), h, h * 2),
    "isin": lambda h: h * torch.isin(h.round(), torch.tensor([0.0, 1.0], dtype=h.dtype)),
    "isclose": lambda h: h * torch.isclose(h, h.relu()),
    "filled": filled,
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_of_entries_and_rows_leave_the_neurons_free(name):
    check_between(MASKED[name], 6, FREE)


TOLD = {
    "neurons, by a constant mask": lambda h: h * NEURONS,
    "neurons, written": lambda h: written(h.t(), lambda h: NEURONS, lambda h: 0.0).t(),
    "entries in order": lambda h: written(h, lambda h: h > 0, lambda h: h.flip(0)[h > 0]),
    "neurons at a mask": lambda h: h + h[:, NEURONS].sum(1, keepdim=True),
}


@pytest.mark.parametrize("name", TOLD)
def test_neurons_that_are_told_apart_are_fixed(name):
    check_between(TOLD[name], 6, {})


def test_axes_that_are_apart_stand_first_where_they_are_read_and_written():
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = self.a(x)
            rows, columns = torch.tensor([0, 1]), torch.tensor([1, 0])
            read = h.transpose(1, 2)[rows, :, columns]
            h = h.transpose(1, 2).clone()
            h[rows, :, columns] = read * 2
            h[:, :, rows] += 1
            return self.b(h.transpose(1, 2))

    check(Apart(), torch.randn(2, 4, 3), FREE, maximal=False)


class Splines(nn.Module):
    """A layer of splines on a grid of knots per input, as in efficient-kan."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        grid = torch.linspace(-3, 3, 9).expand(width, -1).contiguous()
        self.register_buffer("grid", grid + 0.1 * torch.rand(width, 1))
        self.base = nn.Parameter(torch.randn(out, width))
        self.spline = nn.Parameter(torch.randn(out, width, 7))

    def bases(self, x):
        x = x.unsqueeze(-1)
        grid = self.grid
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        left = (x - grid[:, :-2]) / (grid[:, 1:-1] - grid[:, :-2]) * bases[:, :, :-1]
        right = (grid[:, 2:] - x) / (grid[:, 2:] - grid[:, 1:-1]) * bases[:, :, 1:]
        return (left + right).contiguous()

    def forward(self, x):
        splines = self.bases(x).view(x.size(0), -1)
        return F.linear(F.silu(x), self.base) + F.linear(splines, self.spline.flatten(1))


def test_a_network_of_splines_relabels_knots_with_weights():
    check(nn.Sequential(Splines(3, 5), Splines(5, 2)), torch.randn(4, 3), {
        "0.base": (5, "0.base[0] 0.spline[0] 1.grid[0] 1.base[1] 1.spline[1]"),
    }, maximal=False)


class Chosen(nn.Module):
    """Scores choose entries of what is stored for each of them."""

    def __init__(self, use, bias: bool = True, score=None) -> None:
        super().__init__()
        self.score, self.table = nn.Linear(3, 5, bias=bias), nn.Parameter(torch.randn(5, 4))
        self.use, self.out, self.scored = use, nn.Linear(4, 2), score or (lambda s: s)

    def forward(self, x):
        return self.out(self.use(self.scored(self.score(x)), self.table))


USES = {
    "an embedding of the largest": lambda s, table: F.embedding(s.argmax(-1), table),
    "rows of the two largest": lambda s, table: table[s.softmax(-1).topk(2)[1]].sum(1),
    "rows that one_hot takes": lambda s, table: F.one_hot(s.max(-1)[1], 5).to(s.dtype) @ table,
    "rows by index_select": lambda s, table: table.index_select(0, s.topk(2)[1].flatten())[::2],
    "entries that are gathered": lambda s, table: table.expand(4, -1, -1).gather(
        1, s.argmax(1)[:, None, None].expand(-1, 1, 4)).squeeze(1),
    "entries that are scattered": lambda s, table: torch.zeros_like(s).scatter(
        1, s.topk(2)[1], s.topk(2)[0].relu()) @ table,
    "the smallest of each row": lambda s, table: table[s.sort(1)[1][:, 0]],
    "pairs of indices": lambda s, table: table.expand(4, -1, -1)[torch.arange(4), s.argmin(1)],
}


@pytest.mark.parametrize("name", USES)
def test_places_that_are_looked_up_where_they_belong_are_relabelled(name):
    check(Chosen(USES[name]), torch.randn(4, 3), {
        "score": (5, "score.weight[0] score.bias[0] table[0]"),
        "table": (4, "table[1] out.weight[1]"),
    }, maximal=False)


REFUSED = {
    "places that are computed with": Chosen(lambda s, table: table[(s.argmax(1) + 1) % 5]),
    "places as numbers": Chosen(lambda s, table: s.argmax(1).to(s.dtype)[:, None] + table[0]),
    "places of equal entries": Chosen(lambda s, t: t[s.argmax(1)], score=torch.relu),
    "places of scores that may all be zero":
        Chosen(lambda s, table: table[(s.relu() @ table @ table.t()).argmax(1)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_places_of_other_uses_tell_neurons_apart(name):
    derivation = derive(REFUSED[name], torch.randn(4, 3), strict=True)
    assert "score.weight[0]" not in str(described(derivation.spec))
    assert verify(derivation, REFUSED[name], torch.randn(4, 3)).holds


SORTED = {
    "sort": (lambda h: h.sort(1)[0], 6, ""),
    "topk": (lambda h: h.topk(2)[0], 2, ""),
    "median": (lambda h: h - h.median(1, keepdim=True)[0], 6, " b.weight[1]"),
}


@pytest.mark.parametrize("name", SORTED)
def test_sorted_values_do_not_see_the_order_of_neurons(name):
    function, width, ties = SORTED[name]
    check_between(function, width, {"a": (6, "a.weight[0] a.bias[0]" + ties)})
