"""``nngraph match``."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from converters import load_graph, save_graph
from nngraph.alignment import run
from nngraph.cli import matching
from nngraph.graph import Architecture, NeuralGraph, Symmetry
from nngraph.nn import FlatNetwork
from nngraph.testing import random_parameters


@pytest.fixture
def pair(tmp_path):
    """Files of a network and of the same relabelled, and data that the first is right on."""
    architecture = Architecture.mlp([3, 6, 5, 2])
    a = NeuralGraph.from_parameters(architecture, random_parameters(architecture, 0))
    b = Symmetry(architecture).sample(1).act_on_graph(a)
    save_graph(a, tmp_path / "a.safetensors")
    torch.save(b.parameters(), tmp_path / "b.pt")
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = {"inputs": x, "answers": run(a, x).argmax(-1).to(torch.int32)}
    save_file(data, tmp_path / "data.safetensors")
    return tmp_path


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_the_second_network_comes_out_as_the_first(pair, answer, method):
    a, b, out, data = (
        pair / n for n in ("a.safetensors", "b.pt", "o.safetensors", "data.safetensors")
    )
    code, found = answer("match", a, b, "--method", method, "--data", data, "--out", out)
    assert code == 0
    assert found["distance"]["before"] > 0.5
    assert found["distance"]["after"] == 0
    assert found["barrier"]["before"]["height"] > 0.01
    assert found["barrier"]["after"]["height"] < 1e-9
    first, second = load_graph(a).parameters(), load_graph(out).parameters()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert sorted(found["permutations"]["hidden.1"]) == list(range(6))


def test_soft_permutations_on_the_command_line(pair, answer):
    words = ["match", pair / "a.safetensors", pair / "b.pt", "--method", "sinkhorn", "--steps", 5]
    code, found = answer(*words)
    assert (code, found["distance"]["after"], found["barrier"]) == (0, 0, None)
    # On a loss the middle of the path counts, and it is no worse than that of the best weights.
    _, found = answer(*words, "--data", pair / "data.safetensors")
    losses = found["barrier"]["after"]["losses"]
    assert losses[10] <= (1 + 1e-9) * losses[0]


def test_it_is_told_in_words_and_drawn(pair, command):
    pytest.importorskip("matplotlib")
    code, out, _ = command(
        "match", pair / "a.safetensors", pair / "b.pt", "--figure", pair / "f.png"
    )
    assert code == 0
    assert " before, 0 after, of parameters" in out
    assert (pair / "f.png").read_bytes().startswith(b"\x89PNG")


def test_scales_are_set_first_if_asked_for(pair, answer):
    values = load_graph(pair / "a.safetensors").parameters()
    values["0.weight"], values["0.bias"] = 2 * values["0.weight"], 2 * values["0.bias"]
    torch.save({**values, "1.weight": values["1.weight"] / 2}, pair / "scaled.pt")
    words = ["match", pair / "a.safetensors", pair / "scaled.pt"]
    assert answer(*words)[1]["distance"]["after"] > 0.1
    assert answer(*words, "--canonicalise")[1]["distance"]["after"] < 1e-12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "activations"], "missing: --data"),
        (["--method", "embeddings"], "missing: --run"),
        (["--run", "x"], "--run is for --method embeddings"),
        (["--method", "sinkhorn", "--signs"], "--signs is for weights and activations"),
        (["--starts", "0"], "--starts is 0; expected at least 1"),
        (["--out", "x.pt"], "expected an ending .safetensors"),
        (["--figure", "x.gif"], "expected .png, .pdf or .svg"),
        (["--data", "a.safetensors"], "expected the two tensors 'inputs'"),
        (["--method", "guess"], "--method"),
    ],
)
def test_mistakes_are_told_in_one_line(pair, command, monkeypatch, words, told):
    monkeypatch.chdir(pair)
    code, out, err = command("match", "a.safetensors", "b.pt", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_states_trained_to_match_find_the_neurons_again(zoo, tmp_path, answer, command):
    run_folder, small = tmp_path / "run", '{"channels": 8, "messages": 4, "hidden": 8}'
    words = ["--model", "message-passing", "--options", small, "--epochs", 2, "--warmup_steps", 2]
    code, report = answer("train", "match", "--zoo", zoo.path, "--run", run_folder, *words)
    assert (code, report["task"], report["score"]) == (0, "match", "matched")
    code, judged = answer("eval", run_folder)
    assert (code, judged["matched"]) == (0, report["test"]["matched"])

    a = zoo.stack("test")[0]
    b = Symmetry(a.architecture).sample(1).act_on_graph(a)
    save_graph(a, tmp_path / "a.safetensors")
    save_graph(b, tmp_path / "b.safetensors")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    code, found = answer("match", *files, "--method", "embeddings", "--run", run_folder)
    assert (code, found["distance"]["after"]) == (0, 0)
    assert found["distance"]["before"] > 0.1

    blind = ["--run", tmp_path / "blind", "--model", "flat"]
    code, _, err = command("train", "match", "--zoo", zoo.path, *blind)
    assert code == 2
    assert "gives neurons no states; expected one of message-passing" in err


def test_embeddings_need_a_model_with_states(pair, command, monkeypatch):
    made = FlatNetwork(Architecture.mlp([3, 6, 5, 2]), 2)
    monkeypatch.setattr(matching, "load_run", lambda folder: (made, None))
    code, _, err = command(
        "match", pair / "a.safetensors", pair / "b.pt", "--method", "embeddings", "--run", "r"
    )
    assert code == 2
    assert "expected one derived from StateNetwork" in err
