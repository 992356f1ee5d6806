"""What of a file becomes a parameter, a buffer or a number, and under which name."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import compare, integers, model, numbers, reference, run, write

from converters.onnx_files import OnnxModule, load_onnx, onnx_name
from nngraph.errors import InvalidGraphError, UnsupportedModuleError

X = numbers(2, 3)

# torch's own, inside run_decompositions
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def constant(name, array, **settings):
    value = numpy_helper.from_array(np.asarray(array), name)
    return helper.make_node("Constant", [], [name], **(settings or {"value": value}))


def load(tmp_path, nodes, weights=None, inputs=None, outputs=("y",), **settings):
    inputs = inputs or {"x": X}
    return compare(model(nodes, inputs, list(outputs), weights, **settings), inputs, tmp_path / "m")


# -- roles -------------------------------------------------------------------------------------


def test_weights_in_constant_nodes_are_parameters(tmp_path):
    nodes = [
        constant("w", numbers(3, 4)),
        constant("half", np.array(0.5)),
        constant("one", np.array([1.0])),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["y"]),
    ]
    module = load(tmp_path, nodes)
    assert list(module.state_dict()) == ["w"]
    assert isinstance(module.w, torch.nn.Parameter)
    assert module.w.requires_grad
    assert torch.equal(module.w, torch.from_numpy(numbers(3, 4)))


@pytest.mark.parametrize("orientation", [0, 1])
def test_gemm_keeps_the_files_orientation(tmp_path, orientation):
    weight = numbers(4, 3) if orientation else numbers(3, 4)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=orientation)
    module = load(tmp_path, [node], {"w": weight, "b": numbers(4)})
    assert module.w.shape == weight.shape
    traced = torch.export.export(module, (torch.from_numpy(X),), strict=False)
    targets = [str(n.target) for n in traced.run_decompositions({}).graph.nodes if "call" in n.op]
    assert targets == [["aten.addmm.default"], ["aten.linear.default"]][orientation]


def test_running_statistics_and_single_numbers_are_buffers(tmp_path):
    image = numbers(2, 3, 4, 4)
    weights = {n: numbers(3, seed=i, low=0.5) for i, n in enumerate("stmv")}
    weights["scale"] = np.array(0.5)
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"stmv"], ["n"]),
        helper.make_node("Mul", ["n", "scale"], ["y"]),
    ]
    module = load(tmp_path, nodes, weights, {"x": image})
    assert [n for n, _ in module.named_parameters()] == ["s", "t"]
    assert list(module.state_dict()) == ["s", "t", "m", "v", "scale"]


def test_a_scale_that_is_a_variance_too_is_a_parameter(tmp_path):
    weights = {"s": numbers(3, low=0.5), "m": numbers(3)}
    node = helper.make_node("BatchNormalization", ["x", "s", "m", "m", "s"], ["y"])
    module = load(tmp_path, [node], weights)
    assert [n for n, _ in module.named_parameters()] == ["s", "m"]
    module(torch.from_numpy(X)).sum().backward()  # the statistics are taken as constants


def test_settings_and_indices_are_no_weights(tmp_path):
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Concat", ["ones", "twice"], ["scales"], axis=0),
        helper.make_node("Unsqueeze", ["c", "axes"], ["u"]),
        helper.make_node("Resize", ["u", "", "scales"], ["r"]),
        helper.make_node("Gather", ["r", "places"], ["y"], axis=2),
    ]
    weights = {
        "low": np.array(-1.0),
        "high": np.array(1.0),
        "ones": np.ones(2, np.float32),
        "twice": np.array([2, 2], np.float32),
        "axes": integers(0, 1),
        "places": integers(1, 3),
    }
    module = load(tmp_path, nodes, weights)
    assert not module.state_dict()
    assert not list(module.named_parameters())


def test_written_states_are_no_weights_and_trained_ones_are(tmp_path):
    """A zero state behind shape arithmetic, as torch's exporter writes it."""
    x = numbers(4, 2, 3)
    weights = {"W": numbers(1, 20, 3), "R": numbers(1, 20, 5), "h": numbers(1, 2, 5)}
    nodes = [
        constant("zero", np.zeros((1, 1, 5))),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "place"], ["b"]),
        helper.make_node("Concat", ["first", "b", "last"], ["wanted"], axis=0),
        helper.make_node("Expand", ["zero", "wanted"], ["c"]),
        helper.make_node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["y"], hidden_size=5),
    ]
    weights |= {"place": integers(1), "first": integers(1), "last": integers(5)}
    module = load(tmp_path, nodes, weights, {"x": x})
    assert list(module.state_dict()) == ["W", "R", "h"]


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float64).min], ids=["inf", "min"])
@pytest.mark.parametrize("rank", [2, 1], ids=["table", "bias"])
def test_masks_are_no_weights(tmp_path, hidden, rank):
    """An added table that hides entries; a bias that diverged stays a weight, and can be found."""
    mask = np.where(np.tri(3, dtype=bool), 0.0, hidden)[tuple([0] * (2 - rank))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["m"]),
        helper.make_node("Softmax", ["m"], ["p"]),
        helper.make_node("Add", ["p", "place"], ["y"]),
    ]
    weights = {"w": numbers(3, 3), "mask": mask, "place": numbers(3, 3)}
    module = load(tmp_path, nodes, weights, {"x": numbers(3, 3)})
    assert list(module.state_dict()) == ["w", *(["mask"] if rank == 1 else []), "place"]


