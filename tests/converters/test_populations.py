from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from converters import import_zoo, state_dict_to_graph, to_architecture, to_state_dict
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


def test_files_that_cannot_be_read_stop_or_are_left_out_with_their_reasons(tmp_path: Path):
    root = tmp_path / "nets"
    (root / "odd").mkdir(parents=True)
    for i in range(3):
        torch.save(mlp(3, i), root / f"{i}.pt")
    (root / "1.pt").write_bytes((root / "1.pt").read_bytes()[:300])
    (root / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1")
    (root / "odd" / "adapter_config.json").write_text("{}")
    with pytest.raises(DataFileError, match=r"nets/1\.pt "):
        import_zoo(tmp_path / "zoo", root)
    zoo = import_zoo(tmp_path / "zoo", root, unreadable="leave")
    notes = zoo.manifest.recipe["notes"]
    assert (len(zoo), notes[0]) == (2, "3 files that cannot be read are left out:")
    assert [note.partition(":")[0] for note in notes[1:]] == ["1.pt", "odd", "pointer.pt"]
    assert "git lfs pull" in notes[3]
    # A network that can be read and does not fit is none of them.
    given = to_architecture(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(InvalidGraphError, match=r"0\.pt: "):
        import_zoo(tmp_path / "other", root, unreadable="leave", architecture=given)
    with pytest.raises(DataFileError, match=r"has no network that can be read\. 1 files"):
        import_zoo(tmp_path / "none", root, unreadable="leave", files="pointer")


def test_files_of_odd_names_and_links_are_told(tmp_path: Path):
    root = tmp_path / "nets"
    root.mkdir()
    torch.save(mlp(3, 0), root / "A.PT")
    (root / "gone.pt").symlink_to(root / "nowhere.pt")
    (root / "._A.pt").write_bytes(b"\0\5\x16\7" + bytes(99))
    (root / "inner").symlink_to(root)
    zoo = import_zoo(tmp_path / "zoo", root, unreadable="leave")
    notes = zoo.manifest.recipe["notes"]
    assert (len(zoo), notes[0]) == (1, "1 links to folders, which are not entered: inner")
    assert [note.partition(":")[0] for note in notes[2:]] == ["._A.pt", "gone.pt"]
    assert "what macOS keeps" in notes[2]
    assert "No such file" in notes[3]
    os.rename(root / "A.PT", os.fsencode(root) + b"/\xff.pt")
    with pytest.raises(DataFileError, match="whose name is no UTF-8; rename it"):
        import_zoo(tmp_path / "other", root)


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


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.embedding(words)).relu())


@pytest.mark.parametrize("names", ["first", "second", "both", "mixed"])
@pytest.mark.parametrize("form", ["folder", "stack"])
def test_tied_weights_stand_under_any_of_their_names(tmp_path: Path, names: str, form: str):
    architecture = to_architecture(TiedEmbedding(), torch.zeros(1, 3, dtype=torch.long))
    left_out = {"first": ["head.weight"], "second": ["embedding.weight"], "both": []}
    (tmp_path / "nets").mkdir()
    states = [TiedEmbedding().state_dict() for _ in range(3)]
    written = []
    for i, state in enumerate(states):
        kind = ("first", "second", "both")[i] if names == "mixed" else names
        written.append({k: v.clone() for k, v in state.items() if k not in left_out[kind]})
        torch.save(written[-1], tmp_path / "nets" / f"{i}.pt")
    source = tmp_path / "nets"
    if form == "stack":
        shared = {k for state in written for k in state if all(k in other for other in written)}
        if names == "mixed":
            return
        source = tmp_path / "all.pt"
        torch.save({k: torch.stack([w[k] for w in written]) for k in shared}, source)
    zoo = import_zoo(tmp_path / "zoo", source, architecture=architecture)
    for i, state in enumerate(states):
        found = to_state_dict(zoo.network(i))
        assert all(torch.equal(found[key], value) for key, value in state.items())


def test_names_of_a_tied_weight_with_different_numbers_are_refused_by_file(tmp_path: Path):
    architecture = to_architecture(TiedEmbedding(), torch.zeros(1, 3, dtype=torch.long))
    state = {k: v.clone() for k, v in TiedEmbedding().state_dict().items()}
    torch.save(state, tmp_path / "good.pt")
    torch.save({**state, "head.weight": state["head.weight"] + 1}, tmp_path / "torn.pt")
    with pytest.raises(InvalidGraphError, match=r"torn.pt: .* have different numbers"):
        import_zoo(tmp_path / "zoo", tmp_path, architecture=architecture)


