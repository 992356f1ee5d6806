"""``nngraph zoo import`` and ``zoo export``: other people's files in, files for others out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nngraph.zoo import Zoo

CODE = """
import torch
from torch import nn

def make(width, depth=1):
    layers = [nn.Linear(2, width), nn.Tanh()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))

def other():
    return make(7), torch.zeros(1, 2)

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six MLPs of two widths, a table of them, and the code that makes them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "code_of_nets.py").write_text(CODE)
    lines = ["name,width,acc"]
    for i in range(6):
        width = 3 + i % 2
        module = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1))
        torch.save(module.state_dict(), tmp_path / "nets" / f"n{i}.pt")
        lines += [f"n{i},{width},0.{i}"]
    (tmp_path / "t.csv").write_text("\n".join([*lines, "gone,3,0.5"]))
    return tmp_path


def test_networks_that_a_factory_makes(folder: Path, command, answer):
    line = ("zoo", "import", "nets", "zoo", "--facts", "t.csv", "--inputs", "1x2")
    code, out, _ = command(*line, "--module", "code_of_nets:make", "--columns", "score=acc")
    assert code == 0
    assert "2-3-1 tanh, 13 parameters: 3" in out
    assert out.endswith("1 rows without a file: gone\n")
    zoo = Zoo.open("zoo")
    assert (zoo.manifest.target, sorted(zoo.facts)) == ("score", ["score", "source", "split"])
    code, info = answer("zoo", "info", "zoo")
    assert info["origins"][0]["recipe"]["facts"] == "t.csv"


def test_architectures_by_patterns(folder: Path, command, answer):
    code, out, err = command(
        "zoo", "import", "nets", "zoo", "--module", "n[024]=code_of_nets:other",
        "--module", "n[135]=code_of_nets:other",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "nets/n0.pt: the tensors do not fit the architecture" in err
    for words, expected in (
        (("--module", "code_of_nets"), "names no code; expected package.module:factory"),
        (("--module", "code_of_nets:number"), "is a int; expected a function"),
        (("--module", "code_of_nets:none"), "code_of_nets:none cannot be made: AttributeError"),
        (("--module", "a=b:c", "--module", "code_of_nets:make"), "expected PATTERN=code_of_nets:"),
        (("--module", "(=b:c"), "--module has the pattern"),
        (("--architecture", "absent.json"), "absent.json"),
        (("--key", "name"), "facts, which it is of, is missing"),
        (("--facts", "t.csv", "--unlisted", "perhaps"), "perhaps"),
    ):
        code, out, err = command("zoo", "import", "nets", "zoo", *words)
        assert (code, out) == (2, "")
        assert expected in err
    assert not Path("zoo").exists()


def test_exports_for_other_programs(folder: Path, command, answer):
    line = ("zoo", "import", "nets", "zoo", "--facts", "t.csv", "--activation", "tanh")
    assert command(*line)[0] == 0
    code, told = answer("zoo", "export", "zoo", "plain", "--format", "checkpoints")
    assert (code, told) == (0, {"out": "plain", "format": "checkpoints", "networks": 6})
    line = ("zoo", "export", "zoo", "hub", "--format", "huggingface", "--table", "jsonl")
    code, out, _ = command(*line)
    assert (code, out) == (
        0, "hub: 6 networks, for: hf upload --repo-type dataset OWNER/NAME hub\n"
    )  # fmt: skip
    for name in ("plain", "hub"):
        code, info = answer("zoo", "import", name, f"{name}-back")
        assert (code, info["facts"]) == (0, answer("zoo", "info", "zoo")[1]["facts"])
    code, out, err = command(*line, "--metric", "acc")
    assert (code, out) == (2, "")
    assert "--metric is of the format ogb; leave it out" in err
    code, out, err = command("zoo", "import", "plain", "again", "--facts", "t.csv")
    assert (code, out) == (2, "")
    assert "says itself what its networks are; leave out facts" in err
