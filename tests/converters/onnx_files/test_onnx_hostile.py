"""Files that are damaged, or made to do harm, are refused with words."""

from __future__ import annotations

import contextlib
import os
import random
import sys

import numpy as np
import pytest
import torch
from onnx import StringStringEntryProto, TensorProto, helper, numpy_helper
from onnx_cases import integers, model, numbers, run, write

from converters.onnx_files import load_onnx
from nngraph.errors import (
    DataFileError,
    InvalidGraphError,
    MissingDependencyError,
    NNGraphError,
    UnsupportedModuleError,
)

X = numbers(2, 3)
W = numbers(3, 4)
EXPECTED = X @ W


def relu(source="x", made="y", **settings):
    return helper.make_node("Relu", [source], [made], **settings)


def product():
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": X}, ["y"], {"w": W})


def refused(proto, path, words, error=DataFileError):
    write(proto, path)
    with pytest.raises(error, match=words) as info:
        load_onnx(path)
    assert str(path) in str(info.value)
    return str(info.value)


# -- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n", b"\x80\x04}q\x00.", b"\xff" * 50, bytes(100)]
)
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"m\.onnx"):
        load_onnx(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(DataFileError):
            load_onnx(path)


def test_every_truncation_is_refused(tmp_path):
    content = product().SerializeToString()
    path = tmp_path / "m.onnx"
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        # The operator set is the last field: without it there is no meaning.
        with pytest.raises(DataFileError):
            load_onnx(path)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_give_a_network_or_our_error(tmp_path, seed):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], transB=1, name="gemm"),
        helper.make_node("Clip", ["g", "low"], ["c"]),
        helper.make_node("Concat", ["n", "k"], ["t"], axis=0),
        helper.make_node("Reshape", ["c", "t"], ["y"]),
    ]
    weights = {
        "w": numbers(4, 3),
        "b": numbers(4),
        "low": np.array(-1.0),
        "n": integers(-1),
        "k": integers(2),
    }
    content = bytearray(model(nodes, {"x": X}, ["y"], weights).SerializeToString())
    chance = random.Random(seed)
    path = tmp_path / "m.onnx"
    for _ in range(250):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(NNGraphError):
            run(load_onnx(path), {"x": X})


def test_large_files_and_tensors_are_refused(tmp_path):
    path = write(product(), tmp_path / "m.onnx")
    with pytest.raises(DataFileError, match="at most 100"):
        load_onnx(path, max_bytes=100)
    # A small file whose known values are large: counted, and never made.
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["z"]), relu("z"), relu("x", "q")]
    proto = model(nodes, {"x": X}, ["y", "q"], {"s": integers(2**20, 2**20)})
    refused(proto, path, "at most", UnsupportedModuleError)
    proto = model(nodes, {"x": X}, ["y", "q"], {"s": integers(-1)})
    refused(proto, path, "at most", UnsupportedModuleError)


def test_values_that_double_at_each_node_are_refused(tmp_path):
    nodes = [
        helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(60)
    ]
    proto = model([*nodes, relu()], {"x": X}, ["y", "v60"], {"v0": integers(1, 2)})
    refused(proto, tmp_path / "m.onnx", "at most", UnsupportedModuleError)


