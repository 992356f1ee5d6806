"""Constants: entries that are alike leave an axis free, others fix it."""

import pytest
import torch
from symmetry_cases import FREE, check_between, described
from torch import nn

from converters.symmetry import permutation_spec

ALIKE = {
    "full": lambda h: h + torch.full((4, 6), 0.5, dtype=h.dtype),
    "computed": lambda h: h * (torch.ones(6, dtype=h.dtype) * 3).clamp(max=2),
    "a list of equal numbers": lambda h: h - torch.tensor([[0.5] * 6], dtype=h.dtype),
    "rows that differ": lambda h: h * torch.arange(4.0, dtype=h.dtype)[:, None],
    "the unit matrix": lambda h: h @ (h.t() @ h + 0.1 * torch.eye(6, dtype=h.dtype)),
    "all but the diagonal": lambda h: (h.t() @ h).masked_fill(torch.eye(6) > 0, 0.0)[:, :].sum(0),
}
DIFFERENT = {
    "arange": lambda h: h + torch.arange(6, dtype=h.dtype),
    "a triangle": lambda h: h @ torch.ones(6, 6, dtype=h.dtype).tril(),
    "a diagonal of numbers": lambda h: h @ torch.diag(torch.arange(1, 7).to(h.dtype)),
    "a shifted diagonal": lambda h: h @ torch.eye(6, dtype=h.dtype).roll(1, 0),
}


@pytest.mark.parametrize("name", ALIKE)
def test_equal_entries_leave_neurons_free(name):
    check_between(ALIKE[name], 6, FREE)


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_entries_fix_neurons(name):
    check_between(DIFFERENT[name], 6, {})


class Positions(nn.Module):
    """Embeddings that are looked up at buffers: positions, and a table of relative ones."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(10, 6), nn.Embedding(4, 6)
        self.relative, self.out = nn.Parameter(torch.randn(7, 6)), nn.Linear(6, 2)
        self.register_buffer("ids", torch.arange(4)[None])
        places = torch.arange(4)[:, None] - torch.arange(4) + 3
        self.register_buffer("index", places, persistent=False)

    def forward(self, x):
        h = self.tokens(x) + self.positions(self.ids[:, : x.shape[1]])
        return self.out(h + self.relative[self.index.view(-1)].view(4, 4, -1).sum(1))


def test_buffers_of_indices_without_values_give_the_same_as_with_them():
    ids = torch.zeros(2, 4, dtype=torch.long)
    spec = permutation_spec(Positions(), ids)
    with torch.device("meta"):
        bare = permutation_spec(Positions(), ids.to("meta"))
    assert described(bare) == described(spec) == {
        "tokens": (6, "out.weight[1] positions.weight[1] relative[1] tokens.weight[1]"),
    }
