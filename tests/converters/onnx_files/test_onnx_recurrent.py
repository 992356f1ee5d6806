"""Recurrent layers in ONNX's gate order, held against ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_cases import compare, integers, model, numbers, reference, run, write

from converters.onnx_files import load_onnx
from nngraph.errors import UnsupportedModuleError

T, B, IN, H = 4, 2, 3, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
LAYERS = ["LSTM", "GRU", "RNN"]


def layer(op, directions=1, bias=True, states=True, names=None, **attributes):
    rows = GATES[op] * H
    weights = {"W": numbers(directions, rows, IN), "R": numbers(directions, rows, H, seed=1)}
    if bias:
        weights["B"] = numbers(directions, 2 * rows, seed=2)
    for place in range(STATES[op] if states else 0):
        weights[f"s{place}"] = numbers(directions, B, H, seed=3 + place)
    slots = ["x", "W", "R", "B" if bias else "", "", *(f"s{i}" for i in range(2) if states)]
    inputs = [name if name == "x" or name in weights else "" for name in slots]
    while not inputs[-1]:
        inputs.pop()
    made = ["Y", "Yh", "Yc"][: 1 + STATES[op]]
    node = helper.make_node(op, inputs, made, **{"hidden_size": H, **attributes})
    return node, weights, made


def network(op, x, **settings):
    node, weights, made = layer(op, **settings)
    return model([node], {"x": x}, made, weights)


X = numbers(T, B, IN, seed=9)

# torch's own, inside run_decompositions
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("states", [True, False], ids=["states", "zeros"])
@pytest.mark.parametrize("op", LAYERS)
def test_forward_layers(tmp_path, op, bias, states):
    settings = {"linear_before_reset": 1} if op == "GRU" else {}
    proto = network(op, X, bias=bias, states=states, **settings)
    compare(proto, {"x": X}, tmp_path / "r.onnx")


def test_a_gru_whose_reset_comes_first(tmp_path):
    compare(network("GRU", X), {"x": X}, tmp_path / "r.onnx")
    compare(network("GRU", X, bias=False), {"x": X}, tmp_path / "r.onnx")


def test_relu_layers(tmp_path):
    node, weights, made = layer("RNN", activations=["Relu"])
    found = run(load_onnx(write(model([node], {"x": X}, made, weights), tmp_path / "r")), {"x": X})
    state = weights["s0"][0]
    for step in X:  # the reference knows Relu under another letter case only
        bias = weights["B"][0].reshape(2, H).sum(0)
        state = np.maximum(step @ weights["W"][0].T + state @ weights["R"][0].T + bias, 0)
    np.testing.assert_allclose(found[1][0], state, rtol=1e-12)


@pytest.mark.parametrize("reset", [0, 1])
@pytest.mark.parametrize("op", LAYERS)
def test_directions(tmp_path, op, reset):
    """Both directions are one forward and one backward layer side by side."""
    settings = {"linear_before_reset": reset} if op == "GRU" else {}
    node, weights, made = layer(op, directions=2, direction="bidirectional", **settings)
    proto = model([node], {"x": X}, made, weights)
    both = run(load_onnx(write(proto, tmp_path / "both")), {"x": X})
    for which, x in enumerate([X, X[::-1].copy()]):
        half = {name: value[which : which + 1] for name, value in weights.items()}
        one, _, _ = layer(op, **settings)
        expected = reference(model([one], {"x": x}, made, half), {"x": x})
        y = expected[0][::-1] if which else expected[0]
        np.testing.assert_allclose(both[0][:, which : which + 1], y, rtol=1e-10)
        for found, state in zip(both[1:], expected[1:], strict=True):
            np.testing.assert_allclose(found[which : which + 1], state, rtol=1e-10)
        # A layer that only goes backwards is the second half.
        if which:
            back, _, _ = layer(op, direction="reverse", **settings)
            proto = model([back], {"x": X}, made, half)
            alone = run(load_onnx(write(proto, tmp_path / "back")), {"x": X})
            np.testing.assert_allclose(alone[0], y, rtol=1e-10)
            np.testing.assert_allclose(alone[1], expected[1], rtol=1e-10)


@pytest.mark.parametrize("op", LAYERS)
def test_batch_first(tmp_path, op):
    node, weights, made = layer(op, states=False)
    expected = run(
        load_onnx(write(model([node], {"x": X}, made, weights), tmp_path / "a")), {"x": X}
    )
    node, _, _ = layer(op, states=False, layout=1)
    x = X.transpose(1, 0, 2).copy()
    found = run(load_onnx(write(model([node], {"x": x}, made, weights), tmp_path / "b")), {"x": x})
    np.testing.assert_allclose(found[0], expected[0].transpose(2, 0, 1, 3), rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1].transpose(1, 0, 2), rtol=1e-12)


def test_lstm_weights_keep_their_order_and_torch_runs_them(tmp_path):
    """A torch LSTM with its gates moved to ONNX's order by hand is the same function."""
    torch_layer = torch.nn.LSTM(IN, H).double()
    order = {"i": 0, "o": 3, "f": 1, "c": 2}  # where torch has ONNX's gates, in ONNX's order

    def moved(tensor):
        pieces = tensor.detach().chunk(4)
        return torch.cat([pieces[order[gate]] for gate in "iofc"]).numpy()

    weights = {
        "W": moved(torch_layer.weight_ih_l0)[None],
        "R": moved(torch_layer.weight_hh_l0)[None],
        "B": np.concatenate([moved(torch_layer.bias_ih_l0), moved(torch_layer.bias_hh_l0)])[None],
    }
    node, _, made = layer("LSTM", states=False)
    module = load_onnx(write(model([node], {"x": X}, made, weights), tmp_path / "lstm.onnx"))
    for name, value in weights.items():
        assert torch.equal(module.state_dict()[name], torch.from_numpy(value))
    x = torch.from_numpy(X)
    assert torch.equal(module(x)[0][:, 0], torch_layer(x)[0])
    traced = torch.export.export(module, (x,), strict=False).run_decompositions({})
    targets = {str(n.target) for n in traced.graph.nodes if n.op == "call_function"}
    assert "aten.lstm.input" in targets
    assert not any("index" in target or "mm" in target for target in targets)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip": 1.0}, "'clip'"),
        ({"hidden_size": H + 1}, "hidden_size is not 5"),
        ({"input_forget": 1}, "input_forget"),
        ({"activations": ["Sigmoid", "Tanh", "Relu"]}, "activations"),
        ({"direction": "bidirectional"}, "expected 2"),
    ],
)
def test_what_torch_has_not_is_refused(tmp_path, settings, words):
    module = load_onnx(write(network("LSTM", X, **settings), tmp_path / "r.onnx"))
    with pytest.raises(UnsupportedModuleError, match=words):
        module(torch.from_numpy(X))


def test_peepholes_and_lengths_are_refused(tmp_path):
    node, weights, made = layer("LSTM")
    node.input.extend(["P"])
    node.input[7] = "P"
    weights["P"] = numbers(1, 3 * H)
    module = load_onnx(write(model([node], {"x": X}, made, weights), tmp_path / "p.onnx"))
    with pytest.raises(UnsupportedModuleError, match="peephole"):
        module(torch.from_numpy(X))
    node, weights, made = layer("LSTM")
    node.input[4] = "n"
    weights["n"] = integers(T, T - 1, dtype=np.int32)
    module = load_onnx(write(model([node], {"x": X}, made, weights), tmp_path / "n.onnx"))
    with pytest.raises(UnsupportedModuleError, match="sequence_lens"):
        module(torch.from_numpy(X))
    weights["n"] = integers(T, T, dtype=np.int32)
    module = load_onnx(write(model([node], {"x": X}, made, weights), tmp_path / "n.onnx"))
    module(torch.from_numpy(X))
