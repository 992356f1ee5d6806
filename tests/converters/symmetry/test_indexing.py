"""Masks, and reading and writing at indices: every space by hand."""

import pytest
import torch
from symmetry_cases import FREE, check, check_between
from torch import nn
from torch.nn import functional as F


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
