"""``nngraph match`` on checkpoints of any architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from converters import permutation_spec

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
