"""Element-wise operators: arithmetic, comparisons, logic, activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall


def _unary(function: Callable[[Tensor], Tensor]) -> Handler:
    return lambda call: function(call.tensor(0))


def _binary(function: Callable[[Any, Any], Tensor]) -> Callable[[NodeCall], Tensor]:
    """Run a function whose second argument may be a number, and whose first may not."""

    def run(call: NodeCall) -> Tensor:
        _, second = call.operands()
        return function(call.tensor(0), second)

    return run


def _commuting(function: Callable[[Any, Any], Tensor]) -> Handler:
    """Run a function whose arguments may be exchanged, so that either may be a number."""

    def run(call: NodeCall) -> Tensor:
        first, second = call.operands()
        return function(first, second) if isinstance(first, Tensor) else function(second, first)

    return run


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[NodeCall], Tensor]:
    return lambda call: functools.reduce(function, call.tensors())


def _divide(first: Tensor, second: Tensor | float) -> Tensor:
    whole = not first.is_floating_point()
    return torch.div(first, second, rounding_mode="trunc" if whole else None)


def _power(base: Tensor, exponent: Tensor | float) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)  # ONNX: the type of the base


def _clip(call: NodeCall) -> Tensor:
    x, bounds = call.tensor(0), []
    for place, attribute in ((1, "min"), (2, "max")):
        value = call.value(place) if call.has(place) else call.node.attributes.get(attribute)
        bounds.append(value.item() if isinstance(value, np.ndarray) else value)
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


def _where(call: NodeCall) -> Tensor:
    condition = call.tensor(0)
    _, first, second = call.operands()
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        first = call.tensor(1)
    return torch.where(condition, first, second)


def _is_infinite(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    out = torch.zeros_like(x, dtype=torch.bool)
    for sign, function in (("positive", torch.isposinf), ("negative", torch.isneginf)):
        out = out | function(x) if call.node.get(f"detect_{sign}", 1) else out
    return out


def _shift(call: NodeCall) -> Tensor:
    left = call.node.get("direction", "") == "LEFT"
    function = torch.bitwise_left_shift if left else torch.bitwise_right_shift
    return function(call.tensor(0), call.tensor(1))


def _parametric_relu(call: NodeCall) -> Tensor:
    x, slope = call.tensor(0), call.tensor(1)
    # [C, 1, .., 1] against [B, C, ..]: torch's own operator, which takes one slope per channel.
    channels = slope.dim() == x.dim() - 1 >= 1 and slope.numel() == slope.shape[0] == x.shape[1]
    if slope.numel() == 1 or channels:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, slope * x)


def _selu(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    if not {"alpha", "gamma"} & call.node.attributes.keys():
        return F.selu(x)
    alpha = call.node.get("alpha", 1.67326319217681884765625)
    gamma = call.node.get("gamma", 1.05070102214813232421875)
    return gamma * F.elu(x, alpha)


def _shrink(call: NodeCall) -> Tensor:
    x, bias, bound = call.tensor(0), call.node.get("bias", 0.0), call.node.get("lambd", 0.5)
    inner = torch.where(x > bound, x - bias, torch.zeros_like(x))
    return torch.where(x < -bound, x + bias, inner)


def _swish(call: NodeCall) -> Tensor:
    x, alpha = call.tensor(0), call.node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def _hard_sigmoid(call: NodeCall) -> Tensor:
    alpha, beta = call.node.get("alpha", 0.2), call.node.get("beta", 0.5)
    return torch.clamp(alpha * call.tensor(0) + beta, 0.0, 1.0)


def _dropout(call: NodeCall) -> Tensor:
    if call.has(2) and call.integer(2):
        raise call.refuse("it drops at random, in training mode. Export in evaluation mode.")
    call.only_first_output("The mask of a dropout is of use in training only.")
    return call.tensor(0)


def _with(attribute: str, default: float, function: Callable[..., Tensor]) -> Handler:
    """Run an activation with one parameter."""
    return lambda call: function(call.tensor(0), call.node.get(attribute, default))


#: operators that are a function of torch by the same name in small letters
_NAMED = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor IsNaN Log Neg Reciprocal "
    "Relu Round Sigmoid Sign Sin Sinh Sqrt Tan Tanh"
)

HANDLERS: dict[str, Handler] = {
    **{name: _unary(getattr(torch, name.lower())) for name in _NAMED.split()},
    # arithmetic
    "Add": _commuting(torch.add), "Mul": _commuting(torch.mul),
    "Sub": _binary(torch.sub), "Div": _binary(_divide), "Pow": _binary(_power),
    "Mod": lambda call: _binary(torch.fmod if call.node.get("fmod", 0) else torch.remainder)(call),
    "Sum": _variadic(torch.add),
    "Mean": lambda call: _variadic(torch.add)(call) / len(call.values),
    "Max": _variadic(torch.maximum), "Min": _variadic(torch.minimum), "Clip": _clip,
    # comparisons, logic, types
    "Equal": _commuting(torch.eq), "IsInf": _is_infinite, "Where": _where,
    "Less": _binary(torch.lt), "LessOrEqual": _binary(torch.le),
    "Greater": _binary(torch.gt), "GreaterOrEqual": _binary(torch.ge),
    "And": _variadic(torch.logical_and), "BitwiseAnd": _variadic(torch.bitwise_and),
    "Or": _variadic(torch.logical_or), "BitwiseOr": _variadic(torch.bitwise_or),
    "Xor": _variadic(torch.logical_xor), "BitwiseXor": _variadic(torch.bitwise_xor),
    "Not": _unary(torch.logical_not), "BitwiseNot": _unary(torch.bitwise_not), "BitShift": _shift,
    "Cast": lambda call: call.tensor(0).to(call.dtype(call.node.get("to", 1))),
    "CastLike": lambda call: call.tensor(0).to(call.tensor(1).dtype),
    "Identity": lambda call: call.value(0),
    # dictionaries by class, as the tensor of numbers that they are
    "ZipMap": _unary(lambda x: x),
    "Dropout": _dropout,
    # activations
    "LeakyRelu": _with("alpha", 0.01, F.leaky_relu),
    "Elu": _with("alpha", 1.0, F.elu), "Celu": _with("alpha", 1.0, F.celu), "Selu": _selu,
    "ThresholdedRelu": _with("alpha", 1.0, lambda x, alpha: F.threshold(x, alpha, 0.0)),
    "Gelu": lambda call: F.gelu(call.tensor(0), approximate=call.node.get("approximate", "none")),
    "HardSigmoid": _hard_sigmoid, "HardSwish": _unary(F.hardswish), "Mish": _unary(F.mish),
    "Softplus": _unary(F.softplus), "Softsign": _unary(F.softsign), "Swish": _swish,
    "Shrink": _shrink, "PRelu": _parametric_relu,
}  # fmt: skip
