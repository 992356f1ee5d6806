"""Sums, means, extrema along axes; softmax; what is largest."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall

#: Operator set from which Softmax works along one axis, and not on all from one on.
_ONE_AXIS = 13


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Handler:
    def run(call: NodeCall) -> Tensor:
        x, axes = call.tensor(0), call.integers_or(1, "axes")
        if not axes and not call.node.get("noop_with_empty_axes", 0):
            axes = list(range(x.dim()))
        if not axes:  # no axes would mean all of them to torch
            return function(x.unsqueeze(0), [0], False)
        axes = [axis % max(x.dim(), 1) for axis in axes]
        return function(x, axes, bool(call.node.get("keepdims", 1)))

    return run


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep).to(x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep).to(x.dtype)
    return x


def _along(function: Callable[[Tensor, int], Tensor]) -> Handler:
    """Run a softmax; before operator set 13 it works on all axes from one on, taken as one."""

    def run(call: NodeCall) -> Tensor:
        x, opset = call.tensor(0), call.node.opset
        axis = call.node.get("axis", -1 if opset >= _ONE_AXIS else 1)
        axis = axis + x.dim() if axis < 0 else axis
        if opset >= _ONE_AXIS or axis == x.dim() - 1:
            return function(x, axis)
        flat = x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))
        return function(flat, axis).reshape(x.shape)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    largest = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, largest, 1.0)


def _place(function: Callable[..., Tensor]) -> Handler:
    def run(call: NodeCall) -> Tensor:
        x, axis = call.tensor(0), call.node.get("axis", 0)
        keep = bool(call.node.get("keepdims", 1))
        if call.node.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
        return function(x, axis, keepdim=keep)

    return run


def _top(call: NodeCall) -> tuple[Tensor, Tensor]:
    count = call.integer(1) if call.has(1) else call.node.get("k", 1)
    axis, largest = call.node.get("axis", -1), bool(call.node.get("largest", 1))
    values, places = torch.topk(call.tensor(0), count, axis, largest, sorted=True)
    return values, places


def _running_sum(call: NodeCall) -> Tensor:
    x, axis = call.tensor(0), call.integer(1)
    backwards = call.node.get("reverse", 0)
    x = x.flip(axis) if backwards else x
    y = torch.cumsum(x, axis, dtype=x.dtype)
    if call.node.get("exclusive", 0):
        y = y - x
    return y.flip(axis) if backwards else y


HANDLERS: dict[str, Handler] = {
    "ReduceSum": _reduce(_sum), "ReduceMean": _reduce(_mean), "ReduceProd": _reduce(_product),
    "ReduceMax": _reduce(torch.amax), "ReduceMin": _reduce(torch.amin),
    "ReduceL1": _reduce(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "Softmax": _along(F.softmax), "LogSoftmax": _along(F.log_softmax),
    "Hardmax": _along(_hardmax), "ArgMax": _place(torch.argmax), "ArgMin": _place(torch.argmin),
    "TopK": _top, "CumSum": _running_sum,
}  # fmt: skip
