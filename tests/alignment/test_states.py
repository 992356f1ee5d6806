"""Matching state dicts through their specs, without a graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from converters import mlp_spec, permutation_spec, to_graph
from converters.symmetry import AxisFactor, PermutationSpec, Space
from nngraph.alignment import Products, match_states, match_weights, state_terms, states_apart
from nngraph.alignment.terms import Placement, inner_product
from nngraph.errors import ArchitectureError, InvalidGraphError, NonFiniteError


class Residual(nn.Module):
    """Convolutions with batch norms, a residual sum, groups, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.one, self.two = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.side, self.head = nn.Conv2d(6, 5, 1), nn.Linear(11, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.two(torch.relu(self.one(x)))
        return self.head(torch.cat([x, self.side(x)], 1).mean((2, 3)))


class Attention(nn.Module):
    """Heads whose queries, keys and values are one matrix; with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 7), nn.Linear(7, 12)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = self.qkv(x).view(*tokens.shape, 3, 3, 4).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(found)
        x = x + self.down(torch.tanh(self.up(x)))
        return x @ self.embed.weight.T


class Recurrent(nn.Module):
    """A matrix whose rows and columns count one space."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.step = nn.Linear(3, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.read(x))
        return self.head(torch.tanh(h + self.step(h)))


MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(),
                                  nn.Linear(5, 2)), torch.zeros(1, 3)),
    "residual": (Residual, torch.zeros(2, 3, 5, 5)),
    "attention": (Attention, torch.zeros(2, 5, dtype=torch.long)),
    "recurrent": (Recurrent, torch.zeros(1, 3)),
}  # fmt: skip


@pytest.fixture(params=MODULES, scope="module")
def case(request):
    make, x = MODULES[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().eval()
        spec = permutation_spec(module, x)
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1 else
                            torch.randn_like(value))  # fmt: skip
        return module, x, spec


def state_of(module, spec, dtype=torch.float32):
    return {
        name: v.to(dtype) if v.is_floating_point() else v
        for name, v in module.state_dict().items() if name in spec.parameters
    }  # fmt: skip


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_random_relabelling_is_found_again_bit_by_bit(case, dtype):
    module, _, spec = case
    a, planted = state_of(module, spec, dtype), spec.sample(1)
    b = spec.permute(a, planted)
    assert not same(a, b)
    found = match_states(spec, a, b, starts=2)
    assert same(a, found.apply(b))
    assert all(like == pytest.approx(1, rel=1e-5) for like in found.likeness.values())
    # Some other relabelling would not do.
    assert not same(a, spec.permute(b, spec.sample(7)))


def test_pieces_cover_a_tensor_once_and_move_as_the_tensor_does(case):
    module, _, spec = case
    a, planted = state_of(module, spec, torch.float64), spec.sample(3)
    b = {name: value + 1 for name, value in spec.permute(a, planted).items()}
    terms, placed = state_terms(spec, a, b), Placement(spec.permutations.invert(planted))
    counted = {
        name for name in a
        if name not in spec.buffers and any(map(spec.is_free, spec.parameters[name]))
    }
    for given, moved in ((Placement({}), b), (placed, spec.permute(b, placed.indices))):
        expected = sum(float((a[name] * moved[name]).sum()) for name in counted)
        assert inner_product(terms, given) == pytest.approx(expected, rel=1e-10)
    assert sum(t.a.numel() for t in terms) <= sum(a[name].numel() for name in counted)


