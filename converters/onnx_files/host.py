"""Operators on values that are known without running: shapes, indices, scalars.

They run by ONNX's own reference, when the file is read or, for what depends on the sizes of the
input, when the network is run or traced; none of them leaves an operation in the trace.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from converters.onnx_files.node import Handler, Node, NodeCall, Value
from converters.onnx_files.ops import HANDLERS
from converters.onnx_files.tensors import ELEMENTS, Array

#: More numbers than a mask of 4,096 by 4,096 has: a file that wants them is refused.
MOST = 2**24
#: operators whose handlers take known values as they take tensors
_SHARED = ("Identity", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze")
#: operators whose result is as large as their operands, broadcast, or smaller
_POINTWISE = (
    "Abs Add And Ceil Cast CumSum Div Equal Exp Floor Greater GreaterOrEqual Less LessOrEqual Log "
    "Max Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sqrt Sub Sum Where"
)


def evaluate(call: NodeCall) -> Sequence[Value]:
    """Run one node, in numpy on known values or in torch; return a value for each of its outputs.

    Raises:
        NNGraphError: what the handler refuses; it names the node.
    """
    node, kind = call.node, call.node.op_type
    known = kind in HOST and not any(isinstance(value, Tensor) for value in call.values)
    handler = HOST[kind] if known else HANDLERS.get(kind)
    if handler is None:
        raise node.refuse(
            "it is supported only on values that are known from the file and the input's shape; "
            "here it reads what is computed from data."
        )
    with np.errstate(all="ignore") if known else contextlib.nullcontext():
        result = handler(call)
    values: Sequence[Any] = result if isinstance(result, list | tuple) else [result]
    if len(values) < len(node.outputs) and any(node.outputs[len(values) :]):
        raise node.refuse(f"only its first {len(values)} outputs are supported.")
    return values


def _by_reference(size: Callable[[NodeCall], int]) -> Handler:
    """Run an operator by the reference, if the numbers of its result are not too many."""

    def handle(call: NodeCall) -> Sequence[Array]:
        count = size(call)
        if not 0 <= count <= MOST:
            raise call.refuse(f"its result has {count} numbers; at most {MOST} are.")
        given = dict(zip(call.node.inputs, call.values, strict=True))
        run = _reference(call.node)
        try:
            made = run(None, {name: value for name, value in given.items() if name}, {})
        except Exception as error:  # the reference checks little: what does not fit fails anywhere
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return [np.asarray(array) for array in made]

    return handle


@functools.lru_cache(4096)
def _reference(node: Node) -> Callable[..., Any]:
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    attributes = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    proto = helper.make_node(node.op_type, node.inputs, node.outputs, **attributes)
    inputs = list(dict.fromkeys(filter(None, node.inputs)))
    opsets = [helper.make_opsetid("", node.opset)]
    function = helper.make_function("", "known", inputs, node.outputs, [proto], opsets)
    return ReferenceEvaluator(function).run


def _broadcast(call: NodeCall) -> int:
    shapes = [call.array(place).shape for place in range(len(call.values))]
    return math.prod(np.broadcast_shapes(*shapes))


def _count(call: NodeCall) -> int:
    start, limit, step = (float(call.array(place).reshape(())) for place in range(3))
    if step == 0:
        raise call.refuse("its step is 0.")
    return max(math.ceil((limit - start) / step), 0)


def _expanded(call: NodeCall) -> int:
    return math.prod(np.broadcast_shapes(call.array(0).shape, tuple(call.integers(1))))


def _gathered(call: NodeCall) -> int:
    x = call.array(0)
    rest: list[int] = np.delete(x.shape, call.node.get("axis", 0)).tolist()
    return int(call.array(1).size) * math.prod(rest)


def _joined(call: NodeCall) -> int:
    return sum(int(call.array(place).size) for place in range(len(call.values)))


def _sized(call: NodeCall) -> int:
    sizes = call.integers(0)
    return math.prod(sizes) if min(sizes, default=0) >= 0 else -1


def _cast(call: NodeCall) -> Array:
    number = call.node.get("to", 1)
    call.dtype(number)  # refuses what is no type
    return call.array(0).astype(ELEMENTS[number].array)  # bfloat16 has none: float32


#: operator -> how many numbers its result has at most
_SIZES: dict[str, Callable[[NodeCall], int]] = {
    **dict.fromkeys(_POINTWISE.split(), _broadcast),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ScatterND", "Transpose",
         "Unsqueeze"),
        lambda call: call.array(0).size,
    ),
    "Concat": _joined,
    "ConstantOfShape": _sized,
    "Expand": _expanded,
    "Gather": _gathered,
    "NonZero": lambda call: call.array(0).size * max(call.array(0).ndim, 1),
    "Range": _count,
    "Tile": lambda call: call.array(0).size * math.prod(call.integers(1)),
}  # fmt: skip

#: operator -> what runs it on known values
HOST: dict[str, Handler] = {
    **{name: _by_reference(size) for name, size in _SIZES.items()},
    **{name: HANDLERS[name] for name in _SHARED},
    "Cast": _cast,
}
