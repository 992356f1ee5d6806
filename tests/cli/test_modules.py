"""``inspect`` and ``convert`` on networks that can be run, and on checkpoints of any network."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converters import load_graph
from nngraph.cli import inspecting
from nngraph.cli.networks import example_inputs
from nngraph.graph import Architecture

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

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)

    def forward(self, tokens, scale):
        return self.head(torch.tanh(self.embed(tokens)) * scale)

class Accumulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.two(torch.cumsum(self.one(x), -1))

class Faint(Tokens):
    def forward(self, tokens, scale):
        h = self.embed(tokens)
        return h.sum(-1, keepdim=True) + 1e-8 * self.head(torch.tanh(h)) * scale

made = Net()
number = 3
def broken():
    raise RuntimeError("no weights today")
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = f"user_networks_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    return name


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    weights = {"w": torch.randn(3, 5).numpy(), "v": torch.randn(5, 2).numpy()}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Tanh", ["h"], ["a"]),
            helper.make_node("MatMul", ["a", "v"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path / "net.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_a_module_is_inspected_and_proven(user_module: str, command):
    word = f"{user_module}:Net"
    code, out, err = command("inspect", word, "--inputs", "2x3x6x6", "--maximal", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["kind"] == "module"
    # BatchNorm counts its batches in a whole number, which is no parameter.
    assert data["parameters"] == 4 * 27 + 4 + 16 + 16 + 4 + 8 + 2
    assert [(s["name"], s["size"], s["within"]) for s in data["spaces"]] == [("one", 4, [])]
    assert "two.weight[1]" in data["spaces"][0]["ties"]
    assert data["verification"]["holds"] is True
    assert data["verification"]["missed"] == []
    assert data["verification"]["incomplete"] == []
    assert [(s["name"], s["status"]) for s in data["verification"]["spaces"]] == [("one", "holds")]
    assert (data["verification"]["ran"], data["verification"]["runs"]) == (False, None)
    assert data["fixed"] == []
    architecture = Architecture.from_dict(data["definition"])
    assert architecture.num_edges == data["edges"]
    assert {b["parameter"] for b in data["blocks"]} >= {None, "one.weight", "head.weight"}
    code, out, _ = command("inspect", f"{user_module}:made", "--inputs", "2x3x6x6", "--verify")
    assert code == 0
    for words in ("1 neuron spaces", "spaces, and the axes that each ties", "one.weight[0]",
                  "1 x 4 x 3 x 9", "is the relabelled graph"):  # fmt: skip
        assert words in out


def test_inputs_of_several_kinds(user_module: str, command):
    line = ("--inputs", "2x5:int64:9", "--inputs", "2x5x1", "--verify", "--json")
    code, out, _ = command("inspect", f"{user_module}:Tokens", *line)
    assert code == 0
    assert [s["name"] for s in json.loads(out)["spaces"]] == ["embed"]
    whole, real, one = example_inputs(["3x4:int32:7", "2x1:float64", ""])
    assert (whole.dtype, whole.shape, real.dtype) == (torch.int32, (3, 4), torch.float64)
    assert 2 < int(whole.max()) < 7
    assert one.shape == ()


def test_what_is_not_proven_is_exit_code_1_and_no_file(user_module: str, tmp_path: Path, command):
    line = ("--inputs", "2x5:int64:9", "--inputs", "2x5x1", "--verify")
    code, out, _ = command("inspect", f"{user_module}:Faint", *line, "--json")
    data = json.loads(out)["verification"]
    assert (code, data["status"], data["holds"]) == (1, "not proven", False)
    assert [(s["status"], s["unseen"]) for s in data["spaces"]] == [
        ("not proven", ["embed.weight[1]", "head.weight[1]"])
    ]
    file = tmp_path / "g.safetensors"
    code, out, _ = command("convert", f"{user_module}:Faint", str(file), *line)
    assert code == 1
    assert "was not written: it is not proven" in out
    assert not file.exists()


def test_freedom_that_is_lost_is_told(user_module: str, command):
    code, out, _ = command("inspect", f"{user_module}:Accumulated", "--inputs", "2x3")
    assert code == 0
    lost = out.split("freedom that was lost")[1]
    assert "cumsum" in lost
    assert "one.weight" in lost


def test_onnx_files(onnx_file: Path, tmp_path: Path, command):
    code, out, _ = command("inspect", str(onnx_file), "--verify", "--json")
    assert code == 0
    data = json.loads(out)
    assert (data["kind"], data["neurons"], data["edges"]) == ("onnx", 10, 25)
    assert data["spaces"][0]["ties"] == ["w[1]", "v[0]"]
    code, _, _ = command("convert", str(onnx_file), str(tmp_path / "g.safetensors"), "--verify")
    assert code == 0
    graph = load_graph(tmp_path / "g.safetensors")
    assert graph.architecture == Architecture.from_dict(data["definition"])
    code, out, _ = command("inspect", str(onnx_file), "--inputs", "4x3")
    assert code == 0


def test_a_checkpoint_with_its_architecture(user_module: str, tmp_path: Path, command):
    out = tmp_path / "net.safetensors"
    line = (f"{user_module}:made", str(out), "--inputs", "2x3x6x6", "--json")
    code, text, _ = command("convert", *line)
    assert code == 0
    (tmp_path / "net.json").write_text(text)
    graph = load_graph(out)
    (tmp_path / "plain.json").write_text(graph.architecture.to_json())
    state = graph.parameters()
    torch.save(state, tmp_path / "c.pt")
    for name in ("net.json", "plain.json"):
        code, text, _ = command("inspect", "c.pt", "--architecture", name, "--json")
        assert code == 0
        assert json.loads(text)["definition"] == graph.architecture.to_dict()
    assert command("convert", "c.pt", "again.safetensors", "--architecture", "net.json")[0] == 0
    again = load_graph(tmp_path / "again.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in again.parameters().items())
    torch.save({**state, "one.bias": torch.zeros(5)}, tmp_path / "w.pt")
    code, _, err = command("inspect", "w.pt", "--architecture", "net.json")
    assert code == 2
    assert "w.pt: parameter 'one.bias' has shape (5,); expected (4,)" in err
    (tmp_path / "bad.json").write_text("{")
    for name, words in (("bad.json", "no JSON file"), ("missing.json", "missing.json")):
        code, _, err = command("inspect", "c.pt", "--architecture", name)
        assert (code, words in err) == (2, True)
    (tmp_path / "other.json").write_text("{}")
    assert "other.json" in command("inspect", "c.pt", "--architecture", "other.json")[2]


def test_a_proof_that_fails_is_exit_code_1_and_no_file(
    user_module: str, tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
):
    real = inspecting.verify

    def strict(*args, **options):
        return real(*args, **{**options, "tolerance": -1.0})

    monkeypatch.setattr(inspecting, "verify", strict)
    word, shape = f"{user_module}:made", ("--inputs", "2x3x6x6")
    code, out, err = command("inspect", word, *shape, "--verify")
    assert (code, err) == (1, "")
    assert "FAILS" in out
    code, out, _ = command("convert", word, "g.safetensors", *shape, "--verify")
    assert code == 1
    assert "was not written" in out
    assert not (tmp_path / "g.safetensors").exists()
    assert command("convert", word, "g.safetensors", *shape)[0] == 0
    assert (tmp_path / "g.safetensors").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("inspect", "USER:Net"), ["missing: --inputs", "inspect --help"]),
        (("inspect", "USER:Net", "--inputs", "3by4"), ["'3by4'", "1x16:int64"]),
        (("inspect", "USER:Net", "--inputs", "3:abacus"), ["'3:abacus'"]),
        (("inspect", "USER:Net", "--inputs", "3:int64:0"), ["at least 1"]),
        (("inspect", "USER:Net", "--inputs", "2x3x6x6", "--activation", "relu"), ["--activation"]),
        (("inspect", "USER:Net", "--inputs", "2x7"), ["Net"]),
        (("inspect", "USER:number", "--inputs", "3"), ["gave a int"]),
        (("inspect", "USER:broken", "--inputs", "3"), ["RuntimeError: no weights today"]),
        (("inspect", "USER:nothing", "--inputs", "3"), ["AttributeError"]),
        (("inspect", "no_such_package:net", "--inputs", "3"), ["ModuleNotFoundError"]),
        (("inspect", "missing.onnx"), ["missing.onnx"]),
        (("inspect", "c.pt", "--verify"), ["--verify", "weights only"]),
        (("convert", "c.pt", "o.safetensors", "--inputs", "3"), ["--inputs", "file of weights"]),
        (("inspect", "c.pt", "--architecture", "a.json", "--activation", "relu"), ["own"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes_are_told_in_one_line(line, words: list[str], user_module: str, command):
    code, out, err = command(*(word.replace("USER", user_module) for word in line))
    assert (code, out) == (2, "")
    assert err.startswith("nngraph: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
