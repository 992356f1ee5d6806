"""Folders of ONNX files as zoos: each file holds its own architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters import import_zoo, load_onnx
from converters.populations import architectures
from nngraph.errors import DataFileError, InvalidGraphError, UnsupportedModuleError
from nngraph.graph import forward
from nngraph.zoo import find_problems

pytest.importorskip("onnx")

from onnx import helper
from onnx_files.onnx_cases import model, numbers, write


def mlp(width: int, seed: int, **shapes: object) -> object:
    """Return a model 2-width-1 as exporters of torch write it."""
    weights = {
        "0.weight": numbers(width, 2, seed=seed), "0.bias": numbers(width, seed=seed + 1),
        "2.weight": numbers(1, width, seed=seed + 2), "2.bias": numbers(1, seed=seed + 3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["a"], transB=1),
        helper.make_node("Tanh", ["a"], ["h"]),
        helper.make_node("Gemm", ["h", "2.weight", "2.bias"], ["y"], transB=1),
    ]
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    return model(nodes, {"x": np.zeros((1, 2), np.float32)}, ["y"], weights, **shapes)


def cnn(seed: int) -> object:
    weights = {
        "conv.weight": numbers(3, 1, 3, 3, seed=seed), "conv.bias": numbers(3, seed=seed + 1),
        "head.weight": numbers(2, 3, seed=seed + 2), "head.bias": numbers(2, seed=seed + 3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    image = {"x": np.zeros((1, 1, 5, 5), np.float32)}
    return model(nodes, image, ["y"], weights, shapes={"x": ["batch", 1, 5, 5]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two MLPs of each of two widths, two CNNs, and a plain checkpoint among them."""
    root = tmp_path / "nets"
    (root / "deep").mkdir(parents=True)
    for seed in range(4):
        write(mlp(3 + seed % 2, 10 * seed), root / f"mlp_{seed}.onnx")
    for seed in range(2):
        write(cnn(seed), root / "deep" / f"cnn_{seed}.onnx")
    torch.save(plain(), root / "plain.pt")
    rows = [f"mlp_{i}.onnx,0.{i}" for i in range(4)]
    rows += [f"cnn_{i}.onnx,0.{i + 4}" for i in range(2)] + ["plain.pt,0.9"]
    (tmp_path / "facts.csv").write_text("\n".join(["file,accuracy", *rows]))
    return root


def plain() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)).state_dict()


def test_a_folder_of_onnx_files_and_others_becomes_a_zoo(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    traced: list[nn.Module] = []
    derive: Callable[..., object] = architectures.to_architecture
    monkeypatch.setattr(
        architectures, "to_architecture", lambda m, x: (traced.append(m), derive(m, x))[1]
    )
    zoo = import_zoo(tmp_path / "zoo", folder, facts=str(tmp_path / "facts.csv"))
    assert (len(zoo), len(zoo.architectures), len(traced)) == (7, 4, 3)
    assert find_problems(zoo.path) == []
    # Each network runs as its file does, and has the number of its row.
    seen = {}
    for file in sorted(folder.rglob("*.onnx")):
        module = load_onnx(file)
        state = module.state_dict()
        number = next(n for n in range(7) if same(zoo.network(n).parameters(), state))
        seen[file.stem] = round(float(zoo.fact("accuracy")[number]), 3)
        if "mlp" in file.stem:
            x = torch.tensor([[0.3, -1.2]])
            with torch.no_grad():
                torch.testing.assert_close(forward(zoo.network(number), x), module(x))
    assert seen == {
        "mlp_0": 0.0, "mlp_1": 0.1, "mlp_2": 0.2, "mlp_3": 0.3, "cnn_0": 0.4, "cnn_1": 0.5
    }  # fmt: skip
    # What was derived is kept beside the zoo; the axes in these files are known.
    (tmp_path / "zoo.architectures.json").replace(tmp_path / "again.architectures.json")
    again = import_zoo(tmp_path / "again", folder, files="onnx", order="in-out")
    assert (set(again.architectures) < set(zoo.architectures), len(traced)) == (True, 3)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_given_architecture_is_of_the_other_files(folder: Path, tmp_path: Path):
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 6), nn.Sigmoid(), nn.Linear(6, 1))

    zoo = import_zoo(
        tmp_path / "zoo", folder, files="mlp_0|plain", module=make, inputs=torch.zeros(1, 2)
    )
    assert sorted(map(str, zoo.architectures)) == ["2-3-1 tanh", "2-6-1 sigmoid"]
    with pytest.raises(InvalidGraphError, match=r"mlp_1.onnx: the tensors do not fit"):
        import_zoo(
            tmp_path / "other", folder, files="mlp_1", module={"mlp_1": make},
            inputs=torch.zeros(1, 2),
        )  # fmt: skip


def test_onnx_files_that_say_too_little_are_named(tmp_path: Path):
    (tmp_path / "nets").mkdir()
    proto = mlp(3, 0)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    write(proto, tmp_path / "nets" / "open.onnx")
    with pytest.raises(InvalidGraphError, match=r"open.onnx: .* give an example input"):
        import_zoo(tmp_path / "zoo", tmp_path / "nets")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "nets", inputs=torch.zeros(1, 2))
    assert str(zoo.architecture) == "2-3-1 tanh"
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    write(model(nodes, {"x": np.zeros((1, 2), np.float32)}, ["y"]), tmp_path / "nets" / "a.onnx")
    with pytest.raises(UnsupportedModuleError, match=r"a\.onnx: .*NonZero"):
        import_zoo(tmp_path / "other", tmp_path / "nets")
    (tmp_path / "nets" / "b.onnx").write_bytes(b"\x08\x08\x12\x07")
    one = import_zoo(
        tmp_path / "one", tmp_path / "nets", inputs=torch.zeros(1, 2), unreadable="leave"
    )
    lost = [note.partition(":")[0] for note in one.manifest.recipe["notes"][1:]]
    assert (len(one), lost) == (1, ["a.onnx", "b.onnx"])
    (tmp_path / "nets" / "a.onnx").unlink()
    with pytest.raises(DataFileError, match=r"b\.onnx is damaged or no ONNX file"):
        import_zoo(tmp_path / "other", tmp_path / "nets")
    with pytest.raises(DataFileError, match="or import its folder"):
        import_zoo(tmp_path / "other", tmp_path / "nets" / "open.onnx")
