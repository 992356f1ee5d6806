"""Neurons removed from small networks of every kind: the law, files, scores and budgets."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from pruning_cases import CASES, network
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from converters.symmetry import PermutationSpec
from nngraph.errors import ArchitectureError, DataFileError, UnsupportedModuleError
from nngraph.pruning import (
    Law,
    Pruned,
    Removal,
    batch_norm_scores,
    first_order_scores,
    load_pruned,
    norm_scores,
    prune,
    prune_state,
    read_scores,
    save_pruned,
)

ALL = pytest.mark.parametrize("name", CASES)


@cache
def half(name: str) -> Pruned:
    """The network of a case with half of its neurons; nothing that is made of it changes it."""
    return prune(*network(name), keep=0.5)


def spec_of(name: str) -> PermutationSpec:
    return half(name).removal.spec


@ALL
def test_masked_and_removed_are_one_function(name: str, tmp_path: Path):
    module, inputs = network(name)
    case = CASES[name]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    pruned = prune(module, inputs, keep=0.5, spec=spec_of(name))
    assert {n: len(k) for n, k in pruned.removal.kept.items()} == case.left
    assert set(pruned.refused) == set(case.refused)
    assert pruned.error is not None
    assert pruned.error < 1e-9
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    file = tmp_path / "pruned.safetensors"
    save_pruned(pruned, file)
    smaller, _ = network(name)
    load_pruned(smaller, file, inputs)
    # Held by plain torch too: zeros in the whole module, the smaller one as it now is.
    module.load_state_dict(pruned.removal.mask(module.state_dict()))
    torch.testing.assert_close(smaller(inputs), module(inputs), rtol=1e-9, atol=1e-12)
    assert sum(p.numel() for p in smaller.parameters()) == pruned.parameters[1]
    again, _ = network(name)
    load_pruned(again, file)
    assert torch.equal(again(inputs), smaller(inputs))


@ALL
def test_a_wrong_tie_is_noticed(name: str):
    module, inputs = network(name)
    removal, state = half(name).removal, module.state_dict()
    law = Law(module, inputs, {}, removal.spec)
    for space in removal.kept:
        size = removal.spec.by_name[space].size
        others = sorted(set(range(size)) - set(removal.kept[space]))[: removal.size(space)]
        wrong = Removal(removal.spec, {**removal.kept, space: tuple(others)})
        if wrong.size(space) != removal.size(space):
            continue
        name = next(
            tie for tie, _ in removal.spec.ties(space) if tie not in removal.spec.buffers
        )
        mixed = _Mixed(removal.spec, removal.kept, wrong, name)
        assert law.error(mixed, [state])[0] > 1e-4, (space, name)


class _Mixed(Removal):
    """A removal that takes other neurons from one tensor."""

    def __init__(self, spec, kept, wrong, name):
        super().__init__(spec, kept)
        object.__setattr__(self, "wrong", (wrong, name))

    def remove(self, state):
        wrong, name = self.wrong
        return {**super().remove(state), name: wrong.remove(state)[name]}

    def mask(self, state):
        return Removal(self.spec, self.kept).mask(state)


def test_a_module_that_cannot_be_made_smaller_is_named():
    class Stubborn(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x).reshape(-1, 8).relu())

    module = Stubborn(nn.Linear(3, 8), nn.Linear(8, 2)).double()
    pruned = prune(module, torch.randn(4, 3), keep=0.5)
    assert pruned.removal.kept == {}
    assert "does not run" in pruned.refused["0"]
    with pytest.raises(UnsupportedModuleError, match=r"module '1' \(Linear\) does not run.*of 0:"):
        prune(module, torch.randn(4, 3), keep=0.5, anyway=["0"])


def test_what_a_layer_normalises_is_pruned_if_asked():
    module, inputs = network("gated")
    assert "mean, a norm" in half("gated").refused["embed"]
    pruned = prune(module, inputs, keep=0.5, anyway=["emb*"], spec=spec_of("gated"))
    assert len(pruned.removal.kept["embed"]) == 4
    assert pruned.error > 1e-3


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"version": 9}, DataFileError, "version 9; expected 1"),
        ({"kept": {"0": [1, 0]}}, ArchitectureError, "ascending indices below 8"),
        ({"kept": {"0": [0, 8]}}, ArchitectureError, "ascending indices below 8"),
        ({"kept": {"0": [True]}}, DataFileError, "no whole number"),
        ({"kept": {"9": [1]}}, ArchitectureError, "is no space; expected one of: 0, 2"),
        ({"kept": [1]}, DataFileError, "is damaged"),
        ({"rescaled": ["2"], "kept": {"0": [1]}}, ArchitectureError, "'2' is to be rescaled and"),
        ({"spec": {}}, ArchitectureError, "no permutation spec"),
        ({"sizes": {"0": {"training": 0}}}, ArchitectureError, "has False for 'training'"),
        ({"sizes": {"0": {"out_features": 99}}}, ArchitectureError, "expected a size"),
        ({"sizes": {"5": {"in_features": 3}}}, ArchitectureError, "module '5' has None"),
        ({"sizes": {"0": {"forward": 3}}}, ArchitectureError, "has None for 'forward'"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_and_the_module_stays(tmp_path: Path, change, error, words):
    module, inputs = network("mlp")
    file = tmp_path / "pruned.safetensors"
    save_pruned(half("mlp"), file)
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["nngraph.pruned"])
    save_file(load_file(file), file, {"nngraph.pruned": json.dumps(told | change)})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(error, match=words):
        load_pruned(module, file, inputs)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module[0].out_features == 8


def test_a_plain_checkpoint_is_told_apart(tmp_path: Path):
    module, inputs = network("mlp")
    save_file(module.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(DataFileError, match="does not say what was removed"):
        load_pruned(module, tmp_path / "plain.safetensors", inputs)


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path):
    module, inputs = network("gated")
    file = tmp_path / "pruned.safetensors"
    save_pruned(prune(module, inputs, keep=0.5, anyway=["embed"], spec=spec_of("gated")), file)
    with pytest.raises(UnsupportedModuleError, match="computes something else than the whole one"):
        load_pruned(module, file, inputs)
    assert module.norm.normalized_shape == (8,)
    load_pruned(module, file)
    assert module.norm.normalized_shape == (4,)


def test_a_file_of_another_network_is_refused(tmp_path: Path):
    module, _ = network("mlp")
    file = tmp_path / "pruned.safetensors"
    save_pruned(half("mlp"), file)
    other = nn.Sequential(nn.Linear(3, 6), *module[1:])
    with pytest.raises(ArchitectureError, match=r"shape \(6,\) in the module.*had \(8,\)"):
        load_pruned(other, file)


def test_tied_weights_stay_tied_and_are_pruned_once(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(7, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            x = self.embed(x)
            return self.head(x + self.mix(x).relu())

    module, inputs = Tied().double(), torch.randint(7, (2, 5))
    file = tmp_path / "pruned.safetensors"
    pruned = prune(module, inputs, keep=0.5)
    save_pruned(pruned, file)
    load_pruned(module, file, inputs)
    assert module.head.weight is module.embed.weight
    assert module.head.in_features == 2
    assert pruned.parameters == (28 + 20, 14 + 6)


# -- how many -------------------------------------------------------------------------------------


def test_shares_are_by_space_and_spaces_are_left_out_by_name():
    module, inputs = network("residual")
    spec = spec_of("residual")
    kept = prune(module, inputs, keep={"st*": 0.25, "one": 1.0}, spec=spec).removal.kept
    assert {name: len(indices) for name, indices in kept.items()} == {"stem": 2}
    kept = prune(module, inputs, keep=0.5, exclude=["stem"], spec=spec).removal.kept
    assert {name: len(indices) for name, indices in kept.items()} == {"one": 3}
    with pytest.raises(ArchitectureError, match="'x' fits no space; expected one of: stem, one"):
        prune(module, inputs, keep=0.5, exclude=["x"], spec=spec)
    with pytest.raises(ArchitectureError, match=r"to keep of '\*' is 0"):
        prune(module, inputs, keep=0, spec=spec)
    with pytest.raises(ArchitectureError, match="exactly one of keep, parameters, flops"):
        prune(module, inputs, keep=0.5, flops=0.5, spec=spec)


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_budget_is_met_and_used(name: str):
    module, inputs = network(name)
    spec = spec_of(name)
    whole, small = prune(module, inputs, parameters=0.6, spec=spec).parameters
    assert 0.3 * whole < small <= 0.6 * whole
    pruned = prune(module, inputs, flops=0.6, spec=spec)
    assert 0.3 * pruned.flops[0] < pruned.flops[1] <= 0.6 * pruned.flops[0]
    assert prune(module, inputs, parameters=1.0, spec=spec).removal.kept == {}
    with pytest.raises(ArchitectureError, match="the network still has"):
        prune(module, inputs, parameters=3, spec=spec)


# -- scores ---------------------------------------------------------------------------------------


def test_norms_are_over_every_parameter_that_counts_a_neuron():
    state = network("attention")[0].state_dict()
    score = norm_scores(spec_of("attention"), state)
    for feature in range(6):
        own = [state["v.weight"].view(2, 6, 5)[:, feature], state["v.bias"].view(2, 6)[:, feature],
               state["out.weight"].view(5, 4, 6)[:, :, feature]]  # fmt: skip
        expected = sum(float(part.square().sum()) for part in own) ** 0.5
        assert float(score["v"][feature]) == pytest.approx(expected, rel=1e-12)


def test_the_best_by_batch_norm_stay():
    module, inputs = network("residual")
    module.norm.weight.data = torch.tensor([1.0, -8, 2, 7, 3, 6, 4, 5]).double()
    spec = spec_of("residual")
    assert batch_norm_scores(spec, module.state_dict())["stem"].tolist() == [1, 8, 2, 7, 3, 6, 4, 5]
    pruned = prune(module, inputs, keep=0.5, scores="batch_norm", spec=spec)
    assert pruned.removal.kept["stem"] == (1, 3, 5, 7)
    module, inputs = network("mlp")
    assert prune(module, inputs, keep=0.5, scores="batch_norm").refused == dict.fromkeys(
        ("0", "2"), "it has no scores"
    )


def test_first_order_importance_is_that_of_a_naive_loop():
    module, inputs = network("mlp")
    spec = spec_of("mlp")
    batches = [inputs, inputs + 1]
    score = first_order_scores(spec, module, lambda m, x: m(x).square().sum(), batches)["0"]
    sum(module(x).square().sum() for x in batches).backward()
    found = [(p.detach(), p.grad) for p in module.parameters()]
    for neuron in range(8):
        own = [(0, neuron), (1, neuron), (2, (slice(None), neuron))]
        expected = sum(
            float((found[i][0][place] * found[i][1][place]).abs().sum()) for i, place in own
        )
        assert float(score[neuron]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "holds no object"), ("{", "no JSON file"), ('{"9": [1]}', "no space of: 0, 2"),
        ('{"0": [1, 2]}', "no list of finite numbers of length 8"),
        ('{"0": [1, 2, 3, 4, 5, 6, 7, NaN]}', "no list of finite numbers of length 8"),
        ('{"0": [[1], "a"]}', "no list of finite numbers of length 8"),
    ],
)  # fmt: skip
def test_scores_of_the_user_are_checked(tmp_path: Path, text: str, words: str):
    file = tmp_path / "scores.json"
    file.write_text(text)
    with pytest.raises(DataFileError, match=words):
        read_scores(file, spec_of("mlp"))


def test_scores_of_the_user_are_taken(tmp_path: Path):
    module, inputs = network("mlp")
    spec = spec_of("mlp")
    (tmp_path / "scores.json").write_text(json.dumps({"0": [8, 1, 7, 2, 6, 3, 5, 4]}))
    save_file({"0": torch.tensor([8.0, 1, 7, 2, 6, 3, 5, 4])}, tmp_path / "scores.safetensors")
    for name in ("scores.json", "scores.safetensors"):
        scores = read_scores(tmp_path / name, spec)
        pruned = prune(module, inputs, keep=0.5, scores=scores, spec=spec)
        assert pruned.removal.kept == {"0": (0, 2, 4, 6)}


# -- without the module ---------------------------------------------------------------------------


def test_tensors_are_pruned_by_a_spec_alone(tmp_path: Path):
    module, inputs = network("attention")
    shares = {"qk": 0.5, "v": 0.5, "kv_heads": 0.5}
    pruned = prune_state(module.state_dict(), spec_of("attention"), shares)
    assert pruned.state["q.weight"].shape == (6, 5)
    assert pruned.error is None
    file = tmp_path / "pruned.safetensors"
    save_pruned(pruned, file)
    load_pruned(module, file, inputs)
    assert (module.num_heads, module.num_kv_heads, module.head_dim) == (2, 1, 3)


def test_tensors_of_another_network_are_refused():
    removal = Removal(spec_of("mlp"), {"0": (1, 2)})
    with pytest.raises(ArchitectureError, match="'other' is not one of the spec's"):
        removal.remove({"other": torch.zeros(1)})
    with pytest.raises(ArchitectureError, match=r"'0.bias' has shape \(3,\); the spec has \(8,\)"):
        removal.remove({"0.bias": torch.zeros(3)})
    with pytest.raises(ArchitectureError, match=r"'0.bias' has shape \(3,\); the spec has \(2,\)"):
        removal.restore({"0.bias": torch.zeros(3)})
