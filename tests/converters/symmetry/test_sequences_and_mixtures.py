"""Recurrent networks, mixers, mixtures of experts and hypernetworks: every space by hand."""

import pytest
import torch
import torch.utils.checkpoint
from symmetry_cases import axis_text, check, described
from torch import nn
from torch.nn import functional as F

from converters import verify
from converters.symmetry import derive
from converters.symmetry.modes import grouped_mm


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_the_units_of_a_recurrent_layer_are_relabelled_in_all_gates(kind, gates):
    model = Recurrent(kind(3, 5, num_layers=2, batch_first=True), 5)
    derivation = check(model, torch.randn(2, 4, 3), {
        "cell.units": (5, "cell.weight_ih_l0[0] cell.weight_hh_l0[0] cell.weight_hh_l0[1] "
                          "cell.bias_ih_l0[0] cell.bias_hh_l0[0] cell.weight_ih_l1[1]"),
        "cell.units.2": (5, "cell.weight_ih_l1[0] cell.weight_hh_l1[0] cell.weight_hh_l1[1] "
                            "cell.bias_ih_l1[0] cell.bias_hh_l1[0] head.weight[1]"),
    })
    units = " | ".join(["5 cell.units"] * gates)
    assert axis_text(derivation.spec, "cell.weight_hh_l0") == f"[{units}] [5 cell.units]"


def test_a_bidirectional_layer_with_projections_concatenates_two_spaces():
    model = Recurrent(nn.LSTM(3, 5, bidirectional=True, proj_size=4, bias=False), 8)
    derivation = check(model, torch.randn(6, 2, 3), {
        "cell.units": (5, "cell.weight_ih_l0[0] cell.weight_hh_l0[0] cell.weight_hr_l0[1]"),
        "cell": (4, "cell.weight_hh_l0[1] cell.weight_hr_l0[0] head.weight[1]"),
        "cell.units.2": (5, "cell.weight_ih_l0_reverse[0] cell.weight_hh_l0_reverse[0] "
                            "cell.weight_hr_l0_reverse[1]"),
        "cell.2": (4, "cell.weight_hh_l0_reverse[1] cell.weight_hr_l0_reverse[0] head.weight[1]"),
    })
    assert axis_text(derivation.spec, "head.weight") == "[2] [4 cell | 4 cell.2]"


