import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from converters import load_graph, load_state_dict, save_graph, to_graph
from nngraph.errors import DataFileError, InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, NeuralGraph
from nngraph.testing import random_architectures, random_parameters, random_stack

ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def same(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


# -- graphs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graphs_come_back_exactly(tmp_path, architecture, dtype):
    values = random_parameters(architecture, 0, dtype)
    attributes = {"y": torch.tensor([3]), "tag": {"made": ["here", 1, 2.5, None]}}
    graph = NeuralGraph.from_parameters(architecture, values, **attributes)
    for path in (tmp_path / "one.safetensors", str(tmp_path / "two.safetensors")):
        save_graph(graph, path)
        back = load_graph(path)
        back.validate()
        assert back.architecture == architecture
        assert same(back.parameters(), values)
        assert back.y.tolist() == [3]
        assert back.tag == attributes["tag"]
        assert same(load_state_dict(path), values)
        _ = graph.x  # the second time from the tensors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


def test_channels_beside_the_weight_are_kept(tmp_path):
    graph = random_stack(Architecture.mlp([2, 3, 1]), 1, 0)[0]
    graph.edge_attr = torch.cat([graph.edge_attr, torch.randn(9, 2).double()], 1)
    save_graph(graph, tmp_path / "g.safetensors")
    assert torch.equal(load_graph(tmp_path / "g.safetensors").edge_attr, graph.edge_attr)


def test_an_old_file_stays_whole_when_writing_fails(tmp_path, module, monkeypatch):
    path = tmp_path / "g.safetensors"
    save_graph(to_graph(module), path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataFileError, match="no space left"):
        save_graph(to_graph(module), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_file_cannot_hold_is_refused(tmp_path, module):
    path = tmp_path / "g.safetensors"
    graph = to_graph(module)
    graph.extra = object()
    with pytest.raises(InvalidGraphError, match="attribute 'extra'"):
        save_graph(graph, path)
    graph.extra = (1, 2)  # a tuple would come back as a list
    with pytest.raises(InvalidGraphError, match="attribute 'extra'"):
        save_graph(graph, path)
    with pytest.raises(InvalidGraphError, match="to_data_list"):
        save_graph(random_stack(Architecture.mlp([2, 1]), 2, 0).to_batch(), path)
    with pytest.raises(DataFileError, match=r"expected \.safetensors"):
        save_graph(to_graph(module), tmp_path / "g.pt")
    with pytest.raises(DataFileError, match="could not be written"):
        save_graph(to_graph(module), tmp_path / "nowhere" / "g.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_nonfinite_weights_in_graph_files(tmp_path, module):
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    path = tmp_path / "g.safetensors"
    save_graph(to_graph(module, allow_nonfinite=True), path)
    assert load_graph(path).block(0).isnan().sum() == 1
    with pytest.raises(NonFiniteError):
        load_graph(path, allow_nonfinite=False)


def header(path):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write(path, head, body):
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def metadata(**values):
    def change(head):
        head["__metadata__"].update(values)

    return change


def renamed(old, new):
    def change(head):
        head[new] = head.pop(old)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (metadata(format="other"), "format 'other'"),
        (metadata(version="2"), "version '2'"),
        (metadata(architecture="{}"), "lacks"),
        (metadata(architecture="[" * 100_000), "JSON"),
        (metadata(architecture=Architecture.mlp([2, 4, 1]).to_json()), "damaged"),
        (metadata(architecture=Architecture.mlp([2**20, 2**20]).to_json()), "damaged"),
        (metadata(attributes="["), "damaged"),
        (metadata(attributes="[]"), "no JSON object"),
        (metadata(attributes='{"to": 1}'), "called 'to'"),
        (metadata(attributes='{"x": 1}'), "called 'x'"),
        (metadata(attributes='{"_store": 1}'), "called '_store'"),
        (metadata(attributes='{"architecture": 1}'), "called 'architecture'"),
        (renamed("0.bias", "@x"), "'0.bias' is missing"),
        (renamed("0.bias", "other"), "'0.bias' is missing"),
        (lambda head: head.pop("__metadata__"), "format None"),
        (lambda head: head["0.weight"].update(shape=[2, 3]), "damaged"),
        (lambda head: head["0.weight"].update(shape=[2**40, 2**40]), "damaged"),
        (lambda head: head["0.weight"].update(dtype="I32"), "damaged"),
        (lambda head: head["0.weight"].update(data_offsets=[0, 2**50]), "damaged"),
    ],
)
def test_damaged_graph_files_are_refused(tmp_path, module, change, words):
    path = tmp_path / "g.safetensors"
    save_graph(to_graph(module), path)
    head, body = header(path)
    change(head)
    write(path, head, body)
    with pytest.raises(DataFileError, match=words):
        load_graph(path)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_truncated_files_are_refused(tmp_path, module, kept):
    save_graph(to_graph(module), tmp_path / "g.safetensors")
    torch.save(module.state_dict(), tmp_path / "g.pt")
    for path in (tmp_path / "g.safetensors", tmp_path / "g.pt"):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataFileError):
            load_state_dict(path)
    with pytest.raises(DataFileError):
        load_graph(tmp_path / "g.safetensors")


# -- state dicts -------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_state_dicts_are_read(tmp_path, module, ending):
    path = tmp_path / f"weights{ending}"
    expected = module.state_dict()
    if ending == ".safetensors":
        save_file(expected, path)
    else:
        torch.save(expected, path)
    assert same(load_state_dict(path), expected)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_state_dicts_within_checkpoints_are_found(tmp_path, module, key):
    torch.save({"epoch": 3, key: module.state_dict()}, tmp_path / "c.pt")
    assert same(load_state_dict(tmp_path / "c.pt"), module.state_dict())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({}, "no state dict"),
        ({"a": 1}, "'a' is a int"),
        ({1: torch.zeros(1)}, "entry 1"),
        ({"a": torch.zeros(1), "b": [torch.zeros(1)]}, "'b' is a list"),
        ({"a": torch.zeros(1).expand(10**12)}, "more than are stored"),
        (nn.Linear(2, 2), "only tensors in plain containers are read"),
        ({"a": Evil()}, "only tensors in plain containers are read"),
    ],
)
def test_other_contents_are_refused_and_nothing_runs(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "c.pt")
    with pytest.raises(DataFileError, match=words):
        load_state_dict("c.pt")
    assert not os.path.exists("evil")


@pytest.mark.filterwarnings("ignore:.*TorchScript")
def test_files_of_other_kinds_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("pickle.pt", "wb") as stream:
        pickle.dump(Evil(), stream)
    with open("text.pt", "w") as stream:
        stream.write("hello")
    (tmp_path / "weights.npz").write_text("hello")
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**22)
    for name in ("pickle.pt", "text.pt", "bomb.pt", "missing.pt", "weights.npz", "."):
        with pytest.raises(DataFileError):
            load_state_dict(name)
    with pytest.raises(DataFileError, match="unpacks to 419"):
        load_state_dict("bomb.pt", max_bytes=2**20)
    assert not os.path.exists("evil")


def test_large_files_are_refused(tmp_path, module):
    path = tmp_path / "g.safetensors"
    save_graph(to_graph(module), path)
    for load in (load_state_dict, load_graph):
        with pytest.raises(DataFileError, match="at most 100"):
            load(path, max_bytes=100)
    torch.save(module.state_dict(), tmp_path / "g.pt")
    with pytest.raises(DataFileError, match=r"expected \.safetensors"):
        load_graph(tmp_path / "g.pt")
