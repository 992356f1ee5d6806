"""The spec as data: what it does to tensors, what it refuses, how it is written."""

import copy
import dataclasses
import json

import pytest
import torch
from symmetry_cases import double
from torch import nn

from converters import verify
from converters.symmetry import AxisFactor, PermutationSpec, Space, derive, permutation_spec
from nngraph.errors import ArchitectureError


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(3, 6), nn.Linear(6, 2)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        x = self.inp(x)
        return self.out(x + self.attn(x, x, x, need_weights=False)[0])


def test_permuting_by_hand_is_what_permute_does():
    module = mlp()
    spec = permutation_spec(module, torch.randn(1, 3))
    p, q = torch.tensor([2, 0, 1, 4, 3]), torch.tensor([3, 1, 0, 2])
    before = module.state_dict()
    after = spec.permute(before, {"0": p, "2": q})
    assert torch.equal(after["0.weight"], before["0.weight"][p])
    assert torch.equal(after["0.bias"], before["0.bias"][p])
    assert torch.equal(after["2.weight"], before["2.weight"][q][:, p])
    assert torch.equal(after["4.weight"], before["4.weight"][:, q])
    assert after["4.bias"] is before["4.bias"]


def test_relabelling_within_heads_by_a_naive_loop():
    module = Attention()
    spec = permutation_spec(module, torch.randn(2, 4, 3))
    relabelling = spec.sample(3)
    heads, value = relabelling["attn.heads"], relabelling["attn.v"]
    assert value.shape == (2, 3)
    before = module.state_dict()["attn.out_proj.weight"]
    after = spec.permute(module.state_dict(), relabelling)["attn.out_proj.weight"]
    for row, old_row in enumerate(relabelling["inp"].tolist()):
        for head in range(2):
            for feature in range(3):
                old = int(heads[head]) * 3 + int(value[head, feature])
                assert after[row, head * 3 + feature] == before[old_row, old]


