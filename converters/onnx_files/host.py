"""Operators on values that are known without running: shapes, indices, scalars.

They run in numpy, when the file is read or, for what depends on the sizes of the input, when the
network is run or traced; none of them leaves an operation in the trace.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from converters.onnx_files.node import Handler, NodeCall, Value
from converters.onnx_files.ops import HANDLERS
from converters.onnx_files.tensors import ELEMENTS, Array

#: More numbers than a mask of 4,096 by 4,096 has: a file that wants them is refused.
MOST = 2**24


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


def _bounded(call: NodeCall, shape: Sequence[int]) -> tuple[int, ...]:
    if math.prod(shape) > MOST or min(shape, default=0) < 0:
        raise call.refuse(f"its result has the shape {list(shape)}; at most {MOST} numbers are.")
    return tuple(shape)


def _arrays(call: NodeCall) -> list[Array]:
    return [call.array(place) for place in range(len(call.values))]


def _pointwise(function: Callable[..., Any]) -> Handler:
    def run(call: NodeCall) -> Array:
        arrays = _arrays(call)
        _bounded(call, np.broadcast_shapes(*(a.shape for a in arrays)))
        return np.asarray(function(*arrays))

    return run


def _variadic(function: Callable[[Any, Any], Any]) -> Handler:
    return _pointwise(lambda *arrays: functools.reduce(function, arrays))


def _divide(first: Array, second: Array) -> Array:
    if first.dtype.kind == "f":
        return np.asarray(first / second)
    quotient = np.abs(first) // np.abs(second)
    return np.asarray(quotient * np.sign(first) * np.sign(second)).astype(first.dtype)


def _power(first: Array, second: Array) -> Array:
    return np.asarray(np.power(first.astype(np.float64), second)).astype(first.dtype)


def _reduce(function: Callable[..., Any]) -> Handler:
    def run(call: NodeCall) -> Array:
        x, axes = call.array(0), call.integers_or(1, "axes")
        if not axes and call.node.get("noop_with_empty_axes", 0):
            return x
        along, keep = tuple(axes) if axes else None, bool(call.node.get("keepdims", 1))
        return np.asarray(function(x, axis=along, keepdims=keep)).astype(x.dtype)

    return run


def _cast(call: NodeCall) -> Array:
    number = call.node.get("to", 1)
    call.dtype(number)  # refuses what is no type
    return call.array(0).astype(ELEMENTS[number].array)


def _constant_of_shape(call: NodeCall) -> Array:
    value: Array = call.node.get("value", np.zeros(1, np.float32))
    return np.full(_bounded(call, call.integers(0)), value.reshape(()))


def _range(call: NodeCall) -> Array:
    start, limit, step = (call.array(place).reshape(()) for place in range(3))
    if step == 0:
        raise call.refuse("its step is 0.")
    count = max(math.ceil((limit.item() - start.item()) / step.item()), 0)
    _bounded(call, [count])
    return np.asarray(start + np.arange(count) * step).astype(start.dtype)


def _expand(call: NodeCall) -> Array:
    x = call.array(0)
    shape = _bounded(call, np.broadcast_shapes(x.shape, tuple(call.integers(1))))
    return np.array(np.broadcast_to(x, shape))


def _tile(call: NodeCall) -> Array:
    x, times = call.array(0), call.integers(1)
    _bounded(call, [x.size, *times])
    return np.tile(x, times)


def _concatenate(call: NodeCall) -> Array:
    arrays = _arrays(call)
    _bounded(call, [sum(array.size for array in arrays)])
    return np.concatenate(arrays, call.node.get("axis", 0))


def _gather(call: NodeCall) -> Array:
    x, index, axis = call.array(0), call.array(1), call.node.get("axis", 0)
    _bounded(call, [index.size, *np.delete(x.shape, axis).tolist()])
    return np.asarray(np.take(x, index, axis))


def _cumulative(call: NodeCall) -> Array:
    if call.node.get("exclusive", 0) or call.node.get("reverse", 0):
        raise call.refuse("exclusive and reverse are not supported on known values.")
    x = call.array(0)
    return np.cumsum(x, call.integer(1), dtype=x.dtype)


def _scatter_nd(call: NodeCall) -> Array:
    if call.node.get("reduction", "none") != "none":
        raise call.refuse("a reduction is not supported on known values.")
    x: Array = np.array(call.array(0))
    x[tuple(np.moveaxis(call.array(1), -1, 0))] = call.array(2)
    return x


#: operators that are a function of numpy, of any number of inputs
_NAMED = {
    **{name: getattr(np, name.lower()) for name in (
        "Abs", "Ceil", "Equal", "Exp", "Floor", "Greater", "Less", "Log", "Reciprocal", "Round",
        "Sign", "Sqrt", "Where",
    )},
    "GreaterOrEqual": np.greater_equal, "LessOrEqual": np.less_equal, "Neg": np.negative,
    "Not": np.logical_not, "Sub": np.subtract, "Div": _divide, "Pow": _power,
}  # fmt: skip
_FOLDED = {
    "Add": np.add, "And": np.logical_and, "Max": np.maximum, "Min": np.minimum, "Mul": np.multiply,
    "Or": np.logical_or, "Sum": np.add,
}  # fmt: skip
_REDUCED: dict[str, Callable[..., Any]] = {
    "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod, "ReduceSum": np.sum,
}  # fmt: skip
#: operators whose handlers take known values as they take tensors
_SHARED = ("Identity", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze")

#: operator -> what runs it on known values
HOST: dict[str, Handler] = {
    **{name: _pointwise(function) for name, function in _NAMED.items()},
    **{name: _variadic(function) for name, function in _FOLDED.items()},
    **{name: _reduce(function) for name, function in _REDUCED.items()},
    **{name: HANDLERS[name] for name in _SHARED},
    "Cast": _cast,
    "Concat": _concatenate,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulative,
    "Expand": _expand,
    "Gather": _gather,
    "Mod": lambda call: _pointwise(np.fmod if call.node.get("fmod", 0) else np.mod)(call),
    "NonZero": lambda call: np.array(np.nonzero(call.array(0)), dtype=np.int64),
    "Range": _range,
    "ScatterND": _scatter_nd,
    "Tile": _tile,
    "Transpose": lambda call: call.array(0).transpose(call.node.listed("perm")),
    "Unsqueeze": lambda call: np.expand_dims(
        call.array(0), tuple(call.integers_or(1, "axes") or ())
    ),
}
