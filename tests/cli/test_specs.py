"""``nngraph spec``, and the options that name specs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from converters import load_spec, verify
from nngraph.cli import specs
from nngraph.cli.options.shared import Specified

CODE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
"""


@pytest.fixture
def word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = f"spec_networks_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    return f"{name}:net"


def test_a_spec_is_kept_and_proven(word, tmp_path, answer, command):
    code, found = answer("spec", word, "s.json", "--inputs", "1x3", "--verify")
    assert (code, found["spaces"], found["tensors"], found["status"]) == (0, {"0": 4}, 4, "holds")
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert verify(load_spec(tmp_path / "s.json"), net, torch.randn(5, 3)).holds
    code, found = answer("spec", word, "m.json", "--inputs", "1x3", "--maps")
    assert (code, found["dimension"]) == (0, 4)
    assert load_spec(tmp_path / "m.json").generators[0].kind == "positive_scale"
    code, out, _ = command("spec", word, "s.json", "--inputs", "1x3")
    assert (code, "written: s.json" in out, "1 neuron spaces" in out) == (0, True, True)


def test_what_is_not_proven_is_not_written(word, tmp_path, command, monkeypatch):
    real = specs.verify
    monkeypatch.setattr(specs, "verify", lambda *args: real(*args, tolerance=-1.0))
    code, out, _ = command("spec", word, "s.json", "--inputs", "1x3", "--verify")
    assert (code, "s.json was not written" in out) == (1, True)
    assert not (tmp_path / "s.json").exists()


def test_checkpoints_are_opened_with_the_spec_that_is_named(word, tmp_path, command):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    assert command("spec", word, "s.json", "--inputs", "1x3")[0] == 0
    for options in (
        Specified(module=word, inputs=["1x3"]), Specified(spec="s.json"), Specified(),
    ):  # fmt: skip
        one, other = specs.read_networks(options, ["a.pt", "a.pt"])
        assert one.spec == other.spec
        assert [space.size for space in one.spec.spaces] == [4]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Specified(module="a:b", spec="s.json"), "leave one of them out"),
        (Specified(inputs=["1x3"]), "--inputs is for --module"),
    ],
)
def test_options_that_do_not_go_together(options, told):
    with pytest.raises(Exception, match=told):
        specs.read_spec(options)


def test_the_file_is_json(word, command):
    code, _, err = command("spec", word, "s.txt", "--inputs", "1x3")
    assert (code, "expected an ending .json" in err) == (2, True)