def test_graphs_and_state_dicts_are_matched_alike():
    make, x = MODULES["residual"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, other = make().double().eval(), make().double().eval()
    spec = permutation_spec(one, x.double())
    found = match_states(spec, one.state_dict(), other.state_dict(), starts=2)
    graphs = [to_graph(module, x.double()) for module in (one, other)]
    aligned = match_weights(*graphs, starts=2).apply(graphs[1]).parameters()
    moved = found.apply(other.state_dict())
    assert all(torch.equal(moved[name], value) for name, value in aligned.items())
    torch.testing.assert_close(
        torch.func.functional_call(other, moved, (x.double() + 1,)), other(x.double() + 1)
    )


def test_chunks_do_not_change_the_sums(case, monkeypatch):
    module, _, spec = case
    a = state_of(module, spec, torch.float64)
    b = {name: value.flip(0) if value.dim() else value for name, value in a.items()}
    whole = match_states(spec, a, b)
    monkeypatch.setattr("nngraph.alignment.terms.CHUNK", 5)
    monkeypatch.setattr("nngraph.alignment.states._CHUNK", 5)
    cut = match_states(spec, a, b)
    assert cut.history == pytest.approx(whole.history, rel=1e-10)
    assert all(torch.equal(index, whole.relabelling[s]) for s, index in cut.relabelling.items())
    assert cut.likeness == pytest.approx(whole.likeness)


def test_statistics_move_and_do_not_count():
    make, x = MODULES["residual"]
    module = make().eval()
    spec = permutation_spec(module, x)
    a = module.state_dict()
    a["norm.running_var"] = torch.arange(1.0, 7.0)
    b = spec.permute(a, spec.sample(1))
    b["norm.running_var"] = 1000 * b["norm.running_var"]
    moved = match_states(spec, a, b, starts=1).apply(b)
    assert torch.equal(moved["norm.running_var"], 1000 * a["norm.running_var"])


def test_spaces_within_others_are_moved_on_any_axis():
    """Features within heads, the heads on another axis than theirs, and between two tensors."""
    spaces = (Space("h", 3), Space("d", 4, within=("h",)))
    heads, features = ((AxisFactor(3, "h"),),), ((AxisFactor(4, "d"),),)
    both = ((AxisFactor(3, "h"), AxisFactor(4, "d")),)
    spec = PermutationSpec(
        spaces, {"w": (features, heads, ((AxisFactor(5),),)), "v": (both, ((AxisFactor(2),),))}
    )
    draw = torch.Generator().manual_seed(0)
    a = {name: torch.randn(spec.shape(name), generator=draw) for name in spec.parameters}
    b = spec.permute(a, spec.sample(2))
    assert same(a, match_states(spec, a, b, starts=1).apply(b))


def test_sums_of_two_tensors():
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    found = Products.of(one, other)
    assert found == Products(25.0, 25.0, 24.0, 2.0)
    assert (found.cosine, found.distance) == (24 / 25, (2 / 25) ** 0.5)
    zero = Products.of(torch.zeros(2), torch.zeros(2))
    assert (zero.cosine, zero.distance, zero + found) == (1.0, 0.0, found)


def test_what_cannot_be_matched_is_named():
    a = {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(2, 3)}
    spec = mlp_spec(a)
    with pytest.raises(InvalidGraphError, match="has shape"):
        match_states(spec, a, {**a, "1.weight": torch.ones(3, 3)})
    with pytest.raises(NonFiniteError, match="of the second network"):
        match_states(spec, a, {**a, "0.weight": torch.full((3, 2), torch.nan)})
    with pytest.raises(ValueError, match="starts is 0"):
        match_states(spec, a, a, starts=0)


class Tied(nn.Module):
    """An embedding that is the last layer's weight, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + torch.tanh(self.mix(x)))


def test_tied_tensors_have_all_their_names_and_count_once():
    torch.manual_seed(0)
    module, tokens = Tied(), torch.arange(9)[None]
    spec, state = permutation_spec(module, tokens), module.state_dict()
    assert "head.weight" in state
    other = spec.permute(state, spec.sample(1))
    found = match_states(spec, state, other)
    back = found.apply(other)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    once = {name: value for name, value in state.items() if name != "head.weight"}
    assert states_apart(spec, state, other) == states_apart(spec, once, other)
    assert len(state_terms(spec, state, other)) == len(state_terms(spec, once, other))
    with pytest.raises(ArchitectureError, match="'more' is not one of this spec's"):
        match_states(spec, {**state, "more": torch.ones(2)}, {**other, "more": torch.ones(2)})
