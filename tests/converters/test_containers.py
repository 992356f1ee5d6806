"""Checkpoints are what their content says, whatever their ending, and others say what to do."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from converters import (
    import_zoo,
    load_graph,
    load_state_dict,
    save_graph,
    state_dict_to_graph,
    to_graph,
)
from nngraph.errors import DataFileError
from nngraph.zoo import find_problems

ENDINGS = ["a.pt", "a.pth", "a.pth.tar", "a.ckpt", "pytorch_model.bin", "a.th", "a.weights", "a",
           "a.safetensors", "a.npz"]  # fmt: skip


def state(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).state_dict()


def same(found, expected):
    return found.keys() == dict(expected).keys() and all(
        torch.equal(found[key], value) for key, value in expected.items()
    )


WRITERS = {
    "torch": torch.save,
    "torch's old way": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "safetensors": save_file,
    "arrays": lambda s, p: p.write_bytes(archive(s)),
}


def archive(tensors):
    stream = io.BytesIO()
    np.savez(stream, **{key: value.numpy() for key, value in tensors.items()})
    return stream.getvalue()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_files_are_read_by_their_content(tmp_path, write, ending):
    write(state(), tmp_path / ending)
    assert same(load_state_dict(tmp_path / ending), state())
    architecture = to_graph(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))).architecture
    assert same(load_graph(tmp_path / ending, architecture).parameters(), state())


@pytest.mark.parametrize("ending", ["g.pt", "g.bin", "g"])
def test_graph_files_are_read_under_any_name(tmp_path, ending):
    graph = state_dict_to_graph(state())
    graph.y = torch.tensor([3])
    save_graph(graph, tmp_path / "g.safetensors")
    (tmp_path / "g.safetensors").rename(tmp_path / ending)
    assert load_graph(tmp_path / ending).y.tolist() == [3]
    assert same(load_state_dict(tmp_path / ending), state())


OPTIMISER = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "held",
    [
        {"net": state(), "acc": 93.1, "epoch": 3},
        {"state_dict": state(), "optimizer_states": [OPTIMISER], "hyper_parameters": {"lr": 0.1}},
        {"model": state(), "optimizer": OPTIMISER},
        {"model": {"state_dict": state()}, "step": 4},
        {"model": state(), "ema": state(1)},
        {"generator": state(), "optimizer": OPTIMISER},
        {"params": state(), "best": torch.tensor(0.9)},
    ],
    ids=["net", "lightning", "model", "nested", "with averages", "one mapping", "params"],
)
def test_state_dicts_among_other_things_are_found(tmp_path, held):
    torch.save(held, tmp_path / "c.ckpt")
    assert same(load_state_dict(tmp_path / "c.ckpt"), state())


def test_several_state_dicts_are_not_guessed_from(tmp_path):
    torch.save({"generator": state(), "critic": state(1)}, tmp_path / "gan.pt")
    with pytest.raises(DataFileError, match="several state dicts, under 'generator', 'critic'"):
        load_state_dict(tmp_path / "gan.pt")


def sharded(folder, places, write=save_file, name="model.safetensors.index.json"):
    tensors = state()
    for file in set(places.values()):
        write({k: v for k, v in tensors.items() if places[k] == file}, folder / file)
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder / name


@pytest.mark.parametrize("write", [save_file, torch.save], ids=["safetensors", "torch"])
def test_shards_are_read_through_their_index(tmp_path, write):
    places = {key: f"model-0000{i % 2}.bin" for i, key in enumerate(state())}
    index = sharded(tmp_path, places, write)
    assert same(load_state_dict(index), state())
    with pytest.raises(DataFileError, match="bytes or more; at most"):
        load_state_dict(index, max_bytes=sum(f.stat().st_size for f in tmp_path.glob("*.bin")) - 1)
    (tmp_path / "model-00001.bin").unlink()
    with pytest.raises(DataFileError, match=r"model-00001.bin cannot be read"):
        load_state_dict(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight_map": {"a": "../a.safetensors"}}, "expected one in its own folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "expected one in its own folder"),
        ({"weight_map": {"a": ".."}}, "expected one in its own folder"),
        ({"weight_map": {"a": "index.json"}}, "expected one in its own folder"),
        ({"weight_map": {"a": "other.json"}}, "is an index itself"),
        ({"weight_map": {"nowhere": "a.safetensors"}}, "expects the tensor 'nowhere'"),
        ({"weight_map": {"a": 3}}, "no index of a sharded checkpoint"),
        ({"weight_map": {}}, "no index of a sharded checkpoint"),
        ({"weight_map": [1]}, "no index of a sharded checkpoint"),
        ({"a": [1.0, 2.0]}, "no index of a sharded checkpoint"),
    ],
)
def test_indices_are_trusted_in_nothing(tmp_path, content, message):
    (tmp_path / "index.json").write_text(json.dumps(content))
    (tmp_path / "other.json").write_text(json.dumps(content))
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(DataFileError, match=message):
        load_state_dict(tmp_path / "index.json")


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"{}")
    return stream.getvalue()


def script():
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 1)), stream)
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.pt"))
    return stream.getvalue()


REFUSED = {
    "TorchScript": (script, "TorchScript archive, which holds code"),
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "git-lfs pointer, .*git lfs pull",
    ),
    "GGUF": (lambda: b"GGUF" + bytes(99), "GGUF of version 0"),
    "NumPy": (lambda: b"\x93NUMPY" + bytes(99), "one NumPy array"),
    "gzip": (lambda: gzip.compress(b"a" * 99), "gzip; unpack it"),
    "tar": (tarred, "tar archive; unpack it"),
    "page": (lambda: b"<!DOCTYPE html><html>log in</html>", "web page"),
    "JSON": (lambda: b'{"layers": 3}', "no index of a sharded checkpoint"),
    "text": (lambda: b"hello, these are no weights", "damaged|not an archive"),
    "zip": (lambda: zipped("readme.txt"), r"without the 'data\.pkl'"),
    "noise": (lambda: bytes(range(256)) * 3, "damaged|not an archive"),
    "pickle": (lambda: b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", "damaged|object of"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*TorchScript")
@pytest.mark.parametrize("ending", ["a.pt", "a.ckpt", "a.bin", "a.safetensors", "a.npz", "a"])
@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_named_and_say_what_to_do(tmp_path, kind, ending):
    content, message = REFUSED[kind]
    (tmp_path / ending).write_bytes(content())
    for read in (load_state_dict, load_graph):
        with pytest.raises(DataFileError) as caught:
            read(tmp_path / ending)
        assert str(tmp_path / ending) in str(caught.value)
        assert "weights_only" not in str(caught.value)
    with pytest.raises(DataFileError, match=message):
        load_state_dict(tmp_path / ending)


def test_folders_of_all_endings_become_zoos(tmp_path):
    (tmp_path / "nets").mkdir()
    for i, ending in enumerate((".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".safetensors")):
        write = save_file if i % 2 else torch.save
        write(state(i), tmp_path / "nets" / f"{i}{ending}")
    zoo = import_zoo(tmp_path / "zoo", tmp_path / "nets")
    assert find_problems(zoo.path) == []
    assert all(same(zoo.network(i).parameters(), state(i)) for i in range(6))
