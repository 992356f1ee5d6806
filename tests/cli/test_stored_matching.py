"""``nngraph match`` on checkpoints of any architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from converters import load_spec, permutation_spec, symmetry_spec

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(self.one(x))
        return self.head((x + torch.relu(self.two(x))).mean((2, 3)))
"""


def make_net(seed: int = 0) -> nn.Module:
    names: dict[str, type[nn.Module]] = {}
    exec(CODE, names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return names["Net"]().eval()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files of a network and of the same relabelled, in float16; the word of its module."""
    monkeypatch.chdir(tmp_path)
    name = f"stored_networks_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    net = make_net()
    spec = permutation_spec(net, torch.zeros(1, 3, 5, 5))
    state = {n: v.half() if v.is_floating_point() else v for n, v in net.state_dict().items()}
    save_file({**state, "ema": torch.ones(2, dtype=torch.int32)}, "a.safetensors")
    torch.save({"model": spec.permute(state, spec.sample(2))}, "b.ckpt")
    Path("spec.json").write_text(spec.to_json())
    return f"{name}:Net"


def test_a_checkpoint_comes_out_as_the_first(pair, answer, command):
    ways = (["--spec", "spec.json"], ["--module", pair, "--inputs", "1x3x5x5"])
    for number, words in enumerate(ways):
        out = f"out{number}.safetensors"
        code, found = answer("match", "a.safetensors", "b.ckpt", *words, "--out", out)
        assert code == 0
        assert found["distance"]["before"] > 0.1
        assert found["distance"]["after"] == 0
        assert found["likeness"]["one"] == pytest.approx(1)
        assert found["tensors"] == {"used": 11, "copied": [], "missing": []}
        one, other = load_file("a.safetensors"), load_file(out)
        assert all(torch.equal(value, one[name]) for name, value in other.items())
        assert all(value.dtype == one[name].dtype for name, value in other.items())
    code, out, _ = command("match", "b.ckpt", "a.safetensors", *ways[0])
    assert code == 0
    assert "1 not in the spec and copied (ema)" in out
    assert "cosine of matched neurons" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--signs"], "--signs is for graph files and MLPs"),
        (["--method", "sinkhorn"], "--method sinkhorn is for graph files and MLPs"),
        (["--data", "a.safetensors"], "--data is for graph files"),
        (["--starts", "0"], "--starts is 0; expected at least 1"),
        (["--module", "a:b"], "leave one of them out"),
    ],
)
def test_mistakes_are_told_in_one_line(pair, command, words, told):
    code, out, err = command("match", "a.safetensors", "b.ckpt", "--spec", "spec.json", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [["match", "a.safetensors", "b.ckpt"], ["merge", "b.ckpt", "a.safetensors"],
     ["prune", "a.safetensors", "--keep", "0.5"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_file_that_is_read_is_not_written(pair, command, words):
    before = Path("a.safetensors").read_bytes()
    code, _, err = command(*words, "--spec", "spec.json", "--out", "./a.safetensors")
    assert code == 2
    assert "is the file that is read; choose another name" in err
    assert Path("a.safetensors").read_bytes() == before


def test_networks_are_merged_into_a_checkpoint(pair, answer, command):
    words = ["merge", "a.safetensors", "b.ckpt", "--spec", "spec.json"]
    code, found = answer(*words, "--out", "m.safetensors")
    assert code == 0
    # The same network twice, under other labels, is itself.
    one, merged = load_file("a.safetensors"), load_file("m.safetensors")
    assert one.keys() == merged.keys()
    assert all(torch.equal(value, merged[name]) for name, value in one.items())
    assert found["tensors"] == {
        "merged": 10, "of_the_first": ["norm.num_batches_tracked"], "measured": [],
        "copied": ["ema"], "copied_but_different": ["ema"], "left_out": [],
    }  # fmt: skip
    assert [each["weight"] for each in found["of"]] == [0.5, 0.5]
    assert found["of"][1]["distance"]["after"] == 0
    assert found["of"][1]["likeness"]["one"] == pytest.approx(1)
    code, out, _ = command(*words, "--out", "folder", "--weights", "2", "1", "--only", "head.*")
    assert (code, Path("folder/model.safetensors").is_file()) == (0, True)
    assert "2 merged; 9 of the first" in out
    code, found = answer(*words, "--out", "n.safetensors", "--base", "a.safetensors")
    assert [each["weight"] for each in found["of"]] == [0.0, 0.5, 0.5]


def test_statistics_and_losses_are_measured_on_data(pair, answer, command):
    x = torch.randn(64, 3, 5, 5)
    save_file({"inputs": x, "answers": torch.randint(2, (64,))}, "data.safetensors")
    words = ["merge", "a.safetensors", "b.ckpt", "--data", "data.safetensors"]
    module = ["--module", pair, "--inputs", "1x3x5x5"]
    code, found = answer(*words, *module, "--out", "m.safetensors")
    assert (code, len(found["tensors"]["measured"])) == (0, 3)
    merged = load_file("m.safetensors")
    seen = nn.functional.conv2d(x, merged["one.weight"].float(), merged["one.bias"].float())
    torch.testing.assert_close(
        merged["norm.running_mean"].float(), seen.mean((0, 2, 3)), rtol=1e-2, atol=1e-3
    )
    path = found["loss"]["path"]
    assert path["after"]["height"] < 1e-6 < path["before"]["losses"][0]
    save_file({"inputs": x}, "inputs.safetensors")
    words[-1] = "inputs.safetensors"
    code, out, _ = command(*words, *module, "--out", "m.safetensors")
    assert (code, "3 measured" in out) == (0, True)
    code, _, err = command(*words, "--spec", "spec.json", "--out", "m.safetensors")
    assert (code, "--data is for the module" in err) == (2, True)


def test_networks_are_compared(pair, answer, command):
    words = ["--spec", "spec.json"]
    code, found = answer("diff", "a.safetensors", "b.ckpt", *words)
    assert (code, found["relation"], found["same_function"]) == (0, "relabelled", True)
    assert (found["copied"], found["cosine"]) == (["ema"], pytest.approx(1))
    spec = load_spec("spec.json")
    states = {}
    for name, seed in (("c", 1), ("d", 2)):
        states[name] = make_net(seed).state_dict()
        save_file(spec.permute(states[name], spec.sample(seed)), f"{name}.safetensors")
    code, out, _ = command("diff", "a.safetensors", "c.safetensors", *words)
    assert (code, "no sign that one was made from the other" in out) == (1, True)
    assert "head.weight" in out
    mixed = {
        n: 0.25 * v + 0.75 * states["d"][n] if v.is_floating_point() else v
        for n, v in states["c"].items()
    }  # fmt: skip
    save_file(mixed, "m.safetensors")
    code, found = answer("diff", "m.safetensors", "c.safetensors", "d.safetensors", *words)
    assert (code, found["coefficients"]) == (0, pytest.approx([0.25, 0.75], rel=1e-5))
    code, out, _ = command("diff", "a.safetensors", "c.safetensors", "d.safetensors", *words)
    assert (code, "left over" in out) == (1, True)


def test_networks_are_one_up_to_scales(pair, answer, command):
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    spec = symmetry_spec(net, torch.zeros(1, 3))
    Path("maps.json").write_text(spec.to_json())
    save_file(net.state_dict(), "one.safetensors")
    save_file(spec.act(net.state_dict(), spec.sample(3)), "other.safetensors")
    words = ["diff", "one.safetensors", "other.safetensors"]
    assert answer(*words, "--spec", "maps.json")[0] == 1
    code, found = answer(*words, "--spec", "maps.json", "--maps")
    assert (code, found["relation"]) == (0, "rounded")
    code, _, err = command(*words, "--maps")
    assert (code, "--maps needs --module" in err) == (2, True)
