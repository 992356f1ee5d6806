"""Tensors that share memory, and parts of tensors that nothing reads."""

import pytest
import torch
from symmetry_cases import described
from torch import nn

from converters import to_graph, verify
from converters.symmetry import permutation_spec

INPUTS = torch.randn(4, 6)


class Tied(nn.Module):
    """An autoencoder whose decoder is a view of its encoder."""

    def __init__(self, tie):
        super().__init__()
        self.e, self.d = nn.Linear(6, 8), nn.Linear(8, 6, bias=False)
        tie(self)

    def forward(self, x):
        return self.d(self.e(x).relu())


def parameter(view):
    def tie(net):
        net.d.weight = nn.Parameter(view(net.e.weight.detach()))

    return tie


def data(net):
    net.d.weight.data = net.e.weight.data.transpose(0, 1)


def stacked(net):
    memory = torch.randn(2, 8, 6)
    net.e.weight, net.d.weight = nn.Parameter(memory[0]), nn.Parameter(memory[1].reshape(6, 8))


ONE = {"e": (8, "d.weight[1] e.bias[0] e.weight[0]")}
TIES = {
    "transposed": (parameter(lambda w: w.t()), ONE),
    "data": (data, ONE),
    "strided": (parameter(lambda w: w.as_strided((6, 8), (1, 6))), ONE),
    # The rows of one are no rows of the other: 8 x 6 against 6 x 8.
    "reshaped": (parameter(lambda w: w.view(6, 8)), {}),
    "in part": (parameter(lambda w: w.flatten().expand(2, -1).flatten()[:48].view(6, 8)), ONE),
    "stacked": (stacked, ONE),
}


@pytest.mark.parametrize(("tie", "expected"), TIES.values(), ids=TIES)
def test_views_of_one_memory_are_one_tensor(tie, expected):
    module = Tied(tie)
    spec = permutation_spec(module, INPUTS)
    assert described(spec) == expected
    report = verify(to_graph(module, INPUTS), module, INPUTS)
    assert report.holds, report
    moved = spec.permute(module.state_dict(), spec.sample(0))
    before = module(INPUTS)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.copy_(moved[name].clone())
    torch.testing.assert_close(module(INPUTS), before)


def test_views_that_were_untied_in_the_spec_are_noticed():
    module = Tied(data)
    apart = Tied(lambda net: None)
    with torch.no_grad():
        report = verify(permutation_spec(apart, INPUTS), module, INPUTS)
    assert report.holds  # rows of one are columns of the other, also where each is taken alone
    square = nn.Sequential(nn.Linear(6, 6, False), nn.Tanh(), nn.Linear(6, 6, False), nn.Tanh(),
                           nn.Linear(6, 2))  # fmt: skip
    spec = permutation_spec(square, INPUTS)
    square[2].weight.data = square[0].weight.data.t()
    report = verify(spec, square, INPUTS)
    assert report.status == "fails"
    assert report.worst == float("inf")
    assert described(permutation_spec(square, INPUTS)) == {
        "0": (6, "0.weight[0] 2.weight[1]"),
    }


class Expanded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.randn(1).expand(8))

    def forward(self, x):
        return self.b(self.a(x).relu() * self.scale)


def test_an_expanded_parameter_is_one_number():
    module = Expanded()
    assert verify(permutation_spec(module, INPUTS), module, INPUTS).status != "fails"


class Positions(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.a, self.b, self.read = nn.Linear(6, 8), nn.Linear(8, 3), read
        self.table = nn.Parameter(torch.randn(10, 8))
        self.register_buffer("index", torch.arange(10))

    def forward(self, x):
        return self.b((self.a(x) + self.read(self.table, self.index)).tanh())


READS = {
    "slice": lambda table, index: table[:4],
    "rows": lambda table, index: table[index[:4]],
    "gather": lambda table, index: table.index_select(0, index[:4]),
    "view": lambda table, index: table.view(5, 2, 8)[:2].reshape(4, 8),
    "split": lambda table, index: table.split([4, 6])[0],
    "last": lambda table, index: table.flip(0)[:1],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_positions_that_nothing_reads_are_fixed(read):
    module = Positions(read)
    spec = permutation_spec(module, INPUTS)
    assert described(spec) == {"a": (8, "a.bias[0] a.weight[0] b.weight[1] table[1]")}
    assert verify(spec, module, INPUTS).holds


class Rows(nn.Module):
    """Parts of a weight that nothing reads share their neurons with what is read."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(12, 12))
        self.c, self.o = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        h = self.c(x).tanh()
        return self.o(h) + h[..., :5] @ self.w[:5, :3]


def test_parts_that_share_their_neurons_with_others_are_fixed_in_both_axes():
    spec = permutation_spec(Rows(), INPUTS)
    assert described(spec) == {
        "c": (5, "c.bias[0] c.weight[0] o.weight[1] w[0]"),
        "c.2": (7, "c.bias[0] c.weight[0] o.weight[1]"),
    }


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.o = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 3)
        self.register_buffer("cache", torch.randn(2, 10, 8))

    def forward(self, x):
        self.cache[:, :4] = self.k(x)
        return self.o((self.q(x) @ self.cache[:, :4].transpose(1, 2)).softmax(-1))


def test_a_cache_has_no_free_positions():
    module, inputs = Cached(), torch.randn(2, 4, 6)
    spec = permutation_spec(module, inputs)
    assert described(spec) == {
        "qk": (8, "cache[2] k.bias[0] k.weight[0] q.bias[0] q.weight[0]")
    }
    report = verify(spec, module, inputs)
    assert report.holds, report
    assert report.checks[0].idle == ("cache[2]", "k.bias[0]")