def test_what_no_output_needs_is_left_out(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("MatMul", ["x", "w"], ["unused"]),
        helper.make_node("Unheard", ["x"], ["nothing"], domain="of.ours"),
    ]
    module = load_onnx(write(model(nodes, {"x": X}, ["y"], {"w": X.T}), tmp_path / "m.onnx"))
    assert module.operators() == {"Relu": 1}
    assert not module.state_dict()


def test_nodes_may_come_in_any_order(tmp_path):
    nodes = [
        helper.make_node("Add", ["a", "b"], ["y"]),
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
    ]
    path = write(model(nodes, {"x": X}, ["y"]), tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(load_onnx(path), {"x": X})[0], np.zeros_like(X))


def test_weights_listed_among_the_inputs_are_weights(tmp_path):
    """As files before IR version 4 have them."""
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": X}, ["y"], {"w": X.T})
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.DOUBLE, [3, 2]))
    module = load_onnx(write(proto, tmp_path / "m.onnx"))
    assert list(module.state_dict()) == ["w"]
    np.testing.assert_allclose(run(module, {"x": X})[0], X @ X.T, rtol=1e-12)


def test_a_tensor_read_twice_is_one_parameter(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "t"], ["y"]),
    ]
    module = load(tmp_path, nodes, {"w": numbers(3, 4)})
    assert list(module.state_dict()) == ["w"]