def test_without_the_package_the_command_is_named(tmp_path, monkeypatch):
    path = write(product(), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nngraph\[onnx\]'"):
        load_onnx(path)


# -- tensors -----------------------------------------------------------------------------------


def with_tensor(**fields):
    proto = product()
    tensor = proto.graph.initializer[0]
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return proto


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dims": [3, 5]}, "15 numbers; 12 are stored"),
        ({"dims": [3, 3]}, "9 numbers; 12 are stored"),
        ({"dims": [-3, -4]}, "sizes of 0 or more"),
        ({"dims": [2**40, 2**40]}, "more than 17179869184 bytes"),
        ({"dims": [2**62, 4]}, "more than"),
        ({"dims": [0, 4]}, "0 numbers; 12 are stored"),
        ({"dims": [1] * 100}, "sizes of 0 or more"),
        ({"raw_data": b"\0" * 95}, "11.875 are stored"),
        ({"raw_data": b""}, "0 are stored"),
        ({"double_data": [1.0] * 12}, "double_data and raw_data"),
        ({"raw_data": b"", "float_data": [1.0] * 12}, "expected raw_data or double_data"),
        ({"data_type": TensorProto.FLOAT}, "24 are stored"),
    ],
)
def test_tensors_that_lie_are_refused(tmp_path, fields, words):
    message = refused(with_tensor(**fields), tmp_path / "m.onnx", words)
    assert "the tensor 'w'" in message


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (TensorProto.STRING, "string"),
        (TensorProto.COMPLEX64, "complex64"),
        (TensorProto.FLOAT8E4M3FN, "float8e4m3fn"),
        (TensorProto.INT4, "int4"),
        (TensorProto.UNDEFINED, "no type"),
        (99, "unknown type 99"),
    ],
)
def test_types_without_a_graph_are_refused(tmp_path, number, words):
    proto = with_tensor(data_type=number)
    refused(proto, tmp_path / "m.onnx", words, UnsupportedModuleError)
    proto = product()
    proto.graph.input[0].type.tensor_type.elem_type = number
    refused(proto, tmp_path / "m.onnx", "input 'x'", UnsupportedModuleError)


def test_numbers_beyond_their_type_are_refused(tmp_path):
    tensor = TensorProto(data_type=TensorProto.UINT8, dims=[2], name="k", int32_data=[1, 256])
    nodes = [helper.make_node("Constant", [], ["k"], value=tensor), relu()]
    proto = model(nodes, {"x": X}, ["y", "k"])
    refused(proto, tmp_path / "m.onnx", "uint8 cannot hold")


def test_booleans_are_zero_or_one(tmp_path):
    tensor = TensorProto(data_type=TensorProto.BOOL, dims=[3], name="k", raw_data=b"\x00\x07\xff")
    nodes = [helper.make_node("Constant", [], ["k"], value=tensor), relu()]
    nodes.append(helper.make_node("Cast", ["k"], ["z"], to=TensorProto.UINT8))
    path = write(model(nodes, {"x": X}, ["y", "z"]), tmp_path / "m.onnx")
    assert run(load_onnx(path), {"x": X})[1].tolist() == [0, 1, 1]


def test_sparse_tensors_are_refused(tmp_path):
    proto = product()
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1), "s"))
    refused(proto, tmp_path / "m.onnx", "sparse", UnsupportedModuleError)


# -- the graph ---------------------------------------------------------------------------------


def test_cycles_are_refused(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
        helper.make_node("Relu", ["b"], ["y"], name="three"),
    ]
    message = refused(model(nodes, {"x": X}, ["y"]), tmp_path / "m.onnx", "cycle")
    assert "'one'" in message
    itself = [helper.make_node("Add", ["x", "y"], ["y"])]
    refused(model(itself, {"x": X}, ["y"]), tmp_path / "m.onnx", "cycle")


def test_deep_chains_are_no_recursion(tmp_path):
    nodes = [relu(f"v{i}", f"v{i + 1}") for i in range(5000)]
    nodes[0].input[0] = "x"
    path = write(model(nodes, {"x": X}, ["v5000"]), tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(load_onnx(path), {"x": X})[0], X.clip(0))


@pytest.mark.parametrize(
    ("nodes", "outputs", "words"),
    [
        ([relu("nowhere")], ["y"], "reads 'nowhere', which nothing makes"),
        ([relu()], ["z"], "nothing makes the output 'z'"),
        ([relu(), relu()], ["y"], "'y', which is there already"),
        ([relu(made="x")], ["x"], "'x', which is there already"),
        ([relu()], [], "no outputs"),
        ([helper.make_node("Relu", ["x", "x"], ["y"])], ["y"], "2 inputs"),
        ([helper.make_node("Relu", [], ["y"])], ["y"], "0 inputs"),
        ([helper.make_node("Relu", ["x"], ["y", "z"])], ["y"], "2 outputs"),
        ([relu(wings=2)], ["y"], "'wings'"),
        ([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=1)], ["y"], "'alpha' of type 2"),
        ([helper.make_node("Concat", ["x", "x"], ["y"])], ["y"], "lacks the attribute 'axis'"),
        ([helper.make_node("Constant", [], ["y"])], ["y"], "0 values"),
    ],
)
def test_malformed_graphs_are_refused(tmp_path, nodes, outputs, words):
    refused(model(nodes, {"x": X}, outputs), tmp_path / "m.onnx", words)