class Cells(nn.Module):
    """A hand-written loop over a recurrent cell, with a learned initial state."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.start, self.head = cell, nn.Parameter(torch.randn(5)), nn.Linear(5, 2)

    def forward(self, x):
        h = self.start.expand(x.shape[0], -1)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell])
def test_a_loop_over_a_cell(kind):
    check(Cells(kind(3, 5)), torch.randn(2, 4, 3), {
        "cell.units": (5, "cell.weight_ih[0] cell.weight_hh[0] cell.weight_hh[1] cell.bias_ih[0] "
                          "cell.bias_hh[0] start[0] head.weight[1]"),
    })


class Mixer(nn.Module):
    """MLPs over tokens and over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.norm1, self.token1, self.token2 = nn.LayerNorm(6), nn.Linear(5, 7), nn.Linear(7, 5)
        self.norm2, self.channel1 = nn.LayerNorm(6), nn.Linear(6, 8)
        self.channel2 = nn.Linear(8, 6)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.token2(F.gelu(self.token1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.channel2(F.gelu(self.channel1(self.norm2(x))))
        return self.head(x.mean(1))


def test_a_mixer_never_ties_tokens_to_channels():
    derivation = check(Mixer(), torch.randn(2, 5, 3), {
        "embed": (6, "embed.weight[0] embed.bias[0] norm1.weight[0] norm1.bias[0] norm2.weight[0] "
                     "norm2.bias[0] channel1.weight[1] channel2.weight[0] channel2.bias[0] "
                     "head.weight[1]"),
        "token1": (7, "token1.weight[0] token1.bias[0] token2.weight[1]"),
        "channel1": (8, "channel1.weight[0] channel1.bias[0] channel2.weight[1]"),
    })
    assert axis_text(derivation.spec, "token2.weight") == "[5] [7 token1]"


class Experts(nn.Module):
    """A mixture of experts whose weights are stacked; all experts run, or the best two."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.sparse = sparse
        self.embed, self.router, self.head = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.inner, self.bias = nn.Parameter(torch.randn(3, 5, 4)), nn.Parameter(torch.randn(3, 5))
        self.outer = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, x):
        x = self.embed(x)
        weights = self.router(x).softmax(-1)
        if self.sparse:
            best, index = weights.topk(2, -1)
            weights = torch.zeros_like(weights).scatter(-1, index, best)
        h = torch.relu(torch.einsum("bd,efd->bef", x, self.inner) + self.bias)
        y = torch.einsum("bef,edf->bed", h, self.outer)
        return self.head(x + torch.einsum("bed,be->bd", y, weights))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_mixture_relabels_experts_and_neurons_within_each(sparse):
    check(Experts(sparse), torch.randn(4, 3), {
        "embed": (4, "embed.weight[0] embed.bias[0] router.weight[1] inner[2] outer[1] "
                     "head.weight[1]"),
        "router": (3, "router.weight[0] router.bias[0] inner[0] bias[0] outer[0]"),
        "inner": (5, "inner[1] bias[1] outer[2]", "router"),
    })

class SortedExperts(nn.Module):
    """Tokens sorted by their expert; the kernel that multiplies them knows no double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Linear(3, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.inner = nn.Parameter(torch.randn(3, 8, 16))
        self.outer = nn.Parameter(torch.randn(3, 16, 8))

    def forward(self, x):
        x = self.embed(x)
        weight, index = self.router(x).softmax(-1).max(-1)
        order = index.argsort()
        ends = F.one_hot(index, 3).sum(0).cumsum(0).to(torch.int32)
        y = torch._grouped_mm(x[order], self.inner, offs=ends).relu()
        y = torch._grouped_mm(y, self.outer, offs=ends)
        return self.head(x + y[order.argsort()] * weight[:, None])


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="since torch 2.8")
def test_experts_that_tokens_are_sorted_by_have_neurons_of_their_own():
    module, tokens = SortedExperts().bfloat16(), torch.randn(16, 3).bfloat16()
    derivation = derive(module, tokens, strict=True)
    ties = "embed.bias[0] embed.weight[0] head.weight[1] inner[1] outer[2] router.weight[1]"
    assert described(derivation.spec) == {"embed": (8, ties), "inner": (16, "inner[2] outer[1]")}
    assert verify(derivation, module, tokens).holds


@pytest.mark.parametrize(
    "shapes", [((8, 4), (3, 4, 4)), ((3, 4, 4), (4, 8)), ((4, 8), (8, 4)), ((3, 4, 4), (3, 4, 4))],
    ids=str,
)
def test_products_by_groups_are_those_of_torch(shapes):
    one, other = map(torch.randn, shapes)
    ends = None if one.dim() == other.dim() == 3 else torch.tensor([1, 3, 8], dtype=torch.int32)
    expected = torch._grouped_mm(one, other, offs=ends)
    torch.testing.assert_close(grouped_mm(one, other, ends), expected)



class HyperNetwork(nn.Module):
    """One network makes the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(4))
        self.fc, self.make = nn.Linear(4, 6), nn.Linear(6, 5 * 3 + 5 + 2 * 5 + 2)

    def forward(self, x):
        made = self.make(torch.tanh(self.fc(self.code)))
        w1, b1, w2, b2 = made.split([15, 5, 10, 2])
        h = torch.relu(F.linear(x, w1.view(5, 3), b1))
        return F.linear(h, w2.view(2, 5), b2)


def test_a_hypernetwork_relabels_the_neurons_of_the_network_it_makes():
    derivation = check(HyperNetwork(), torch.randn(7, 3), {
        "code": (4, "code[0] fc.weight[1]"),
        "fc": (6, "fc.weight[0] fc.bias[0] make.weight[1]"),
        "make": (5, "make.weight[0] make.bias[0]"),
    })
    assert axis_text(derivation.spec, "make.bias") == "[5 make x 3 | 5 make | 2 x 5 make | 2]"


class Remembering(nn.Module):
    """A forward that keeps a running mean of its hidden features, and a copy of some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        h = torch.relu(self.inp(x))
        self.mean.mul_(0.9).add_(h.mean(0).detach())
        self.last.copy_(h[0].detach())
        return self.out(h - self.mean)


def test_buffers_that_a_forward_writes_to_go_with_what_is_written():
    module = Remembering()
    check(module, torch.randn(5, 3), {
        "inp": (4, "inp.weight[0] inp.bias[0] mean[0] last[0] out.weight[1]"),
    })
    assert torch.equal(module.mean, torch.zeros(4))


def around(name):
    """Forwards that say how they are run: gradient and precision modes, checkpoints, vmap."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def inner(self, x):
            return torch.relu(self.b(torch.relu(self.a(x))))

        def forward(self, x):
            if name == "no_grad":
                with torch.no_grad():
                    h = self.inner(x)
            elif name == "autocast":
                with torch.autocast("cpu", enabled=False):
                    h = self.inner(x)
            elif name == "checkpoint":
                h = torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)
            else:
                h = torch.vmap(self.inner)(x)
            return self.c(h)

    return Around()


@pytest.mark.parametrize("name", ["no_grad", "autocast", "checkpoint", "vmap"])
def test_modes_and_checkpoints_are_seen_through(name):
    check(around(name), torch.randn(5, 3), {
        "a": (4, "a.weight[0] a.bias[0] b.weight[1]"),
        "b": (5, "b.weight[0] b.bias[0] c.weight[1]"),
    }, maximal=False)


def test_a_parametrised_weight_is_relabelled_by_what_it_is_made_of():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    original = "0.parametrizations.weight.original"
    check(model, torch.randn(5, 3), {
        "0": (4, f"{original}0[0] {original}1[0] 0.bias[0] 2.weight[1]"),
    })
