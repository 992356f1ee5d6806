"""Merging state dicts: a network and its relabelled copies are one network, and sums are sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters import permutation_spec
from nngraph.alignment import (
    match_all,
    match_states,
    measured_statistics,
    merge_states,
    module_loss,
    state_barrier,
)
from nngraph.alignment.merging import combined
from nngraph.errors import InvalidGraphError


def make_net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        for value in (net[1].running_mean, net[1].running_var):
            value.copy_(torch.rand(5) + 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def spec():
    return permutation_spec(make_net(0), torch.zeros(1, 2, 2, 2))


def state_of(seed: int, dtype: torch.dtype = torch.float32):
    state = make_net(seed).state_dict()
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(v, other[n]) and v.dtype == other[n].dtype for n, v in one.items()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("copies", [1, 2])
def test_a_network_merged_with_its_relabelled_copies_is_itself(spec, dtype, copies):
    a = state_of(0, dtype)
    others = [spec.permute(a, spec.sample(seed + 1)) for seed in range(copies)]
    assert not any(same(a, other) for other in others)
    merged = merge_states(spec, [a, *others]).state()
    for name, value in merged.items():
        assert value.dtype == a[name].dtype
        rounding = torch.finfo(dtype).eps if value.is_floating_point() else 0
        torch.testing.assert_close(value, a[name], rtol=rounding, atol=0.0)
    assert same(merged, a) or copies == 2
    # Without the matching it is not.
    plain = combined([a["0.weight"], others[0]["0.weight"]], [0.5, 0.5])
    assert not torch.equal(plain, a["0.weight"])


def test_weights_are_shares(spec):
    a, b = state_of(0), state_of(1)
    assert same(merge_states(spec, [a, b], [3, 0]).state(), a)
    moved = match_states(spec, a, b).apply(b)
    merged = merge_states(spec, [a, b], [3, 1]).state()
    for name, value in merged.items():
        if value.is_floating_point():
            expected = 0.75 * a[name].double() + 0.25 * moved[name].double()
            assert torch.equal(value, expected.float())
    assert torch.equal(merged["1.num_batches_tracked"], a["1.num_batches_tracked"])


def test_differences_from_a_base_are_added_to_it(spec):
    base = state_of(0, torch.float64)
    made = {n: v + 0.01 if v.is_floating_point() else v for n, v in base.items()}
    other = {n: v - 0.03 if v.is_floating_point() else v for n, v in base.items()}
    given = [spec.permute(made, spec.sample(3)), spec.permute(other, spec.sample(4))]
    merged = merge_states(spec, given, [2.0, 1.0], base=base).state()
    for name, value in merged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, base[name] - 0.01, rtol=1e-12, atol=1e-12)
    # A difference is taken away again by a factor of -1.
    merged = merge_states(spec, given[:1], [-1.0], base=base).state()
    torch.testing.assert_close(merged["6.bias"], base["6.bias"] - 0.01, rtol=1e-12, atol=1e-12)


def test_only_what_is_named_is_merged(spec):
    a, b = state_of(0), state_of(1)
    merged = merge_states(spec, [a, b], only=["3.*", "6.bias"])
    assert [n for n in a if merged.merges(n)] == ["3.weight", "3.bias", "6.bias"]
    for name, value in merged.state().items():
        assert torch.equal(value, a[name]) == (not merged.merges(name))


def together(spec, states, found):
    """The sum of the inner products of all pairs, as the networks stand."""
    moved = [alignment.apply(state) for alignment, state in zip(found, states, strict=True)]
    return sum(
        float((one[n] * other[n]).sum())
        for i, one in enumerate(moved) for other in moved[i + 1 :]
        for n in one if n not in spec.buffers and one[n].is_floating_point()
    )  # fmt: skip


def test_several_networks_are_matched_to_one_another(spec):
    states = [state_of(seed, torch.float64) for seed in range(4)]
    pairwise = [match_all(spec, [states[0], s])[1] for s in states[1:]]
    found = match_all(spec, states)
    alone = together(spec, states, [found[0], *pairwise])
    assert together(spec, states, found) > alone
    assert all(
        torch.equal(index, torch.arange(len(index))) for index in found[0].relabelling.values()
    )
    # However they are labelled, they come out as one: noise does not hide it.
    draw = torch.Generator().manual_seed(0)
    noisy = [
        spec.permute(
            {n: v + 0.05 * torch.randn(v.shape, generator=draw).double()
             if v.is_floating_point() else v for n, v in states[0].items()}, spec.sample(seed),
        ) for seed in (5, 6, 7)
    ]  # fmt: skip
    for alignment, state in zip(match_all(spec, noisy), noisy, strict=True):
        apart = alignment.apply(state)["6.weight"] - noisy[0]["6.weight"]
        assert float(apart.abs().max()) < 0.5
        assert alignment.likeness.get("0", 1) > 0.95


def test_sums_are_rounded_once():
    values = [torch.tensor([1.0, 2**-9], dtype=torch.bfloat16)] * 3
    assert torch.equal(combined(values, [1 / 3] * 3), values[0])
    assert combined(values, [1, 1, 1], torch.float32).tolist() == [3.0, 3 * 2**-9]


def test_statistics_are_those_of_the_data(spec):
    net, state = make_net(0), state_of(1)
    inputs = torch.randn(128, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    before = {n: v.clone() for n, v in net.state_dict().items()}
    found = measured_statistics(net, state, inputs)
    assert sorted(found) == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]
    seen = F.conv2d(inputs, state["0.weight"], state["0.bias"])
    torch.testing.assert_close(found["1.running_mean"], seen.mean((0, 2, 3)))
    torch.testing.assert_close(
        found["1.running_var"],
        torch.stack([half.var((0, 2, 3)) for half in seen.split(64)]).mean(0),
    )
    assert same(before, net.state_dict())
    assert not any(child.training for child in net.modules())
    assert net[1].momentum == 0.1


def test_losses_along_the_path(spec):
    net, draw = make_net(0), torch.Generator().manual_seed(0)
    x = torch.randn(70, 2, 2, 2, generator=draw)
    a = net.state_dict()
    b = spec.permute(a, spec.sample(1))
    answers = net(x).argmax(-1)
    loss = module_loss(net, x, answers)
    expected = F.cross_entropy(net(x), answers)
    assert float(loss(a)) == pytest.approx(expected.item(), rel=1e-6)
    assert float(module_loss(net, x, net(x).detach() + 2)(a)) == pytest.approx(4, rel=1e-5)
    loss = module_loss(net, x, net(x).detach())
    apart = state_barrier(a, b, loss, (0, 0.5, 1))
    moved = match_states(spec, a, b).apply(b)
    assert apart.height > 1e-4
    assert abs(state_barrier(a, moved, loss, (0, 0.5, 1)).height) < 1e-9
    with pytest.raises(InvalidGraphError, match="one answer to each"):
        module_loss(net, x, answers[:3])


def test_mistakes_are_told(spec):
    a = state_of(0)
    for states, options, told in (
        ([a], {}, "1 networks to merge; expected at least 2"),
        ([], {"base": a}, "expected at least 1"),
        ([a, a], {"weights": [1.0]}, "for 2 networks; expected one finite number"),
        ([a, a], {"weights": [1.0, -1.0]}, "of a sum other than 0"),
        ([a, a], {"weights": [1.0, math.nan]}, "one finite number"),
        ([a, {n: v for n, v in a.items() if n != "6.bias"}], {}, "'6.bias' is not in all"),
        ([a, a], {"only": ["9.*"]}, "no tensor has a name like '9"),
    ):
        with pytest.raises(InvalidGraphError, match=told):
            merge_states(spec, states, **options)