def test_names_are_given_once(tmp_path):
    proto = product()
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, tmp_path / "m.onnx", "called 'w'")
    proto = product()
    proto.graph.input.append(proto.graph.input[0])
    refused(proto, tmp_path / "m.onnx", "called 'x'")
    proto = product()
    proto.graph.initializer[0].name = ""
    refused(proto, tmp_path / "m.onnx", "called ''")


def test_names_that_are_no_text_are_refused(tmp_path):
    content = product().SerializeToString().replace(b"\x01y", b"\x01\xff")
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(DataFileError):
        load_onnx(path)


def test_constants_that_do_not_fit_are_refused(tmp_path):
    nodes = [helper.make_node("Add", ["j", "k"], ["s"], name="sum"), relu()]
    proto = model(nodes, {"x": X}, ["y", "s"], {"j": integers(1, 2), "k": integers(1, 2, 3)})
    refused(proto, tmp_path / "m.onnx", "'sum'.*cannot be run on its constants".replace("'", "."))


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "pkg.torch"])
def test_operators_of_other_domains_are_refused(tmp_path, domain):
    proto = model([helper.make_node("Gelu", ["x"], ["y"], name="n", domain=domain)], {"x": X}, "y")
    message = refused(proto, tmp_path / "m.onnx", domain, UnsupportedModuleError)
    assert "node 'n' (Gelu)" in message
    assert "Known operators: Abs, Acos," in message


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ("FrobnicateLinear", "no handler"),
        ("QLinearConv", "quantised"),
        ("DequantizeLinear", "quantised"),
        ("MatMulInteger", "quantised"),
        ("RandomNormal", "no handler"),
        ("Gelu", "no operator of ai.onnx 17"),
    ],
)
def test_unknown_operators_are_refused(tmp_path, op, words):
    proto = model([helper.make_node(op, ["x"], ["y"], name="n")], {"x": X}, ["y"])
    message = refused(proto, tmp_path / "m.onnx", words, UnsupportedModuleError)
    assert f"node 'n' ({op})" in message


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
def test_control_flow_is_refused(tmp_path, op):
    body = helper.make_graph([relu()], "body", [], [])
    node = helper.make_node(op, ["x"], ["y"], name="n", body=body)
    proto = model([node], {"x": X}, ["y"])
    refused(proto, tmp_path / "m.onnx", "control flow", UnsupportedModuleError)


@pytest.mark.parametrize("version", [1, 8, 25, 2**40])
def test_operator_sets_out_of_range_are_refused(tmp_path, version):
    proto = product()
    proto.opset_import[0].version = version
    refused(proto, tmp_path / "m.onnx", f"operator set {version}", UnsupportedModuleError)


def test_models_without_a_graph_or_an_operator_set_are_refused(tmp_path):
    proto = product()
    del proto.opset_import[:]
    refused(proto, tmp_path / "m.onnx", "no operator set")
    proto = product()
    proto.ClearField("graph")
    refused(proto, tmp_path / "m.onnx", "no graph")


def test_types_that_do_not_go_together_are_refused(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="n")
    whole = np.arange(12).reshape(3, 4)
    path = write(model([node], {"x": X}, ["y"], {"w": whole}), tmp_path / "m.onnx")
    with pytest.raises(InvalidGraphError, match=r"'n' \(MatMul"):
        load_onnx(path)(torch.from_numpy(X))


def test_training_mode_is_refused(tmp_path):
    weights = {n: numbers(3, low=0.5) for n in "stmv"}
    node = helper.make_node("BatchNormalization", ["x", *"stmv"], ["y"], training_mode=1)
    path = write(model([node], {"x": X}, ["y"], weights), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModuleError, match="training mode"):
        load_onnx(path)(torch.from_numpy(X))


def test_a_kernel_that_its_weight_does_not_have_is_refused(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3])
    image = numbers(1, 2, 5)
    path = write(model([node], {"x": image}, ["y"], {"w": numbers(2, 2, 2)}), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModuleError, match="kernel_shape"):
        load_onnx(path)(torch.from_numpy(image))


