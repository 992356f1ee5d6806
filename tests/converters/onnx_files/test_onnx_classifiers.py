"""Classifiers as scikit-learn's exporter writes them: the numbers are read, the labels left out."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx_cases import integers, model, numbers, run, write

from converters import to_graph, verify
from converters.onnx_files import load_onnx
from nngraph.cli.app import main
from nngraph.errors import DataFileError, UnsupportedModuleError

LEARN = "ai.onnx.ml"
X = numbers(6, 4).astype(np.float32)
W = {"w": numbers(4, 5, seed=1).astype(np.float32), "v": numbers(5, 3, seed=2).astype(np.float32)}
OFFSET, SCALE = [0.5, -1.0, 0.25, 0.0], [2.0, 0.5, 1.0, 4.0]


def node(name, inputs, outputs, domain="", **settings):
    return helper.make_node(name, inputs, outputs, domain=domain, **settings)


def classifier(labels="int64", zipped=False, scaled=True, only_labels=False):
    """Return a model with labels and probabilities of three classes."""
    classes = integers(0, 1, 2) if labels == "int64" else np.array(["a", "b", "c"], dtype=object)
    nodes = [
        node("Scaler", ["x"], ["s"], LEARN, offset=OFFSET, scale=SCALE)
        if scaled else node("Identity", ["x"], ["s"]),
        node("MatMul", ["s", "w"], ["h"]),
        node("Relu", ["h"], ["a"]),
        node("MatMul", ["a", "v"], ["z"]),
        node("Softmax", ["z"], ["p"], axis=-1),
        node("ArgMax", ["p"], ["best"], axis=1),
        node("ArrayFeatureExtractor", ["classes", "best"], ["label"], LEARN),
    ]  # fmt: skip
    if zipped:
        nodes.append(node("ZipMap", ["p"], ["maps"], LEARN, classlabels_int64s=[0, 1, 2]))
    outputs = ["label"] if only_labels else ["label", "maps" if zipped else "p"]
    proto = model(nodes, {"x": X}, outputs, {**W, "classes": classes})
    proto.opset_import.append(helper.make_opsetid(LEARN, 1))
    return proto


def probabilities(scaled=True):
    x = (X.astype(float) - OFFSET) * SCALE if scaled else X.astype(float)
    z = np.maximum(x @ W["w"], 0) @ W["v"]
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("labels", ["int64", "text"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_probabilities_are_returned_and_labels_left_out(tmp_path, labels, zipped, scaled):
    path = write(classifier(labels, zipped, scaled), tmp_path / "m.onnx")
    module = load_onnx(path)
    assert module.left_out == ("label",)
    assert "left out: label" in repr(module)
    (found,) = run(module, {"x": X})
    np.testing.assert_allclose(found, probabilities(scaled), rtol=1e-4, atol=1e-6)
    (found,) = run(module.double(), {"x": X.astype(float)})
    np.testing.assert_allclose(found, probabilities(scaled), rtol=1e-9, atol=1e-12)


def test_a_classifier_is_a_proven_graph(tmp_path):
    module = load_onnx(write(classifier(), tmp_path / "m.onnx")).double()
    x = torch.from_numpy(X).double()
    graph = to_graph(module, x)
    assert [group.size for group in graph.architecture.groups][:2] == [4, 5]
    assert verify(graph, module, x).holds


def test_outputs_are_chosen_by_name(tmp_path):
    path = write(classifier(), tmp_path / "m.onnx")
    assert load_onnx(path, outputs=["p"]).left_out == ()
    hidden, found = run(load_onnx(path, outputs=["a", "p"]), {"x": X})
    assert hidden.shape == (6, 5)
    assert found.shape == (6, 3)
    assert set(load_onnx(path, outputs=["a"]).state_dict()) == {"w"}, "what is not needed goes"
    with pytest.raises(UnsupportedModuleError, match=r"'label', 'p'.*load_onnx\(path, outputs"):
        load_onnx(path, outputs=["label"])
    for wrong in (["nowhere"], ["x"], ["w"]):
        with pytest.raises(DataFileError, match=r"no node makes .* output of the model, 'label'"):
            load_onnx(path, outputs=wrong)
    for wrong in ([], ["p", "p"]):
        with pytest.raises(DataFileError, match="expected at least one, each once"):
            load_onnx(path, outputs=wrong)


def test_a_model_of_labels_alone_is_refused_with_what_to_do(tmp_path):
    path = write(classifier(only_labels=True), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModuleError, match=r"outputs=\[.*--output.*mlp_to_graph"):
        load_onnx(path)


def test_labels_of_a_network_that_makes_them_itself_stay(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("ArgMax", ["h"], ["best"], axis=1)]
    module = load_onnx(write(model(nodes, {"x": X}, ["h", "best"], W), tmp_path / "m.onnx"))
    assert module.outputs == ("h", "best")
    assert module.left_out == ()


@pytest.mark.parametrize("single", [False, True])
def test_one_offset_and_scale_hold_for_all_features(tmp_path, single):
    settings = {"offset": [1.5], "scale": [3.0]} if single else {}
    proto = model([node("Scaler", ["x"], ["y"], LEARN, **settings)], {"x": X}, ["y"], W)
    proto.opset_import.append(helper.make_opsetid(LEARN, 1))
    (found,) = run(load_onnx(write(proto, tmp_path / "m.onnx")), {"x": X})
    np.testing.assert_allclose(found, (X - 1.5) * 3 if single else X, rtol=1e-6)
    assert helper.np_dtype_to_tensor_dtype(found.dtype) == TensorProto.FLOAT


def test_the_command_line_chooses_outputs(tmp_path, capsys):
    path = str(write(classifier(), tmp_path / "m.onnx"))
    assert main(["inspect", path, "--output", "a", "--verify"]) == 0
    assert "4" in capsys.readouterr().out
    assert main(["inspect", path, "--output", "label"]) != 0
    assert "--output" in capsys.readouterr().err