def small(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).to(dtype).state_dict()


@pytest.mark.parametrize(
    ("dtypes", "asked", "expected"),
    [
        ((torch.float16, torch.float32), None, torch.float32),
        ((torch.float32, torch.float64), None, torch.float64),
        ((torch.float16, torch.bfloat16), None, torch.float32),
        ((torch.float16, torch.float16), None, torch.float16),
        ((torch.float64, torch.float64), "float32", torch.float32),
        ((torch.float16, torch.float32), "float64", torch.float64),
    ],
    ids=lambda value: str(value).replace("torch.", "") if value else "widest",
)
def test_networks_of_several_precisions_get_one(
    tmp_path: Path, dtypes: tuple[torch.dtype, ...], asked: str | None, expected: torch.dtype
):
    (tmp_path / "nets").mkdir()
    states = [small(dtypes[i % 2]) for i in range(4)]
    states.append({**small(dtypes[0]), "2.bias": torch.ones(1, dtype=dtypes[1])})  # within a file
    for i, state in enumerate(states):
        torch.save(state, tmp_path / "nets" / f"{i}.pt")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "nets", dtype=asked)
    for i, state in enumerate(states):
        for name, value in zoo.network(i).parameters().items():
            assert value.dtype == expected
            assert torch.equal(value, state[name].to(expected))
    assert find_problems(zoo.path) == []


def test_a_stack_of_several_precisions_gets_one(tmp_path: Path):
    values = stacked()
    values["0.bias"] = values["0.bias"].double() / 3
    torch.save(values, tmp_path / "all.pt")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "all.pt")
    assert torch.equal(zoo.stack().parameters()["0.bias"], values["0.bias"])
    with pytest.raises(InvalidGraphError, match="dtype is 'int8'; expected one of float16"):
        import_zoo(tmp_path / "other", tmp_path / "all.pt", dtype="int8")


@pytest.mark.parametrize("where", [0, 3, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named_by_its_file_and_tensor(
    tmp_path: Path, where: int, value: float
):
    for i in range(6):
        state = small()
        if i == where:
            state["2.weight"][0, 1] = value
        torch.save(state, tmp_path / f"net{i}.pt")
    with pytest.raises(NonFiniteError) as caught:
        import_zoo(tmp_path / "zoo", tmp_path)
    assert f"net{where}.pt: parameter '2.weight' has 1 of 4 entries" in str(caught.value)
    assert str(caught.value).count(".pt") == 1
    assert "allow_nonfinite" not in str(caught.value)


def test_numbers_too_large_for_the_dtype_asked_for_are_named(tmp_path: Path):
    torch.save({**small(), "2.bias": torch.tensor([1e6])}, tmp_path / "large.pt")
    with pytest.raises(NonFiniteError, match=r"large.pt: parameter '2.bias' .*torch.float16"):
        import_zoo(tmp_path / "zoo", tmp_path, dtype="float16")


def test_batch_norms_without_an_architecture_are_named(tmp_path: Path):
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    torch.save(module.state_dict(), tmp_path / "0.pt")
    for read in (
        lambda: state_dict_to_graph(module.state_dict()),
        lambda: state_dict_to_graph(module.double().state_dict()),
        lambda: import_zoo(tmp_path / "zoo", tmp_path),
    ):
        with pytest.raises(InvalidGraphError, match=r"no MLP .* Give the arch") as e:
            read()
        assert "module.to" not in str(e.value)
    architecture = to_architecture(module.float(), torch.randn(2, 4))
    zoo = import_zoo(tmp_path / "zoo", tmp_path, architecture=architecture)
    found = to_state_dict(zoo.network(0))
    assert all(torch.equal(found[key], value) for key, value in module.state_dict().items())


def test_a_file_that_does_not_fit_the_architecture_is_named(tmp_path: Path):
    architecture = Architecture.mlp([2, 4, 1])
    names = [parameter.name for parameter in architecture.parameters]
    for i, width in enumerate((4, 4, 5)):
        values = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1)).state_dict().values()
        torch.save(dict(zip(names, values, strict=True)), tmp_path / f"net{i}.pt")
    with pytest.raises(InvalidGraphError, match=r"net2.pt: .*'0.weight' has shape \(5, 2"):
        import_zoo(tmp_path / "zoo", tmp_path, architecture=architecture)
