"""``nngraph prune``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from converters import permutation_spec
from nngraph.pruning import load_pruned

CODE = """
import torch
from torch import nn

def make():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.LayerNorm(6),
        nn.Linear(6, 2),
    )
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module, its checkpoint under a prefix, and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pruned_network.py").write_text(CODE)
    space: dict = {}
    exec(CODE, space)
    module = space["make"]()
    module[1].running_mean.normal_()
    save_file({f"net.{n}": v for n, v in module.state_dict().items()}, "model.safetensors")
    x = torch.randn(20, 3)
    save_file({"inputs": x, "answers": torch.arange(20) % 2}, "data.safetensors")
    return module.eval(), x, space["make"]


WORDS = ["prune", "model.safetensors", "--module", "pruned_network:make", "--inputs", "2x3"]


def test_a_checkpoint_is_pruned_and_loaded(place, answer):
    module, x, make = place
    code, told = answer(*WORDS, "--keep", 0.5, "--out", "pruned.safetensors")
    assert code == 0
    assert told["kept"].keys() == {"0"}
    assert "mean, a norm" in told["refused"]["3"]
    assert told["error"] < 1e-9
    written = load_file("pruned.safetensors")
    assert written["net.0.weight"].shape == (4, 3)
    assert told["shapes"]["3.weight"] == [6, 4]
    smaller = make().eval()
    load_pruned(smaller, "pruned.safetensors", x)
    gone = sorted(set(range(8)) - set(told["kept"]["0"]))
    with torch.no_grad():
        module[3].weight[:, gone] = 0
    torch.testing.assert_close(smaller(x), module(x))


@pytest.mark.parametrize(
    "words",
    [
        ["--keep", "0=0.25"], ["--parameters", 0.7], ["--flops", 0.7],
        ["--keep", 0.5, "--scores", "batch_norm"],
        ["--keep", 0.5, "--scores", "importance", "--data", "data.safetensors"],
        ["--keep", 0.5, "--scores", "scores.json", "--exclude", "3"],
    ],
    ids=lambda words: " ".join(map(str, words)),
)  # fmt: skip
def test_neurons_are_chosen_in_many_ways(place, command, words):
    with open("scores.json", "w") as file:
        json.dump({"0": list(range(8)), "3": [1] * 6}, file)
    code, out, _ = command(*WORDS, *words)
    assert code == 0
    assert "neurons removed and neurons masked differ by" in out


def test_a_folder_of_shards_comes_out_as_one(place, answer):
    _, x, make = place
    tensors = load_file("model.safetensors")
    files = {name: f"model-{int(name[4] > '2')}.safetensors" for name in tensors}
    Path("model").mkdir()
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, f"model/{file}")
    index = json.dumps({"metadata": {}, "weight_map": files})
    Path("model/model.safetensors.index.json").write_text(index)
    code, _ = answer(*WORDS[:1], "model", *WORDS[2:], "--keep", 0.5, "--out", "pruned")
    assert code == 0
    module = make()
    load_pruned(module, "pruned", x)
    assert module[0].out_features == 4


def test_a_spec_alone_will_do(place, answer):
    module, x, make = place
    with open("spec.json", "w") as file:
        file.write(permutation_spec(module, x).to_json())
    words = [*WORDS[:2], "--spec", "spec.json", "--keep", "0=0.5", "--out", "small.safetensors"]
    code, told = answer(*words)
    assert (code, told["error"]) == (0, None)
    smaller = make()
    load_pruned(smaller, "small.safetensors", x)
    assert isinstance(smaller[1], nn.BatchNorm1d)
    assert smaller[1].num_features == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "exactly one of --keep, --parameters and --flops"),
        (["--keep", "0.5", "--flops", "0.5"], "exactly one of --keep"),
        (["--keep", "half"], "expected a share such as 0.5, or SPACE=SHARE"),
        (["--keep", "2"], "expected one above 0, at most 1"),
        (["--keep", "x=0.5"], "'x' fits no space"),
        (["--keep", "0.5", "--scores", "importance"], "--data go together"),
        (["--keep", "0.5", "--scores", "guess"], "guess cannot be read"),
    ],
)
def test_mistakes_are_told(place, command, words, told):
    code, _, error = command(*WORDS, *words)
    assert code == 2
    assert told in error


def test_flops_need_the_module(place, command):
    code, _, error = command("prune", "model.safetensors", "--flops", 0.5)
    assert code == 2
    assert "missing: --module, which --flops needs" in error
