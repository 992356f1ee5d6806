from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from converters import import_zoo
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError, NonFiniteError
from nngraph.graph import Activation, Architecture
from nngraph.testing import random_stack, structured_architectures
from nngraph.zoo import Zoo, find_problems

SINE = Activation("sine", w0=30)


def mlp(width: int, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1)).state_dict()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 networks as DWSNets keeps its INRs: the class and the image in the names of folders."""
    root = tmp_path / "inrs"
    for i in range(24):
        place = root / f"mnist_png_training_{i % 4}_{i // 2}" / "checkpoints"
        place.mkdir(parents=True, exist_ok=True)
        torch.save(mlp(5 if i % 3 else 6, i), place / f"model_{i}.pth")
    return root


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_a_folder_of_state_dicts_becomes_a_zoo(folder: Path, tmp_path: Path):
    zoo = import_zoo(
        tmp_path / "zoo", folder, activations=SINE, label=r"training_(\d)_", group=r"_(\d+)/",
        shard_size=5,
    )  # fmt: skip
    assert (len(zoo), zoo.class_names) == (24, ("0", "1", "2", "3"))
    assert [str(a) for a in zoo.architectures] == ["2-6-1 sine(w0=30)", "2-5-1 sine(w0=30)"]
    assert find_problems(zoo.path) == []
    # Every network is there once, bit for bit, with its own label and group.
    wanted = {tuple(mlp(5 if i % 3 else 6, i)["0.bias"].tolist()): i for i in range(24)}
    seen = set()
    for number in range(24):
        graph = zoo.network(number)
        i = wanted[tuple(graph.parameters()["0.bias"].tolist())]
        for name, value in mlp(5 if i % 3 else 6, i).items():
            assert torch.equal(graph.parameters()[name], value)
        assert int(zoo.labels[number]) == i % 4
        assert int(zoo.fact("source")[number]) == i // 2
        seen.add(i)
    assert len(seen) == 24
    before = contents(zoo.path)
    (zoo.path / zoo.shards[1].file).unlink()
    import_zoo(
        tmp_path / "zoo", folder, activations=SINE, label=r"training_(\d)_", group=r"_(\d+)/",
        shard_size=5,
    )  # fmt: skip
    assert contents(zoo.path) == before


def test_a_folder_without_labels_is_a_zoo_too(folder: Path, tmp_path: Path):
    zoo = import_zoo(tmp_path / "zoo", folder)
    assert (zoo.class_names, zoo.manifest.target) == ((), "source")
    assert len(torch.unique(zoo.group_keys())) == 24


def stacked(count: int = 9, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    states = [mlp(4, seed) for seed in range(count)]
    return {name: torch.stack([s[name] for s in states]).to(dtype) for name in states[0]}


@pytest.mark.parametrize("kind", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_file_of_stacked_networks(tmp_path: Path, kind: str, dtype: torch.dtype):
    values = {**stacked(dtype=dtype), "labels": torch.tensor([3, 10, 3, 3, 7, 7, 10, 3, 3])}
    file = tmp_path / f"all{kind}"
    if kind == ".pt":
        torch.save(values, file)
    elif kind == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in values.items()})
    else:
        save_file(values, file)
    zoo = import_zoo(tmp_path / "zoo", file, activations="tanh", shard_size=4)
    assert (len(zoo), zoo.class_names) == (9, ("3", "7", "10"))
    assert zoo.labels.tolist() == [0, 2, 0, 0, 1, 1, 2, 0, 0]
    assert str(zoo.architecture) == "2-4-1 tanh"
    for name, value in zoo.stack().parameters().items():
        assert value.dtype == dtype
        assert torch.equal(value, values[name])
    assert find_problems(zoo.path) == []


@pytest.mark.parametrize(
    ("name", "architecture"), structured_architectures(), ids=lambda value: str(value)[:16]
)
def test_networks_that_are_no_mlps_are_imported_with_their_architecture(
    tmp_path: Path, name: str, architecture: Architecture
):
    values = random_stack(architecture, 3, 0).parameters()
    torch.save(values, tmp_path / "all.pt")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "all.pt", architecture=architecture)
    for key, value in zoo.stack().parameters().items():
        assert torch.equal(value, values[key])


class Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code in the file was run')",))


def test_no_code_in_a_file_is_run(tmp_path: Path):
    (tmp_path / "nets").mkdir()
    torch.save({"0.weight": Trap()}, tmp_path / "nets" / "a.pth")
    np.savez(tmp_path / "trap.npz", a=np.array([Trap()], dtype=object))
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Trap()))
    for source in ("nets", "trap.npz", "plain.npz"):
        with pytest.raises(DataFileError):
            import_zoo(tmp_path / "zoo", tmp_path / source)
    assert not (tmp_path / "zoo").exists()


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path):
    def refused(kind: type[NNGraphError], match: str, source: Path, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            import_zoo(tmp_path / "zoo", source, **options)

    refused(DataFileError, "finds nothing in 'mnist_png", folder, label=r"test_(\d)")
    refused(InvalidGraphError, "no regular expression with a group", folder, label="training")
    refused(InvalidGraphError, "no regular expression with a group", folder, label="(")
    (tmp_path / "none").mkdir()
    refused(DataFileError, "has no files ending in", tmp_path / "none")
    refused(DataFileError, "absent.pt", tmp_path / "absent.pt")
    wrong = {**stacked(), "2.bias": stacked(8)["2.bias"]}
    torch.save(wrong, tmp_path / "a.pt")
    refused(InvalidGraphError, "'2.bias' has 8 entries; expected 9", tmp_path / "a.pt")
    torch.save({**stacked(), "labels": torch.rand(9)}, tmp_path / "b.pt")
    refused(InvalidGraphError, "no whole numbers", tmp_path / "b.pt")
    refused(InvalidGraphError, "is one file; label and group", tmp_path / "b.pt", label="(a)")
    bad = stacked()
    bad["0.bias"][4, 1] = float("nan")
    torch.save(bad, tmp_path / "c.pt")
    refused(NonFiniteError, "'0.bias'", tmp_path / "c.pt")
    torch.save({"lonely": torch.ones(3, 4, 5, 6)}, tmp_path / "d.pt")
    refused(InvalidGraphError, "d.pt: ", tmp_path / "d.pt")
    assert not (tmp_path / "zoo").exists() or not Zoo.open(tmp_path / "zoo", partial=True).shards