def test_several_inputs_and_outputs(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "z"], ["y"]),
        helper.make_node("Sub", ["x", "z"], ["d"]),
    ]
    module = load(tmp_path, nodes, None, {"x": X, "z": X[::-1].copy()}, outputs=("y", "d", "z"))
    assert [declared.name for declared in module.inputs] == ["x", "z"]
    assert module.outputs == ("y", "d", "z")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_numbers_keep_their_bits(tmp_path, dtype, raw):
    values = torch.from_numpy(numbers(3, 4)).to(getattr(torch, dtype))
    number = getattr(
        TensorProto, {"float64": "DOUBLE", "float32": "FLOAT"}.get(dtype, dtype.upper())
    )
    same_size = {2: torch.int16, 4: torch.float32, 8: torch.float64}[values.itemsize]
    stored = values.view(same_size).numpy()
    stored = stored.view(np.uint16) if values.itemsize == 2 else stored
    tensor = TensorProto(data_type=number, dims=[3, 4], name="w")
    if raw:
        tensor.raw_data = stored.tobytes()
    else:
        fields = {2: "int32_data", 4: "float_data", 8: "double_data"}
        getattr(tensor, fields[values.itemsize]).extend(stored.reshape(-1).tolist())
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": X}, ["y"])
    proto.graph.initializer.append(tensor)
    proto.graph.input[0].type.tensor_type.elem_type = number
    module = load_onnx(write(proto, tmp_path / "m.onnx"))
    assert module.w.dtype == values.dtype
    assert torch.equal(module.w, values)
    assert module(torch.from_numpy(X).to(values.dtype)).dtype == values.dtype


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_integers_are_read(tmp_path, dtype, raw):
    values = np.array([[0, 1], [1, 1]] if dtype == "bool" else [[0, 100], [7, 3]], dtype=dtype)
    number = helper.np_dtype_to_tensor_dtype(values.dtype)
    data = values.tobytes() if raw else values.reshape(-1).tolist()
    tensor = helper.make_tensor("k", number, [2, 2], data, raw=raw)
    nodes = [constant("k", 0, value=tensor), helper.make_node("Relu", ["x"], ["y"])]
    nodes.append(helper.make_node("Cast", ["k"], ["z"], to=TensorProto.INT64))
    proto = model(nodes, {"x": X}, ["y", "z"])
    found = run(load_onnx(write(proto, tmp_path / "m.onnx")), {"x": X})[1]
    np.testing.assert_array_equal(found, values.astype(np.int64))


@pytest.mark.parametrize(
    ("attribute", "value", "count"),
    [("value_float", 0.5, 0), ("value_floats", [0.5, 1.5, 2.0], 1), ("value_ints", [1, 2, 3], 0)],
)
def test_constants_of_plain_numbers(tmp_path, attribute, value, count):
    nodes = [
        helper.make_node("Constant", [], ["k"], **{attribute: value}),
        helper.make_node("Cast", ["k"], ["c"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    assert len(load(tmp_path, nodes).state_dict()) == count


# -- names -------------------------------------------------------------------------------------

NAMES = {
    "layer1.0.weight": "layer1.0.weight",
    "onnx::MatMul_12": "onnx::MatMul_12",
    "/block/0/Constant_output_0": "/block/0/Constant_output_0",
    "model/dense/kernel:0": "model/dense/kernel:0",
    "50%": "50%25",
    ".hidden": "%2Ehidden",
    "a..b": "a%2E%2Eb",
    "a.": "a%2E",
    "p": "p",
    "p.q": "p%2Eq",
    "p.q.r": "p%2Eq%2Er",
    "forward": "%66orward",
    "half.weight": "%68alf.weight",
    "block.train": "block.%74rain",
    "_nodes": "%5Fnodes",
    "größe.übung": "größe.übung",
    "%66orward": "%2566orward",
}


def test_names_are_kept_or_come_back(tmp_path):
    nodes, last = [], "x"
    for place, name in enumerate(NAMES):
        nodes.append(helper.make_node("Add", [last, name], [f"made {place}"]))
        last = f"made {place}"
    weights = {name: numbers(3, seed=place) for place, name in enumerate(NAMES)}
    proto = model(nodes, {"x": X}, [last], weights)
    module = compare(proto, {"x": X}, tmp_path / "names.onnx")
    assert sorted(module.state_dict()) == sorted(NAMES.values())
    assert {onnx_name(key) for key in module.state_dict()} == set(NAMES)
    for name, key in NAMES.items():
        assert module.onnx_names()[key] == name
        assert torch.equal(module.state_dict()[key], torch.from_numpy(weights[name]))
    x = torch.from_numpy(X)
    traced = torch.export.export(module, (x,), strict=False)
    assert set(traced.state_dict) == set(NAMES.values())
    assert torch.equal(traced.module()(x), module(x))


# -- the module --------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["h"], transB=1),
        helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "half"], ["y"]),
    ]
    weights = {
        "a.weight": numbers(4, 3).astype(np.float32),
        "a.bias": numbers(4).astype(np.float32),
        "half": np.array(0.5, np.float32),
    }
    x = X.astype(np.float32)
    proto = model(nodes, {"x": x}, ["y"], weights, shapes={"x": ["batch", 3]})
    return load_onnx(write(proto, tmp_path / "m.onnx"))


