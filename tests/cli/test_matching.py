"""``nngraph match``."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from converters import load_graph, save_graph
from nngraph.graph import Architecture, NeuralGraph, Symmetry
from nngraph.tasks.alignment import run
from nngraph.testing import random_parameters


@pytest.fixture
def pair(tmp_path):
    """Files of a network and of the same network relabelled, and data that the first is right on."""
    architecture = Architecture.mlp([3, 6, 5, 2])
    a = NeuralGraph.from_parameters(architecture, random_parameters(architecture, 0))
    b = Symmetry(architecture).sample(1).act_on_graph(a)
    save_graph(a, tmp_path / "a.safetensors")
    torch.save(b.parameters(), tmp_path / "b.pt")
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = {"inputs": x, "answers": run(a, x).argmax(-1).to(torch.int32)}
    save_file(data, tmp_path / "data.safetensors")
    return tmp_path


@pytest.mark.parametrize("method", ["weights", "activations", "sinkhorn"])
def test_the_second_network_comes_out_as_the_first(pair, answer, method):
    a, b, out, data = (
        pair / n for n in ("a.safetensors", "b.pt", "o.safetensors", "data.safetensors")
    )
    code, found = answer(
        "match", a, b, "--method", method, "--steps", 10, "--data", data, "--out", out
    )
    assert code == 0
    assert found["distance"]["before"] > 0.5
    assert found["distance"]["after"] == 0
    assert found["barrier"]["before"]["height"] > 0.01
    assert found["barrier"]["after"]["height"] < 1e-9
    first, second = load_graph(a).parameters(), load_graph(out).parameters()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert sorted(found["permutations"]["hidden.1"]) == list(range(6))


def test_it_is_told_in_words_and_drawn(pair, command):
    pytest.importorskip("matplotlib")
    code, out, _ = command(
        "match", pair / "a.safetensors", pair / "b.pt", "--figure", pair / "f.png",
        "--canonicalise",
    )  # fmt: skip
    assert code == 0
    assert "0 after, of parameters" in out or "e-1" in out
    assert (pair / "f.png").read_bytes().startswith(b"\x89PNG")


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


def test_a_model_without_states_is_refused(pair, run, command):
    code, _, err = command(
        "match", pair / "a.safetensors", pair / "b.pt", "--method", "embeddings", "--run", run
    )
    assert code == 2
    assert "StateNetwork" in err