def test_the_identity_moves_nothing_and_samples_are_seeded():
    spec = permutation_spec(Attention(), torch.randn(2, 4, 3))
    state = Attention().state_dict()
    same = spec.permute(state, spec.identity())
    assert all(torch.equal(same[name], tensor) for name, tensor in state.items())
    one, again, other = spec.sample(1), spec.sample(1), spec.sample(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    only = spec.sample(1, ("inp",))
    assert torch.equal(only["attn.heads"], torch.arange(2))
    assert not torch.equal(only["inp"], torch.arange(6))


def test_a_spec_survives_json_and_pickling_and_reads_as_a_table():
    spec = permutation_spec(Attention(), torch.randn(2, 4, 3))
    assert PermutationSpec.from_json(spec.to_json()) == spec
    assert copy.deepcopy(spec) == spec
    assert json.loads(spec.to_json())["spaces"][1]["name"] == "attn.heads"
    text = str(spec)
    assert "attn.v           3  within attn.heads" in text
    assert "attn.out_proj.weight  [6 inp] [2 attn.heads x 3 attn.v]" in text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spaces": 3}'])
def test_other_text_is_no_spec(text):
    with pytest.raises(ArchitectureError, match="no permutation spec"):
        PermutationSpec.from_json(text)


def test_malformed_specs_are_refused():
    axis = ((AxisFactor(3, "a"),),)
    with pytest.raises(ArchitectureError, match="counts 3 neurons of 'a', which has 4"):
        PermutationSpec((Space("a", 4),), {"w": (axis,)})
    with pytest.raises(ArchitectureError, match="no place"):
        PermutationSpec((), {"w": (axis,)})
    with pytest.raises(ArchitectureError, match="one name"):
        PermutationSpec((Space("a", 3), Space("a", 3)), {"w": (axis,)})
    with pytest.raises(ArchitectureError, match="no space"):
        PermutationSpec((Space("a", 3, ("b",)),), {"w": (axis,)})


def test_permute_refuses_what_does_not_fit():
    module = mlp()
    spec = permutation_spec(module, torch.randn(1, 3))
    state, identity = module.state_dict(), spec.identity()
    with pytest.raises(ArchitectureError, match="not one of this spec's"):
        spec.permute({**state, "more": torch.zeros(1)}, identity)
    with pytest.raises(ArchitectureError, match="has shape"):
        spec.permute({**state, "0.weight": torch.zeros(5, 4)}, identity)
    with pytest.raises(ArchitectureError, match="free spaces"):
        spec.permute(state, {"0": identity["0"]})
    with pytest.raises(ArchitectureError, match="no permutation"):
        spec.permute(state, {**identity, "0": torch.zeros(5, dtype=torch.long)})
    with pytest.raises(ArchitectureError, match="a stack of 2"):
        spec.permute(state, spec.permutations.sample(0, 2))
    with pytest.raises(ArchitectureError, match="no neuron space that may be relabelled"):
        spec.sample(0, ("9",))


def test_verify_notices_a_spec_that_claims_too_much():
    module, inputs = mlp(), torch.randn(4, 3)
    spec = permutation_spec(module, inputs)
    free_outputs = dataclasses.replace(
        spec,
        spaces=(*spec.spaces, Space("4", 2)),
        parameters={**spec.parameters, "4.bias": (((AxisFactor(2, "4"),),),)},
    )
    report = verify(free_outputs, module, inputs)
    assert not report.holds
    assert [check.space for check in report.checks if check.error > 1e-9] == ["4"]
    assert "changes the function" in str(report)


def test_verify_finds_symmetry_that_a_spec_misses():
    module, inputs = mlp(), torch.randn(4, 3)
    spec = permutation_spec(module, inputs)
    fixed = ((AxisFactor(4),),)
    parameters = {
        "0.weight": spec.parameters["0.weight"], "0.bias": spec.parameters["0.bias"],
        "2.weight": (fixed, spec.parameters["2.weight"][1]), "2.bias": (fixed,),
        "4.weight": (spec.parameters["4.weight"][0], fixed), "4.bias": spec.parameters["4.bias"],
    }
    too_small = PermutationSpec(spec.spaces[:1], parameters)
    report = verify(too_small, module, inputs, maximal=True)
    assert report.holds
    assert {(name, axis) for missed in report.missed for name, axis, _ in missed.segments} == {
        ("2.weight", 0), ("2.bias", 0), ("4.weight", 1)
    }
    assert not verify(spec, module, inputs, maximal=True).missed


def test_modules_without_weights_give_the_same_spec():
    with torch.device("meta"):
        empty = Attention()
    assert permutation_spec(empty, torch.randn(2, 4, 3, device="meta")) == permutation_spec(
        Attention(), torch.randn(2, 4, 3)
    )


def test_deriving_changes_nothing_in_the_module():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    module.train()
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    derivation = derive(module, torch.randn(5, 3))
    verify(derivation, module, torch.randn(5, 3))
    assert [m.training for m in module] == [True, False, True, True]
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in module.parameters())


def test_a_deep_network_takes_near_linear_time():
    import time

    def seconds(depth: int) -> float:
        module = nn.Sequential(*[nn.Linear(4, 4) for _ in range(depth)])
        start = time.process_time()
        spec = permutation_spec(module, double(2, 4).float())
        assert len(spec.spaces) == depth - 1
        return time.process_time() - start

    seconds(2)
    small, large = seconds(20), seconds(120)
    assert large < 6 * 3 * small


class RowsApart(nn.Module):
    """Distances between rows: any neurons of the weight may be swapped, and the bias cancels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x):
        h = self.a(x)
        return self.b(torch.cdist(h, h))


class LastOnly(nn.Module):
    """Some neurons alone are read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(self.a(x)[:, -3:])


@pytest.mark.parametrize("kind", [RowsApart, LastOnly])
def test_a_search_passes_by_segments_that_no_output_depends_on(kind):
    module, inputs = kind(), torch.randn(4, 6)
    assert not verify(permutation_spec(module, inputs), module, inputs, maximal=True).missed
