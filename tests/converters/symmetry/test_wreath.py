"""When the features of heads are relabelled for each head alone, and when for all at once."""

import pytest
import torch
from symmetry_cases import check
from torch import nn
from torch.nn import functional as F

HEADS, INNER = 3, 4


class Heads(nn.Module):
    """A projection into heads x features, an operation on them, and a projection of the result."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation
        self.w, self.o = nn.Parameter(torch.randn(3, 12)), nn.Parameter(torch.randn(12, 2))

    def forward(self, x):
        h = (x @ self.w).view(-1, HEADS, INNER)
        return torch.tanh(self.operation(h)).flatten(1) @ self.o


ORDER = torch.tensor([1, 2, 0])

#: Operations that treat each head by itself, and all heads alike.
APART = {
    "nothing": lambda h: h,
    "norm": lambda h: F.layer_norm(h, (INNER,)),
    "softmax": lambda h: h.softmax(-1),
    "normalize": lambda h: F.normalize(h, dim=-1) * h.amax((1, 2), keepdim=True),
    "norm over both": lambda h: F.layer_norm(h, (HEADS, INNER)),
    "gram": lambda h: h * torch.einsum("bhi,bhj->bh", h, h)[..., None],
}

#: Operations by which one head's features meet another's, so that they have one order.
MEETING = {
    "roll": lambda h: h * h.roll(1, 1),
    "flip": lambda h: h * h.flip(1),
    "sort": lambda h: h * h.sort(1)[0],
    "scan": lambda h: h.cumsum(1),
    "pool": lambda h: h * F.max_pool1d(h.transpose(1, 2), 3, 1, 1).transpose(1, 2),
    "index": lambda h: h * h[:, ORDER],
    "gather": lambda h: h * h.gather(1, ORDER[None, :, None].expand_as(h)),
    "scatter": lambda h: h * torch.zeros_like(h).scatter(1, ORDER[None, :, None].expand_as(h), h),
    "slices": lambda h: h * torch.cat([h[:, 1:], h[:, :1]], 1),
    "unbind": lambda h: h * torch.stack(h.unbind(1)[::-1], 1),
    "fft": lambda h: h * torch.fft.fft(h, dim=1).real,
    "write": lambda h: h * h.index_copy(1, torch.tensor([0]), h[:, 1:2]),
}


@pytest.mark.parametrize("name", APART)
def test_features_are_free_for_each_head_where_heads_stay_apart(name):
    check(Heads(APART[name]), torch.randn(5, 3), {
        "w": (HEADS, "w[1] o[0]"), "w.2": (INNER, "w[1] o[0]", "w"),
    }, maximal=name not in ("nothing", "norm over both"))  # there, all 12 have any order


@pytest.mark.parametrize("name", MEETING)
def test_features_have_one_order_where_heads_meet(name):
    check(Heads(MEETING[name]), torch.randn(5, 3), {"w": (INNER, "w[1] o[0]")}, maximal=False)


@pytest.mark.parametrize("operation", [
    lambda h: h.softmax(1), lambda h: F.layer_norm(h.transpose(1, 2), (HEADS,)).transpose(1, 2),
], ids=["softmax", "norm"])
def test_heads_that_are_weighed_against_each_other_share_one_order_of_features(operation):
    # It is the other way round: for each feature, the heads have an order of their own.
    check(Heads(operation), torch.randn(5, 3), {
        "w": (HEADS, "w[1] o[0]", "w.2"), "w.2": (INNER, "w[1] o[0]"),
    })


class Reshaped(nn.Module):
    """Rows in one order meet themselves in another that has no common refinement with it."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.o = nn.Parameter(torch.randn(3, 24)), nn.Parameter(torch.randn(24, 2))

    def forward(self, x):
        h = (x @ self.w).view(-1, 6, 4)
        other = h.view(-1, 2, 3, 4).transpose(1, 2).reshape(-1, 6, 4)
        return (h * other).flatten(1) @ self.o


def test_nothing_lies_within_structures_that_do_not_fit():
    check(Reshaped(), torch.randn(5, 3), {"w": (4, "w[1] o[0]")}, maximal=False)


class PerPosition(nn.Module):
    """Weights of their own at each position; with or without a bias that all share."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.w, self.o = nn.Parameter(torch.randn(5, 3, 4)), nn.Parameter(torch.randn(5, 4, 2))
        self.bias = nn.Parameter(torch.randn(4)) if shared else None

    def forward(self, x):
        h = torch.einsum("bti,tif->btf", x, self.w)
        h = h if self.bias is None else h + self.bias
        return torch.einsum("btf,tfo->bto", torch.relu(h), self.o)


def test_neurons_lie_within_positions_that_are_fixed():
    check(PerPosition(shared=False), torch.randn(2, 5, 3), {
        "w": (4, "w[2] o[1]", "w.2"), "w.2": (5, "w[0] o[0]", "", "fixed"),
    })


def test_a_shared_bias_gives_all_positions_one_order():
    check(PerPosition(shared=True), torch.randn(2, 5, 3), {"w": (4, "w[2] o[1] bias[0]")})