# -- functions ---------------------------------------------------------------------------------


def function(name, nodes, inputs=("a",), outputs=("b",)):
    return helper.make_function(
        "of.ours", name, inputs, outputs, nodes, [helper.make_opsetid("", 17), OURS]
    )


OURS = helper.make_opsetid("of.ours", 1)


def with_functions(*functions, call="twice"):
    node = helper.make_node(call, ["x"], ["y"], domain="of.ours")
    proto = model([node], {"x": X}, ["y"])
    proto.opset_import.append(OURS)
    proto.functions.extend(functions)
    return proto


def test_functions_are_expanded(tmp_path):
    """With a weight inside, and one that calls another."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(W)),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    twice = [
        helper.make_node("dense", ["a"], ["c"], domain="of.ours"),
        helper.make_node("Add", ["c", "c"], ["b"]),
    ]
    proto = with_functions(function("dense", nodes), function("twice", twice))
    module = load_onnx(write(proto, tmp_path / "m.onnx"))
    np.testing.assert_allclose(run(module, {"x": X})[0], 2 * EXPECTED, rtol=1e-12)
    assert [tuple(t.shape) for t in module.parameters()] == [(3, 4)]


def test_functions_that_call_themselves_are_refused(tmp_path):
    one = function("one", [helper.make_node("two", ["a"], ["b"], domain="of.ours")])
    two = function("two", [helper.make_node("one", ["a"], ["b"], domain="of.ours")])
    refused(with_functions(one, two, call="one"), tmp_path / "m.onnx", "calls itself")


def test_functions_beside_control_flow_are_refused(tmp_path):
    body = helper.make_graph([helper.make_node("f", ["x"], ["y"], domain="of.ours")], "g", [], [])
    choice = helper.make_node("If", ["x"], ["y"], then_branch=body)
    proto = with_functions(function("f", [helper.make_node("If", ["a"], ["b"], then_branch=body)]))
    refused(proto, tmp_path / "m.onnx", "control flow", UnsupportedModuleError)
    proto = with_functions(function("f", [helper.make_node("Relu", ["a"], ["b"])]), call="f")
    proto.graph.node.append(choice)
    refused(proto, tmp_path / "m.onnx", "control flow", UnsupportedModuleError)


def test_functions_that_double_at_each_call_are_refused(tmp_path):
    functions = [function("f0", [helper.make_node("Relu", ["a"], ["b"])])]
    for level in range(1, 40):
        calls = [
            helper.make_node(f"f{level - 1}", ["a"], ["c"], domain="of.ours"),
            helper.make_node(f"f{level - 1}", ["c"], ["b"], domain="of.ours"),
        ]
        functions.append(function(f"f{level}", calls))
    refused(with_functions(*functions, call="f39"), tmp_path / "m.onnx", "at most")


# -- external data -----------------------------------------------------------------------------


def external(location="weights.bin", dims=(3, 4), **entries):
    """A model whose weight lies in another file."""
    proto = product()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
    return proto


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "model"
    (inside / "deep").mkdir(parents=True)
    data = bytes(8) + W.tobytes() + bytes(8)
    for path in (inside / "weights.bin", inside / "deep" / "weights.bin", tmp_path / "weights.bin"):
        path.write_bytes(data)
    return inside


@pytest.mark.parametrize("location", ["weights.bin", "deep/weights.bin", "./weights.bin"])
@pytest.mark.parametrize("length", [{}, {"length": 96}], ids=["", "length"])
def test_external_data_is_read(folder, location, length):
    path = write(external(location, offset=8, **length), folder / "m.onnx")
    module = load_onnx(path)
    np.testing.assert_allclose(run(module, {"x": X})[0], EXPECTED, rtol=1e-12)


def test_external_data_is_mapped_and_never_written(folder, monkeypatch):
    before = (folder / "weights.bin").read_bytes()
    write(external(offset=8), folder / "m.onnx")
    monkeypatch.chdir(folder)
    module = load_onnx("m.onnx")
    with torch.no_grad():
        module.w.zero_()
    assert not run(module, {"x": X})[0].any()
    assert (folder / "weights.bin").read_bytes() == before
    np.testing.assert_allclose(run(load_onnx("m.onnx"), {"x": X})[0], EXPECTED, rtol=1e-12)


def test_tensors_in_one_file_are_parameters_of_their_own(folder):
    """Also where they share bytes, or lie at odd places."""
    proto = external(offset=8)
    for name, offset in (("same", 8), ("shifted", 16), ("odd", 3)):
        tensor = TensorProto(name=name, data_type=TensorProto.DOUBLE, dims=[3, 4])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": str(offset)}.items():
            tensor.external_data.append(StringStringEntryProto(key=key, value=value))
        proto.graph.initializer.append(tensor)
        proto.graph.node.append(helper.make_node("MatMul", ["x", name], [f"y {name}"]))
        proto.graph.output.append(helper.make_tensor_value_info(f"y {name}", 0, None))
    module = load_onnx(write(proto, folder / "m.onnx"))
    pointers = {tensor.data_ptr() for tensor in module.parameters()}
    assert len(pointers) == 4
    assert torch.equal(module.w, module.same)
    assert torch.equal(module.w.flatten()[1:], module.shifted.flatten()[:-1])
    raw = (folder / "weights.bin").read_bytes()
    np.testing.assert_array_equal(
        module.odd.detach().numpy().reshape(-1), np.frombuffer(raw[3 : 3 + 96])
    )


@pytest.mark.parametrize(
    "location",
    [
        "../weights.bin",
        "deep/../../weights.bin",
        "{outside}",
        "/etc/passwd",
        "C:\\weights.bin",
        "..\\weights.bin",
        "",
        ".",
        "weights\0.bin",
    ],
)
def test_external_data_stays_in_its_folder(folder, location):
    location = location.format(outside=folder.parent / "weights.bin")
    refused(external(location, offset=8), folder / "m.onnx", "relative path of a file")


def test_links_are_not_followed(folder):
    (folder / "link.bin").symlink_to(folder.parent / "weights.bin")
    (folder / "inside.bin").symlink_to(folder / "weights.bin")
    (folder / "up").symlink_to(folder.parent)
    for location in ("link.bin", "inside.bin", "up/weights.bin"):
        refused(external(location, offset=8), folder / "m.onnx", "symbolic link")


def test_only_regular_files_are_opened(folder):
    os.mkfifo(folder / "pipe")
    (folder / "empty").touch()
    refused(external("pipe", offset=8), folder / "m.onnx", "no regular file")
    refused(external("deep", offset=8), folder / "m.onnx", "no regular file")
    refused(external("empty"), folder / "m.onnx", "empty")
    refused(external("absent.bin"), folder / "m.onnx", "cannot be read")
    refused(external("a" * 5000), folder / "m.onnx", "cannot be read")
    refused(external("weights.bin/more"), folder / "m.onnx", "cannot be read")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": 17}, "from byte 17 to 113; that file has 112 bytes"),
        ({"offset": 2**62}, "has 112 bytes"),
        ({"offset": -8}, "offset '-8'"),
        ({"offset": "8x"}, "offset '8x'"),
        ({"offset": "9" * 5000}, "expected a number of bytes"),
        ({"length": 95}, "95 bytes; its shape and type need 96"),
        ({"length": 2**62}, "need 96"),
        ({"dims": (2**30, 2**30)}, "more than"),
        ({"dims": (30, 40)}, "has 112 bytes"),
    ],
)
def test_external_places_are_checked(folder, entries, words):
    refused(external(**entries), folder / "m.onnx", words)


def test_external_tensors_hold_nothing_themselves(folder):
    proto = external(offset=8)
    proto.graph.initializer[0].raw_data = W.tobytes()
    refused(proto, folder / "m.onnx", "raw_data as well")


def test_external_data_counts_towards_the_bound(folder):
    path = write(external(offset=8), folder / "m.onnx")
    size = path.stat().st_size
    assert load_onnx(path, max_bytes=max(size, 96))
    proto = external("weights.bin", dims=(2**10, 2**10))
    (folder / "weights.bin").write_bytes(bytes(2**23))
    write(proto, path)
    with pytest.raises(DataFileError, match="more than 1000000 bytes"):
        load_onnx(path, max_bytes=10**6)
