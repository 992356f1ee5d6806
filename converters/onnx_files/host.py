"""Operators on values that are known without running: shapes, indices, scalars.

They run in numpy, when the file is read or, for what depends on the sizes of the input, when the
network is run or traced; none of them leaves an operation in the trace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converters.onnx_files.call import Array, Handler, NodeCall
from converters.onnx_files.elements import ELEMENTS
from converters.onnx_files.ops.shape import slices, split_sizes, target_shape

#: More numbers than a mask of 4,096 by 4,096 has: a file that wants them is refused.
MOST = 2**24


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


def _modulo(call: NodeCall) -> Array:
    function = np.fmod if call.node.integer("fmod", 0) else np.mod
    return _pointwise(function)(call)  # type: ignore[return-value]


def _power(first: Array, second: Array) -> Array:
    return np.asarray(np.power(first.astype(np.float64), second)).astype(first.dtype)


def _reduce(function: Callable[..., Any]) -> Handler:
    def run(call: NodeCall) -> Array:
        x, axes = call.array(0), call.integers_or(1, "axes")
        if not axes and call.node.integer("noop_with_empty_axes", 0):
            return x
        keep = bool(call.node.integer("keepdims", 1))
        along = tuple(axes) if axes else None
        return np.asarray(function(x, axis=along, keepdims=keep)).astype(x.dtype)

    return run


def _cast(call: NodeCall) -> Array:
    number = call.node.integer("to", 1)
    call.dtype(number)  # refuses what is no type
    return call.array(0).astype(ELEMENTS[number].array)


def _reshape(call: NodeCall) -> Array:
    x = call.array(0)
    return x.reshape(target_shape(call, call.integers(1), x.shape))


def _squeeze(call: NodeCall) -> Array:
    axes = call.integers_or(1, "axes")
    return call.array(0).squeeze(None if axes is None else tuple(axes))


def _slice(call: NodeCall) -> Array:
    x = call.array(0)
    for axis, places in slices(call, x.shape).items():
        x = np.take(x, np.array(places, dtype=np.int64), axis)
    return x


def _split(call: NodeCall) -> list[Array]:
    x, axis = call.array(0), call.node.integer("axis", 0)
    ends = np.cumsum(split_sizes(call, x.shape[axis]))[:-1]
    return [np.array(piece) for piece in np.split(x, ends, axis)]


def _constant_of_shape(call: NodeCall) -> Array:
    value = call.node.array("value")
    shape = _bounded(call, call.integers(0))
    if value is None:
        return np.zeros(shape, np.float32)
    return np.full(shape, value.reshape(()))


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


def _one_array(function: Callable[[Array], Any]) -> Handler:
    return lambda call: np.asarray(function(call.array(0)))


def _concatenate(call: NodeCall) -> Array:
    arrays = _arrays(call)
    _bounded(call, [sum(array.size for array in arrays)])
    return np.concatenate(arrays, call.node.integer("axis", 0))


def _gather(call: NodeCall) -> Array:
    x, index, axis = call.array(0), call.array(1), call.node.integer("axis", 0)
    _bounded(call, [index.size, *np.delete(x.shape, axis).tolist()])
    return np.asarray(np.take(x, index, axis))


def _cumulative(call: NodeCall) -> Array:
    if call.node.integer("exclusive", 0) or call.node.integer("reverse", 0):
        raise call.refuse("exclusive and reverse are not supported on known values.")
    x = call.array(0)
    return np.cumsum(x, call.integer(1), dtype=x.dtype)


def _scatter_nd(call: NodeCall) -> Array:
    if call.node.text("reduction", "none") != "none":
        raise call.refuse("a reduction is not supported on known values.")
    x: Array = np.array(call.array(0))
    x[tuple(np.moveaxis(call.array(1), -1, 0))] = call.array(2)
    return x


#: operators that are a function of numpy by the same name in small letters
_NAMED = "Abs Ceil Equal Exp Floor Greater Less Log Reciprocal Round Sign Sqrt Where"

HOST: dict[str, Handler] = {
    **{name: _pointwise(getattr(np, name.lower())) for name in _NAMED.split()},
    "Add": _variadic(np.add),
    "And": _variadic(np.logical_and),
    "Cast": _cast,
    "Concat": _concatenate,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulative,
    "Div": _pointwise(_divide),
    "Expand": _expand,
    "Gather": _gather,
    "GreaterOrEqual": _pointwise(np.greater_equal),
    "Identity": lambda call: call.array(0),
    "LessOrEqual": _pointwise(np.less_equal),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mod": _modulo,
    "Mul": _variadic(np.multiply),
    "Neg": _pointwise(np.negative),
    "NonZero": _one_array(lambda x: np.array(np.nonzero(x), dtype=np.int64)),
    "Not": _pointwise(np.logical_not),
    "Or": _variadic(np.logical_or),
    "Pow": _pointwise(_power),
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Shape": lambda call: np.array(
        call.array(0).shape[call.node.integer("start", 0) : call.node.attributes.get("end")],
        dtype=np.int64,
    ),
    "Size": _one_array(lambda x: np.array(x.size, dtype=np.int64)),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _pointwise(np.subtract),
    "Sum": _variadic(np.add),
    "Tile": _tile,
    "Transpose": lambda call: call.array(0).transpose(call.node.listed("perm")),
    "Unsqueeze": lambda call: np.expand_dims(
        call.array(0), tuple(call.integers_or(1, "axes") or ())
    ),
}
