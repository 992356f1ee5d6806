"""What two networks are to each other, and networks as mixtures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from converters import permutation_spec
from nngraph.alignment import compare_states, mixture_of
from nngraph.errors import InvalidGraphError


def make_net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 12, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(12, 3),
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def spec():
    return permutation_spec(make_net(0), torch.zeros(1, 2, 3, 3))


def state_of(seed: int, dtype: torch.dtype = torch.float64):
    state = make_net(seed).state_dict()
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}


def shifted(state, size: float, seed: int = 0, names: tuple[str, ...] = ()):
    draw = torch.Generator().manual_seed(seed)
    return {
        n: v + size * torch.randn(v.shape, generator=draw).to(v)
        if v.is_floating_point() and (not names or n in names) else v
        for n, v in state.items()
    }  # fmt: skip


def test_each_relation_is_told(spec):
    a = state_of(0)
    for other, relation in (
        (a, "equal"),
        (spec.permute(a, spec.sample(1)), "relabelled"),
        ({n: v.float() if v.is_floating_point() else v for n, v in a.items()}, "rounded"),
        (spec.permute(shifted(a, 0.02), spec.sample(1)), "related"),
        # Layers that were kept as they were give it away.
        (shifted(a, 9.0, names=("6.bias",)), "related"),
        (state_of(1), "unrelated"),
    ):
        found = compare_states(spec, a, other)
        assert found.relation == relation
        assert found.same_function == (relation in ("equal", "relabelled", "rounded"))
        assert found.to_dict()["relation"] == relation


def test_the_tensors_that_differ_are_named(spec):
    a = state_of(0)
    b = {**a, "3.bias": a["3.bias"] + 1, "1.running_var": 2 * a["1.running_var"]}
    found = compare_states(spec, a, spec.permute(b, spec.sample(2)))
    assert [t.name for t in found.tensors if not t.equal] == ["1.running_var", "3.bias"]
    distances = {t.name: t.products.distance for t in found.tensors if t.products is not None}
    assert distances["1.running_var"] == pytest.approx(1)
    assert distances["3.bias"] == pytest.approx(12**0.5 / float(a["3.bias"].norm()))
    assert distances["0.weight"] == 0
    assert found.shared == ("0.weight", "3.weight")
    assert found.relation == "related"


def test_a_mixture_is_told_with_its_coefficients(spec):
    a, b = state_of(0), state_of(1)
    mixed = {n: 0.3 * v + 0.7 * b[n] if v.is_floating_point() else v for n, v in a.items()}
    parts = [spec.permute(state, spec.sample(seed)) for seed, state in ((4, a), (5, b))]
    found = mixture_of(spec, mixed, parts)
    assert found.coefficients == pytest.approx((0.3, 0.7), rel=1e-9)
    assert found.residual < 1e-12
    # A third network takes no part; without one of the two something is left.
    more = mixture_of(spec, mixed, [*parts, state_of(2)])
    assert more.coefficients == pytest.approx((0.3, 0.7, 0.0), abs=1e-9)
    assert mixture_of(spec, mixed, parts[:1]).residual > 0.1
    assert mixture_of(spec, state_of(6), parts).residual > 0.1


def test_parts_that_are_alike_share_what_is_theirs(spec):
    a = state_of(0)
    found = mixture_of(spec, a, [a, spec.permute(a, spec.sample(1))])
    assert found.coefficients == pytest.approx((0.5, 0.5), rel=1e-6)
    assert found.residual < 1e-9


def test_mistakes_are_told(spec):
    a = state_of(0)
    with pytest.raises(InvalidGraphError, match="no networks to mix"):
        mixture_of(spec, a, [])
    with pytest.raises(InvalidGraphError, match="is not in all of the networks"):
        mixture_of(spec, a, [{n: v for n, v in a.items() if n != "6.bias"}])
