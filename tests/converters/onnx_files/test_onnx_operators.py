"""Every operator does what ONNX's reference does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from onnx_cases import OPSET, compare, integers, model, numbers, run, write

from converters.onnx_files import load_onnx
from converters.onnx_files.host import HOST
from converters.onnx_files.ops import HANDLERS
from converters.onnx_files.structure import OPSETS

A, B = numbers(3, 4), numbers(3, 4, seed=1)
ROW = numbers(4, seed=2)
POSITIVE = numbers(3, 4, low=0.3)
UNIT = numbers(3, 4, low=-0.9, high=0.9)
WHOLE = np.array([[7, -7, 3], [-8, 2, 5]])
DIVISOR = np.array([[2, 2, -3], [3, -5, 5]])
TRUTH = np.array([[True, False, True], [False, False, True]])
OTHER = np.array([[True, True, False], [False, True, True]])
SPECIAL = np.array([1.0, np.inf, -np.inf, np.nan])
IMAGE = numbers(2, 3, 6, 7)
SIGNAL = numbers(2, 3, 9)
VOLUME = numbers(1, 2, 4, 5, 3)
BITS = np.array([1, 6, 255], dtype=np.uint8)


def case(op, *values, constants=(), opset=OPSET, outputs=1, name="", **attributes):
    """One node: its inputs (``None``: left out), which of them are constants, its attributes."""
    label = "-".join(filter(None, [op, name, f"{opset}" if opset != OPSET else ""]))
    return pytest.param(op, values, constants, opset, outputs, attributes, id=label)


def one_node(op, values, constants, opset, outputs, attributes):
    names = [f"i{place}" if value is not None else "" for place, value in enumerate(values)]
    made = [f"o{place}" for place in range(outputs)]
    node = helper.make_node(op, names, made, name="it", **attributes)
    given = {n: v for p, (n, v) in enumerate(zip(names, values, strict=True)) if n}
    fixed = {f"i{p}": given.pop(f"i{p}") for p in constants if f"i{p}" in given}
    return model([node], given, made, fixed, opset=opset), given


POINTWISE = [
    *(case(op, A) for op in ("Neg", "Abs", "Sign", "Exp", "Floor", "Ceil", "Erf", "Identity")),
    *(case(op, A) for op in ("Relu", "Sigmoid", "Tanh", "Softsign", "Sin", "Cos", "Tan", "Atan")),
    *(case(op, A) for op in ("Sinh", "Cosh", "Asinh", "Selu", "Elu", "Celu", "LeakyRelu")),
    *(case(op, A) for op in ("ThresholdedRelu", "HardSigmoid", "HardSwish", "Round", "Shrink")),
    *(case(op, POSITIVE) for op in ("Log", "Sqrt", "Reciprocal")),
    *(case(op, UNIT) for op in ("Asin", "Acos", "Atanh")),
    *(case(op, A, B) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater", "Equal")),
    *(case(op, A, A) for op in ("Equal", "LessOrEqual", "GreaterOrEqual")),
    *(case(op, A, ROW, name="broadcast") for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(op, A, ROW, B) for op in ("Sum", "Mean", "Max", "Min")),
    *(case(op, TRUTH, OTHER) for op in ("And", "Or", "Xor")),
    *(case(op, BITS, BITS[::-1].copy(), opset=18) for op in ("BitwiseAnd", "BitwiseOr")),
    case("BitwiseXor", BITS, BITS[::-1].copy(), opset=18),
    case("BitwiseNot", BITS, opset=18),
    case("BitShift", BITS, np.array([1, 2, 3], np.uint8), direction="LEFT"),
    case("BitShift", BITS, np.array([1, 2, 3], np.uint8), direction="RIGHT", name="right"),
    case("Not", TRUTH),
    case("Acosh", POSITIVE + 1),
    case("Softplus", A),
    case("Mish", A, opset=18),
    case("Gelu", A, opset=20),
    case("Gelu", A, opset=20, approximate="tanh", name="tanh"),
    case("Swish", A, opset=24),
    case("Swish", A, opset=24, alpha=1.5, name="alpha"),
    case("LeakyRelu", A, alpha=0.25, name="alpha"),
    case("Elu", A, alpha=0.5, name="alpha"),
    case("Celu", A.astype(np.float32), alpha=0.5, name="alpha"),
    case("Selu", A, alpha=1.5, gamma=2.0, name="own"),
    case("ThresholdedRelu", A, alpha=0.5, name="alpha"),
    case("HardSigmoid", A, alpha=0.5, beta=0.25, name="own"),
    case("Shrink", A, lambd=1.0, bias=0.5, name="own"),
    case("Add", A, np.array(0.5), constants=[1], name="number"),
    case("Sub", np.array(0.5), A, constants=[0], name="from-number"),
    case("Sub", A, np.array([0.5]), constants=[1], name="one"),
    case("Div", np.array(0.5), POSITIVE, constants=[0], name="of-number"),
    case("Div", WHOLE, DIVISOR, name="whole"),
    case("Div", WHOLE, np.array(2), constants=[1], name="whole-number"),
    case("Mod", WHOLE, DIVISOR),
    case("Mod", A, B, fmod=1, name="fmod"),
    case("Pow", POSITIVE, B),
    case("Pow", A, np.array(2.0), constants=[1], name="square"),
    case("Pow", np.array(2.0), A, constants=[0], name="of-two"),
    case("Pow", A, np.array(3), constants=[1], name="whole-exponent"),
    case("PRelu", A, np.array([0.2])),
    case("PRelu", A, ROW, constants=[1], name="last-axis"),
    case("PRelu", IMAGE, numbers(3, 1, 1), constants=[1], name="channels"),
    case("Clip", A, np.array(-0.5), np.array(0.75), constants=[1, 2]),
    case("Clip", A, None, np.array(0.75), constants=[2], name="above"),
    case("Clip", A, np.array(-0.5), constants=[1], name="below"),
    case("Clip", A, np.array(-0.5), np.array(0.5), name="computed"),
    case("Clip", A, name="none"),
    case("Where", TRUTH, numbers(2, 3), numbers(3)),
    case("Where", TRUTH, numbers(2, 3), np.array(-1e30), constants=[2], name="number"),
    case("Where", TRUTH, np.array(0.0), np.array(-1e30), constants=[1, 2], name="numbers"),
    case("Cast", A, to=1),
    case("Cast", A, to=7, name="whole"),
    case("Cast", TRUTH, to=11, name="truth"),
    case("Cast", A, to=9, name="to-truth"),
    case("CastLike", A, WHOLE),
    case("IsNaN", SPECIAL),
    case("IsInf", SPECIAL),
    case("IsInf", SPECIAL, detect_negative=0, name="positive"),
    case("IsInf", SPECIAL, detect_positive=0, name="negative"),
    case("Dropout", A),
    case("Dropout", A, np.array(0.5), np.array(False), constants=[1, 2], name="inputs"),
]

LINEAR = [
    case("MatMul", A, numbers(4, 5), constants=[1]),
    case("MatMul", numbers(2, 3, 4), numbers(2, 4, 5), name="batched"),
    case("MatMul", numbers(5, 3), A, constants=[0], name="weight-first"),
    case("Gemm", A, numbers(4, 5), numbers(5), constants=[1, 2]),
    case("Gemm", A, numbers(5, 4), numbers(5), constants=[1, 2], transB=1, name="torch"),
    case("Gemm", A, numbers(5, 4), constants=[1], transB=1, name="no-bias"),
    case("Gemm", A, numbers(4, 5), constants=[1], alpha=0.5, name="no-bias-scaled"),
    case("Gemm", numbers(4, 3), numbers(5, 4), numbers(3, 1), transA=1, transB=1, name="both"),
    case("Gemm", A, numbers(5, 4), numbers(1, 5), transB=1, alpha=0.5, beta=2.0, name="scaled"),
    case("Gemm", A, numbers(5, 4), np.array(0.5), transB=1, name="scalar-bias"),
    case("Einsum", numbers(2, 3, 4), numbers(4, 5), equation="bij,jk->bik"),
]

CONVOLUTION = [
    case("Conv", IMAGE, numbers(4, 3, 3, 3), numbers(4), constants=[1, 2]),
    case("Conv", IMAGE, numbers(4, 3, 3, 3), constants=[1], pads=[1, 1, 1, 1], name="pads"),
    case("Conv", IMAGE, numbers(4, 3, 3, 3), pads=[0, 1, 2, 0], strides=[2, 1], name="uneven"),
    case("Conv", IMAGE, numbers(4, 3, 2, 3), auto_pad="SAME_UPPER", strides=[2, 2], name="upper"),
    case("Conv", IMAGE, numbers(4, 3, 2, 3), auto_pad="SAME_LOWER", strides=[2, 2], name="lower"),
    case("Conv", IMAGE, numbers(4, 3, 2, 3), auto_pad="VALID", name="valid"),
    case("Conv", IMAGE, numbers(6, 1, 3, 3), numbers(6), group=3, name="depthwise"),
    case("Conv", IMAGE, numbers(4, 3, 2, 2), dilations=[2, 3], name="dilated"),
    case("Conv", SIGNAL, numbers(4, 3, 3), numbers(4), strides=[2], name="1d"),
    case("Conv", VOLUME, numbers(3, 2, 2, 2, 2), pads=[1, 0, 1, 1, 0, 1], name="3d"),
    case("ConvTranspose", IMAGE, numbers(3, 4, 3, 3), numbers(4), constants=[1, 2]),
    case("ConvTranspose", IMAGE, numbers(3, 4, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], name="s"),
    case(
        "ConvTranspose",
        IMAGE,
        numbers(3, 4, 3, 3),
        numbers(4),
        strides=[2, 3],
        pads=[1, 0, 0, 1],
        output_padding=[1, 2],
        name="uneven",
    ),
    case("ConvTranspose", SIGNAL, numbers(3, 2, 3), strides=[2], dilations=[2], name="1d"),
    case(
        "ConvTranspose",
        IMAGE,
        numbers(3, 4, 3, 3),
        strides=[2, 2],
        auto_pad="SAME_UPPER",
        name="upper",
    ),
]

POOLING = [
    case("MaxPool", IMAGE, kernel_shape=[2, 3]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], name="pads"),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 2, 0], name="uneven"),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, name="ceil"),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], name="dilated"),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER", name="same"),
    case("MaxPool", SIGNAL, kernel_shape=[3], strides=[2], name="1d"),
    case("MaxPool", VOLUME, kernel_shape=[2, 2, 2], name="3d"),
    case("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="without-pad"),
    case(
        "AveragePool",
        IMAGE,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
        name="with-pad",
    ),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0], name="uneven"),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_LOWER", name="lower"),
    case("AveragePool", SIGNAL, kernel_shape=[3], strides=[2], name="1d"),
    case("AveragePool", VOLUME, kernel_shape=[2, 2, 2], name="3d"),
    case("GlobalAveragePool", IMAGE),
    case("GlobalAveragePool", SIGNAL, name="1d"),
    case("GlobalMaxPool", IMAGE),
]

C3 = [numbers(3, seed=s, low=0.5) for s in range(4)]
NORMALISATION = [
    case("BatchNormalization", IMAGE, *C3, constants=[1, 2, 3, 4]),
    case("BatchNormalization", IMAGE, *C3, epsilon=0.1, name="epsilon", opset=14),
    case("BatchNormalization", numbers(5, 3), *C3, name="flat"),
    case("InstanceNormalization", IMAGE, *C3[:2]),
    case("LayerNormalization", A, ROW, numbers(4)),
    case("LayerNormalization", A, ROW, name="no-shift", epsilon=0.1),
    case("LayerNormalization", IMAGE, numbers(6, 7), numbers(6, 7), axis=-2, name="two-axes"),
    case("LayerNormalization", IMAGE, numbers(7), numbers(7), axis=2, name="broadcast"),
    case("GroupNormalization", numbers(2, 6, 4), numbers(6), numbers(6), num_groups=3, opset=21),
    case("RMSNormalization", A.astype(np.float32), ROW.astype(np.float32), opset=23, epsilon=0.1),
    case("MeanVarianceNormalization", IMAGE.astype(np.float32)),
    case("LpNormalization", A),
    case("LpNormalization", POSITIVE, axis=0, p=1, name="sum"),
]

SHAPE = [
    case("Reshape", A, integers(2, 6)),
    case("Reshape", IMAGE, integers(0, -1, 7), name="keep"),
    case("Reshape", numbers(0, 3), integers(3, 0), allowzero=1, name="zero"),
    case("Transpose", IMAGE, perm=[2, 0, 3, 1]),
    case("Transpose", A, name="default"),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=0, name="all"),
    case("Flatten", IMAGE, axis=-1, name="last"),
    case("Squeeze", numbers(1, 3, 1), integers(0)),
    case("Squeeze", numbers(1, 3, 1), integers(0, -1), name="two"),
    case("Squeeze", numbers(1, 3, 1), name="all"),
    case("Squeeze", numbers(1, 3, 1), opset=11, axes=[2], name="attribute"),
    case("Unsqueeze", A, integers(0, -1)),
    case("Unsqueeze", A, opset=11, axes=[1, 3], name="attribute"),
    case("Concat", A, B, axis=1),
    case("Concat", A, numbers(1, 4), A, axis=-2, name="three"),
    case("Split", A, integers(1, 3), outputs=2, axis=1),
    case("Split", A, outputs=2, axis=-1, name="equal"),
    case("Split", numbers(5, 2), outputs=2, num_outputs=2, opset=18, name="uneven"),
    case("Split", A, outputs=2, split=[3, 1], axis=1, opset=11, name="attribute"),
    case("Slice", A, integers(1, 0), integers(3, -1)),
    case("Slice", A, integers(-3), integers(9), integers(-1), integers(2), name="steps"),
    case("Slice", A, integers(-1), integers(-(2**63)), integers(1), integers(-1), name="back"),
    case("Slice", A, integers(3), integers(0), integers(1), integers(-2), name="back-by-two"),
    case("Slice", A, opset=9, starts=[1], ends=[3], axes=[1], name="attributes"),
    case("Expand", ROW, integers(2, 3, 1)),
    case("Tile", A, integers(2, 3)),
    case("Pad", A, integers(1, 0, 0, 2)),
    case("Pad", A, integers(1, 2), np.array(0.5), integers(-1), name="axes", opset=18),
    case("Pad", IMAGE, integers(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect", name="reflect"),
    case("Pad", IMAGE, integers(0, 0, 1, 2, 0, 0, 2, 1), mode="edge", name="edge"),
    case("Pad", IMAGE, integers(0, 0, 1, 2, 0, 0, 2, 1), mode="wrap", name="wrap", opset=19),
    case("Pad", A, integers(2, 0, 0, 3), mode="reflect", name="reflect-any"),
    case("Pad", A, integers(1, 0, 2, 5), mode="edge", name="edge-any"),
    case("Pad", A, opset=9, pads=[1, 0, 0, 2], value=0.5, name="attributes"),
    case("Shape", IMAGE),
    case("Shape", IMAGE, start=1, end=-1, opset=15, name="part"),
    case("Size", IMAGE),
    case("DepthToSpace", numbers(2, 8, 2, 3), blocksize=2),
    case("DepthToSpace", numbers(2, 8, 2, 3), blocksize=2, mode="CRD", name="crd"),
    case("SpaceToDepth", numbers(2, 2, 4, 6), blocksize=2),
    case("Trilu", A),
    case("Trilu", A, integers(1).reshape(()), upper=0, name="lower"),
    case("EyeLike", A, k=1, dtype=7),
]

REDUCTION = [
    *(case(f"Reduce{op}", IMAGE, axes=[1, -1]) for op in ("Mean", "Max", "Min", "Prod", "L1")),
    *(case(f"Reduce{op}", IMAGE, name="all") for op in ("Mean", "Max", "Min", "L1", "L2")),
    *(case(f"Reduce{op}", POSITIVE, axes=[1]) for op in ("L2", "SumSquare", "LogSum")),
    *(case(f"Reduce{op}", A, keepdims=0, axes=[0]) for op in ("Max", "LogSumExp")),
    *(case(f"Reduce{op}", A, integers(0), opset=18, name="input") for op in ("Mean", "Prod")),
    *(
        case(f"Reduce{op}", A, integers(), opset=18, noop_with_empty_axes=1, name="none")
        for op in ("Mean", "Max")
    ),
    case("ReduceSum", IMAGE, integers(0, 2)),
    case("ReduceSum", IMAGE, integers(-1), keepdims=0, name="last"),
    case("ReduceSum", WHOLE, name="whole"),
    case("ReduceSum", A, noop_with_empty_axes=1, name="none"),
    case("ReduceSum", A, axes=[0], opset=11, name="attribute"),
    case("Softmax", IMAGE),
    case("Softmax", IMAGE, axis=1, name="axis"),
    case("Softmax", A, opset=11, name="two"),
    case("LogSoftmax", IMAGE, axis=0),
    case("Hardmax", IMAGE, axis=1),
    case("ArgMax", IMAGE, axis=1),
    case("ArgMin", IMAGE, keepdims=0),
    case("ArgMax", np.array([[1.0, 3, 3, 2]]), axis=1, select_last_index=1, name="last"),
    case("TopK", A, integers(2), constants=[1], outputs=2),
    case("TopK", A, integers(2), constants=[1], outputs=2, axis=0, largest=0, name="least"),
    case("CumSum", A, np.array(1)),
    case("CumSum", A, np.array(-1), exclusive=1, reverse=1, name="back"),
]

TABLE = numbers(5, 3)
INDEXING = [
    case("Gather", TABLE, integers(0, 4, -1)),
    case("Gather", TABLE, np.array([[0, 4], [-1, 2]]), constants=[0], name="table"),
    case("Gather", TABLE, np.array([[0, 2], [-1, 2]]), axis=1, name="axis"),
    case("Gather", TABLE, np.array(2), constants=[1], axis=-1, name="one"),
    case("Gather", IMAGE, integers(1, -1, dtype=np.int32), axis=2, name="int32"),
    case("GatherElements", TABLE, np.array([[0, -1, 2], [1, 1, 0]])),
    case("GatherElements", TABLE[:2], np.array([[0, -1], [1, 1]]), axis=1, name="axis"),
    case("GatherND", IMAGE, np.array([[0, 2], [1, -1]])),
    case("ScatterND", TABLE, np.array([[0], [-2]]), numbers(2, 3)),
    case("ScatterND", TABLE, np.array([[0], [0]]), numbers(2, 3), reduction="add", name="add"),
    case("ScatterElements", TABLE, np.array([[0, -1, 2]]), numbers(1, 3)),
    case(
        "ScatterElements",
        TABLE,
        np.array([[0, 0, 2]]),
        numbers(1, 3),
        axis=1,
        reduction="add",
        opset=16,
        name="add",
    ),
    case("OneHot", integers(0, 3, -1, 7), np.array(4), np.array([0.5, 2.0])),
    case("OneHot", integers(0, 3), np.array(4), np.array([0.0, 1.0]), axis=0, name="first"),
]

ROOM = numbers(1, 2, 5, 5)
RESAMPLING = [
    case("Resize", IMAGE, None, np.array([1, 1, 2, 2], np.float32)),
    case("Resize", IMAGE, None, np.array([1, 1, 0.6, 1.7], np.float32), name="odd"),
    case("Resize", IMAGE, None, None, integers(2, 3, 9, 4), name="sizes"),
    case("Resize", IMAGE, None, None, integers(9, 4), axes=[2, 3], opset=18, name="axes"),
    *(
        case(
            "Resize",
            IMAGE,
            None,
            None,
            integers(2, 3, 9, 4),
            name=f"{where}-{rounding}",
            coordinate_transformation_mode=where,
            nearest_mode=rounding,
        )
        for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    *(
        case(
            "Resize",
            IMAGE,
            None,
            None,
            integers(2, 3, 9, 4),
            mode=mode,
            coordinate_transformation_mode=where,
            name=f"{mode}-{where}",
        )
        for mode in ("linear", "cubic")
        for where in ("half_pixel", "pytorch_half_pixel", "align_corners")
    ),
    case("Resize", SIGNAL, None, np.array([1, 1, 1.5], np.float32), mode="linear", name="1d"),
    case("Upsample", IMAGE, np.array([1, 1, 2, 3], np.float32), opset=9),
    case("GridSample", ROOM, numbers(1, 3, 4, 2, low=-1.1, high=1.1), opset=20),
    case(
        "GridSample",
        ROOM,
        numbers(1, 3, 4, 2, low=-1, high=1),
        opset=16,
        mode="nearest",
        padding_mode="border",
        align_corners=1,
        name="nearest",
    ),
]

H4 = [numbers(2, 4, 3, 8, seed=s) for s in range(3)]
ATTENTION = [
    case("Attention", *H4, opset=23),
    case("Attention", *H4, opset=23, scale=0.25, is_causal=1, name="causal"),
    case("Attention", *H4, numbers(3, 3), opset=23, name="mask"),
    case("Attention", H4[0], H4[1][:, :2], H4[2][:, :2], opset=23, name="grouped"),
    case(
        "Attention",
        *(numbers(2, 3, 8, seed=s) for s in range(3)),
        opset=23,
        q_num_heads=2,
        kv_num_heads=2,
        name="flat",
    ),
]

#: what steers a node, and so is a constant in these cases unless they say otherwise
SETTINGS = {
    "Reshape": [1], "Squeeze": [1], "Unsqueeze": [1], "Split": [1], "Slice": [1, 2, 3, 4],
    "Expand": [1], "Tile": [1], "Pad": [1, 2, 3], "Trilu": [1], "CumSum": [1], "OneHot": [1, 2],
    "Resize": [1, 2, 3], "Upsample": [1],
    **{f"Reduce{op}": [1] for op in ("Sum", "Mean", "Max", "Min", "Prod")},
}  # fmt: skip
FAMILIES = [
    POINTWISE,
    LINEAR,
    CONVOLUTION,
    POOLING,
    NORMALISATION,
    SHAPE,
    REDUCTION,
    INDEXING,
    RESAMPLING,
    ATTENTION,
]
CASES = [entry for family in FAMILIES for entry in family]
#: the reference computes these in float32; softplus is linear beyond 20 in torch
ROUGH = {
    "Softplus": 1e-8,
    "Mish": 1e-8,
    "RMSNormalization": 1e-5,
    "GridSample": 1e-5,
    "Celu": 1e-6,
    "MeanVarianceNormalization": 1e-4,
}


def tolerance(op, attributes):
    return 1e-6 if attributes.get("mode") in ("cubic", "linear") else ROUGH.get(op, 2e-7)


@pytest.mark.parametrize(("op", "values", "constants", "opset", "outputs", "attributes"), CASES)
def test_operator(tmp_path, op, values, constants, opset, outputs, attributes):
    constants = constants or SETTINGS.get(op, ())
    proto, given = one_node(op, values, constants, opset, outputs, attributes)
    rtol = tolerance(op, attributes)
    compare(proto, given, tmp_path / "one.onnx", rtol=rtol, atol=rtol)


# -- where the reference itself is wrong or refuses -----------------------------------------------


def loaded(tmp_path, op, *values, opset=OPSET, outputs=1, **attributes):
    proto, given = one_node(op, values, SETTINGS.get(op, ()), opset, outputs, attributes)
    found = run(load_onnx(write(proto, tmp_path / "one.onnx")), given)
    return found[0] if outputs == 1 else found


def test_grouped_transposed_convolution_is_one_per_group(tmp_path):
    weight = numbers(6, 2, 3, 3)
    image = numbers(2, 6, 4, 5)
    found = loaded(tmp_path, "ConvTranspose", image, weight, group=3, strides=[2, 2])
    parts = [
        loaded(tmp_path, "ConvTranspose", image[:, i : i + 2], weight[i : i + 2], strides=[2, 2])
        for i in (0, 2, 4)
    ]
    np.testing.assert_allclose(found, np.concatenate(parts, 1), rtol=1e-12)


@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_output_shape_is_padding(tmp_path, mode):
    weight = numbers(3, 4, 3, 3)
    more, less = [1, 1], [0, 0]  # (6 - 1) * 2 + 3 = 13 and 15 without padding
    pads = less + more if mode == "SAME_UPPER" else more + less
    settings = {"strides": [2, 2], "auto_pad": mode, "output_shape": [12, 14]}
    found = loaded(tmp_path, "ConvTranspose", IMAGE, weight, **settings)
    expected = loaded(tmp_path, "ConvTranspose", IMAGE, weight, strides=[2, 2], pads=pads)
    assert found.shape == (2, 4, 12, 14)
    np.testing.assert_array_equal(found, expected)


def test_global_pooling_of_volumes(tmp_path):
    expected = VOLUME.max((2, 3, 4), keepdims=True)
    np.testing.assert_array_equal(loaded(tmp_path, "GlobalMaxPool", VOLUME), expected)
    expected = np.sqrt((VOLUME**2).sum((2, 3, 4), keepdims=True))
    np.testing.assert_allclose(loaded(tmp_path, "GlobalLpPool", VOLUME), expected, rtol=1e-12)


def test_local_response_normalisation(tmp_path):
    image = numbers(2, 5, 2, 3)
    expected = np.empty_like(image)
    for c in range(5):
        near = image[:, max(c - 1, 0) : c + 2]
        expected[:, c] = image[:, c] / (1.5 + 0.25 / 3 * (near**2).sum(1)) ** 0.5
    found = loaded(tmp_path, "LRN", image, size=3, alpha=0.25, beta=0.5, bias=1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scales_of_groups_before_operator_set_21(tmp_path):
    image, scale, shift = numbers(2, 6, 4), numbers(3), numbers(3)
    found = loaded(tmp_path, "GroupNormalization", image, scale, shift, num_groups=3, opset=18)
    per_channel = (np.repeat(scale, 2), np.repeat(shift, 2))
    expected = loaded(tmp_path, "GroupNormalization", image, *per_channel, num_groups=3, opset=21)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_resize_of_operator_set_10_has_its_scales_first(tmp_path):
    scales = np.array([1, 1, 2, 3], np.float32)
    found = loaded(tmp_path, "Resize", IMAGE, scales, opset=10)
    np.testing.assert_array_equal(found, IMAGE.repeat(2, 2).repeat(3, 3))


def test_negative_pads_crop(tmp_path):
    found = loaded(tmp_path, "Pad", A, integers(0, -1, 0, 2), np.array(3.0))
    expected = np.concatenate([A[:, 1:], np.full((3, 2), 3.0)], 1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_padding_beyond_the_tensor(tmp_path, mode):
    row = np.array([[1.0, 2.0, 3.0]])
    found = loaded(tmp_path, "Pad", row, integers(0, 5, 0, 4), mode=mode, opset=19)
    expected = np.pad(row, ((0, 0), (5, 4)), mode=mode)
    np.testing.assert_array_equal(found, expected)


# -- known values ----------------------------------------------------------------------------------

N6 = np.arange(6).reshape(2, 3)
KNOWN = [
    *(case(op, N6 - 3) for op in ("Abs", "Neg", "Sign", "Identity", "Shape", "Size", "NonZero")),
    *(case(op, N6, integers(3, 1, 2)) for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum")),
    *(case(op, WHOLE, DIVISOR) for op in ("Div", "Mod", "Equal", "Less", "LessOrEqual")),
    *(case(op, WHOLE, DIVISOR) for op in ("Greater", "GreaterOrEqual")),
    *(case(op, np.array(2.25)) for op in ("Sqrt", "Floor", "Ceil", "Exp", "Log", "Round")),
    case("Reciprocal", np.array(4.0)),
    case("Div", np.array(2.25), np.array(2.0), name="real"),
    case("Mod", WHOLE, DIVISOR, fmod=1, name="fmod"),
    case("Pow", N6, np.array(2)),
    *(case(op, TRUTH, OTHER) for op in ("And", "Or")),
    case("Not", TRUTH),
    case("Where", TRUTH, N6, -N6),
    case("Cast", N6, to=1),
    case("Cast", N6, to=9, name="truth"),
    case("Concat", N6, N6, axis=-1),
    case("ConstantOfShape", integers(2, 3)),
    case(
        "ConstantOfShape",
        integers(2, 3),
        value=helper.make_tensor("v", 7, [1], [5]),
        name="five",
    ),
    case("CumSum", N6, np.array(1)),
    case("Expand", integers(1, 2, 3), integers(2, 1)),
    case("Gather", N6, integers(2, -3), axis=1),
    case("Gather", integers(4, 5, 6), np.array(-1), name="one"),
    case("Range", np.array(2), np.array(11), np.array(3)),
    case("Range", np.array(5.0), np.array(1.0), np.array(-1.5), name="back"),
    *(case(f"Reduce{op}", N6, axes=[1]) for op in ("Max", "Min", "Prod")),
    case("ReduceSum", N6, integers(0), keepdims=0),
    case("ReduceSum", N6, noop_with_empty_axes=1, name="none"),
    case("Reshape", N6, integers(3, -1)),
    case("ScatterND", integers(1, 2, 3), np.array([[0], [2]]), integers(7, 8)),
    case("Shape", N6, start=1, name="part"),
    case("Slice", N6, integers(-1), integers(-9), integers(1), integers(-2)),
    case("Split", N6, integers(1, 2), outputs=2, axis=1),
    case("Squeeze", integers(4), integers(0)),
    case("Squeeze", integers(4), name="all"),
    case("Tile", N6, integers(2, 1)),
    case("Transpose", N6, perm=[1, 0]),
    case("Unsqueeze", integers(4, 5), integers(0, -1)),
]


@pytest.mark.parametrize(("op", "values", "constants", "opset", "outputs", "attributes"), KNOWN)
def test_known_values_are_worked_out(tmp_path, op, values, constants, opset, outputs, attributes):
    constants = range(len(values))
    proto, _ = one_node(op, values, constants, opset, outputs, attributes)
    # Numbers from Constant nodes are known; real ones of initialisers would be weights.
    for tensor in list(proto.graph.initializer):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        proto.graph.node.insert(0, node)
    del proto.graph.initializer[:]
    proto.graph.input.append(helper.make_tensor_value_info("x", 11, [1]))
    proto.graph.output.append(helper.make_tensor_value_info("y", 11, [1]))
    proto.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    module = compare(proto, {"x": np.array([1.0])}, tmp_path / "known.onnx", rtol=1e-12)
    assert module.operators() == {"Relu": 1}
    assert not module.state_dict()


def test_shapes_of_the_input_are_worked_out_without_a_trace(tmp_path):
    """Reshape to [B, 2, D / 2] by shape arithmetic, as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["d"]),
        helper.make_node("Div", ["d", "two"], ["h"]),
        helper.make_node("Slice", ["s", "zeros", "ones"], ["b"]),
        helper.make_node("Unsqueeze", ["h", "zeros"], ["h1"]),
        helper.make_node("Concat", ["b", "twos", "h1"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    weights = {
        "one": np.array(1),
        "two": np.array(2),
        "zeros": integers(0),
        "ones": integers(1),
        "twos": integers(2),
    }
    inputs = {"x": numbers(3, 8)}
    proto = model(nodes, inputs, ["y"], weights, shapes={"x": ["batch", "width"]})
    module = compare(proto, inputs, tmp_path / "shape.onnx")
    compare(proto, {"x": numbers(2, 6)}, tmp_path / "shape.onnx")
    traced = torch.export.export(module, (torch.zeros(3, 8),), strict=False)
    targets = [str(n.target) for n in traced.graph.nodes if n.op == "call_function"]
    assert targets == ["aten.reshape.default"]


def test_constants_of_the_inputs_shape_can_be_traced(tmp_path):
    two = helper.make_tensor("two", 11, [1], [2.0])
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["c"], value=two),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    proto = model(nodes, {"x": A}, ["y"])
    module = compare(proto, {"x": A}, tmp_path / "c.onnx")
    x = torch.from_numpy(A)
    traced = torch.export.export(module, (x,), strict=False).module()
    assert torch.equal(traced(x), 2 * x)


# -- the whole -------------------------------------------------------------------------------------


def test_every_operator_is_tried():
    tried = {entry.values[0] for entry in CASES}
    recurrent = {"LSTM", "GRU", "RNN"}
    by_hand = {"GlobalLpPool", "LRN"}
    of_scikit_learn = {"Scaler", "ZipMap"}  # held to numbers in test_onnx_classifiers.py
    assert set(HANDLERS) == tried | recurrent | by_hand | of_scikit_learn
    assert {entry.values[0] for entry in KNOWN} == set(HOST)


@pytest.mark.parametrize("opset", range(OPSETS[0], OPSETS[1] + 1))
def test_operator_sets(tmp_path, opset):
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "l", "k"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    weights = {
        "w": numbers(4, 3, 3, 3),
        "b": numbers(4),
        **{name: numbers(4, seed=i, low=0.5) for i, name in enumerate("stmv")},
        "l": numbers(5, 36),
        "k": numbers(5),
    }
    inputs = {"x": IMAGE}
    proto = model(nodes, inputs, ["y"], weights, opset=opset)
    if opset < 14:  # the reference normalises as in training; the meaning is that of newer sets
        module = load_onnx(write(proto, tmp_path / "old.onnx"))
        proto.opset_import[0].version = 15
        other = load_onnx(write(proto, tmp_path / "new.onnx"))
        np.testing.assert_array_equal(run(module, inputs), run(other, inputs))
    else:
        compare(proto, inputs, tmp_path / "net.onnx", rtol=1e-9)