def test_a_converted_module_computes_in_its_new_type(module):
    weight, bias = (t.double().numpy() for t in (module.a.weight.detach(), module.a.bias.detach()))
    found = module.double()(torch.from_numpy(X))
    assert found.dtype == torch.float64
    expected = 0.5 * (X @ weight.T + bias)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-14)


def test_modules_are_copied_pickled_and_trained(module):
    x = torch.from_numpy(X).float()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(other, OnnxModule)
        assert torch.equal(other(x), module(x))
        with torch.no_grad():
            other.a.bias.add_(1.0)
        assert not torch.equal(other(x), module(x))
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert module.to("meta")(x.to("meta")).shape == (2, 4)


def test_state_dicts_are_loaded_back(module, tmp_path):
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(module.state_dict())
    x = torch.from_numpy(X).float()
    assert torch.equal(other(x), module(x))


def test_a_module_says_what_it_is(module):
    assert "x [?, 3] float32" in repr(module)
    assert "1 Gemm, 1 Cast, 1 Mul" in repr(module)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "given 0 inputs; expected x"),
        ((torch.zeros(2, 4),), r"shape \[2, 4\]"),
        ((torch.zeros(3),), r"shape \[3\]"),
        ((torch.zeros(2, 3, dtype=torch.long),), "int64"),
        (([1.0],), "is a list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(module, inputs, words):
    with pytest.raises(InvalidGraphError, match=words):
        module(*inputs)


def test_a_node_that_cannot_run_is_named(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="head")
    proto = model([node], {"x": X}, ["y"], {"w": X})
    module = load_onnx(write(proto, tmp_path / "m.onnx"))
    with pytest.raises(InvalidGraphError, match=r"'head' \(MatMul.*\[2, 3\], \[2, 3\]"):
        module(torch.from_numpy(X))


def test_shapes_computed_from_data_are_refused(tmp_path):
    node = helper.make_node("Reshape", ["x", "s"], ["y"], name="r")
    proto = model([node], {"x": X, "s": integers(3, 2)}, ["y"])
    module = load_onnx(write(proto, tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedModuleError, match=r"'r'.*'s'.*computed from data"):
        module(torch.from_numpy(X), torch.tensor([3, 2]))
    node = helper.make_node("NonZero", ["x"], ["y"], name="n")
    module = load_onnx(write(model([node], {"x": X}, ["y"]), tmp_path / "n.onnx"))
    with pytest.raises(UnsupportedModuleError, match=r"'n'.*known"):
        module(torch.from_numpy(X))


def test_further_outputs_are_refused(tmp_path):
    node = helper.make_node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2], name="p")
    proto = model([node], {"x": numbers(1, 1, 4, 4)}, ["y", "places"])
    module = load_onnx(write(proto, tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedModuleError, match=r"'p'.*first output"):
        module(torch.zeros(1, 1, 4, 4).double())


def test_the_reference_notices_a_wrong_gate_order(tmp_path):
    """The truth that these tests stand on tells the orders of the gates apart."""
    x = numbers(4, 2, 3)
    weights = {"W": numbers(1, 20, 3), "R": numbers(1, 20, 5)}
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=5)
    one = reference(model([node], {"x": x}, ["y"], weights), {"x": x})[0]
    weights = {
        n: w.reshape(1, 4, 5, -1)[:, [0, 2, 3, 1]].reshape(w.shape) for n, w in weights.items()
    }
    other = reference(model([node], {"x": x}, ["y"], weights), {"x": x})[0]
    assert np.abs(one - other).max() > 0.01
