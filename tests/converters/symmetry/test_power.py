"""A proof that nothing could fail is none: what breaks a tie must be seen."""

import dataclasses

import pytest
import torch
from torch import nn

from converters import verify
from converters.symmetry import AxisFactor, Space, permutation_spec
from converters.symmetry.mutants import catch_mutants, mutants

INPUTS = torch.randn(5, 6)


class Net(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.a, self.b, self.after = nn.Linear(6, 8), nn.Linear(8, 3), after

    def forward(self, x):
        return self.after(self.a(x), self.b)


def statuses(module, inputs=INPUTS, **options):
    report = verify(permutation_spec(module, inputs), module, inputs, **options)
    return report, {check.space: check.status for check in report.checks}


def test_an_effect_too_small_to_be_seen_is_not_proven():
    module = Net(lambda h, b: h.sum(-1, keepdim=True) + 1e-8 * b(h.tanh()))
    report, found = statuses(module)
    assert (report.status, found) == ("not proven", {"a": "not proven"})
    assert not report.holds
    assert report.checks[0].unseen == ("a.weight[0]", "a.bias[0]", "b.weight[1]")
    assert str(report).startswith("NOT PROVEN")
    assert "what is wrong at a.weight[0]" in str(report)


def test_a_softmax_that_full_noise_saturates_is_seen_with_less():
    class Sharp(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            x = 3 * x
            scores = self.q(x) @ self.k(x).t() * self.scale.exp()
            return scores.softmax(-1) @ self.v(x)

    report, found = statuses(Sharp())
    assert report.holds, report
    assert found == {"qk": "holds"}
    assert report.checks[0].idle == ("k.bias[0]",)


def test_ties_of_which_only_the_sum_counts_are_free_alone():
    report, found = statuses(Net(lambda h, b: h.sum(-1)))
    assert found == {"a": "holds"}
    assert report.checks[0].loose == ("a.weight[0]", "a.bias[0]")


def test_equal_entries_are_not_proven_where_nothing_is_shaken():
    module = Net(lambda h, b: b(h.tanh()))
    with torch.no_grad():
        module.a.bias.zero_()
    report, _ = statuses(module, shake=False)
    assert report.status == "not proven"
    assert report.checks[0].unseen == ("a.bias[0]",)
    assert statuses(module)[0].holds


def test_what_nothing_depends_on_is_not_proven():
    module = Net(lambda h, b: b(torch.ones(8)) + 0 * h.tanh().sum(-1, keepdim=True))
    report, found = statuses(module)
    assert set(found.values()) == {"not proven"}
    assert "do not depend on it" in str(report)


@pytest.mark.parametrize("names", [("a.bias",), ("b.weight",), ("a.weight", "a.bias")])
def test_a_tie_that_was_dropped_is_caught(names):
    module = Net(lambda h, b: b(h.tanh()))
    spec = permutation_spec(module, INPUTS)
    axes = {
        name: tuple(
            ((AxisFactor(8),),) if axis == ((AxisFactor(8, "a"),),) else axis for axis in all_axes
        )
        if name in names else all_axes
        for name, all_axes in spec.parameters.items()
    }
    assert verify(dataclasses.replace(spec, parameters=axes), module, INPUTS).status == "fails"


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(6, 6), nn.Linear(6, 2)
        self.norm, self.attn = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.table = nn.Embedding(9, 6)

    def forward(self, x):
        x = self.norm(self.inp(x) + self.table.weight[: x.shape[1]])
        return self.out(x + self.attn(x, x, x, need_weights=False)[0])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


NETWORKS = {
    "attention": (Attention, torch.randn(2, 4, 6)),
    "convolutional": (convolutional, torch.randn(2, 2, 6, 6)),
    "recurrent": (lambda: nn.LSTM(3, 4, 2), torch.randn(5, 2, 3)),
}


@pytest.mark.parametrize(("make", "inputs"), NETWORKS.values(), ids=NETWORKS)
def test_no_mutant_of_a_spec_is_proven(make, inputs):
    """Of 60, all are caught but those that change nothing."""
    module = make().eval()
    spec = permutation_spec(module, inputs)
    found = catch_mutants(spec, module, inputs, count=60)
    assert found.total == 60
    assert not found.blind, found
    assert found.caught >= 50, found


def test_mutants_differ_from_their_spec_in_one_thing():
    module = Attention()
    spec = permutation_spec(module, torch.randn(2, 4, 6))
    found = mutants(spec, 0, 100)
    assert {mutant.kind for mutant in found} >= {"dropped", "split", "freed"}
    assert all(mutant.spec != spec and mutant.original is spec for mutant in found)
    assert all(isinstance(space, Space) for mutant in found for space in mutant.spec.spaces)
    assert found == mutants(spec, 0, 100)
    assert mutants(permutation_spec(nn.Identity(), INPUTS), 0, 5) == []


def test_a_search_is_not_conclusive_where_a_rule_is_missing():
    module = Net(lambda h, b: b(h.tanh()) + torch.cholesky_inverse(h.t() @ h).sum())
    report, _ = statuses(module, maximal=True)
    assert report.incomplete == ("aten.cholesky_inverse",)
    assert "found; there may be more, as aten.cholesky_inverse" in str(report)
    assert statuses(Net(lambda h, b: b(h.tanh())), maximal=True)[0].incomplete == ()
