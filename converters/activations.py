"""Activations as torch writes them: operators and their arguments to :class:`Activation`, and back.

Modules, functions and methods of torch end in the same operators, whose names and arguments both
ways of tracing give; so :data:`OPERATORS` is the one table of them. An activation that is composed
of several operators is in :mod:`converters.elementwise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Activation


class Sine(nn.Module):
    r"""Sine activation of a SIREN, :math:`\sin(w_0 u)`.

    Shape:
        any -> the same.

    Source: Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions",
    NeurIPS 2020.
    """

    def __init__(self, w0: float = 1.0) -> None:
        super().__init__()
        self.w0 = float(w0)

    def forward(self, pre_activation: Tensor) -> Tensor:
        """Apply the activation."""
        return torch.sin(self.w0 * pre_activation)

    def extra_repr(self) -> str:
        """Return the frequency, for printing."""
        return f"w0={self.w0:g}"


class Elementwise(nn.Module):
    """Any activation of a graph, for those that torch has no module for; entry by entry."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, pre_activation: Tensor) -> Tensor:
        """Apply the activation."""
        return self.activation(pre_activation)

    def extra_repr(self) -> str:
        """Return the activation, for printing."""
        return str(self.activation)


# -- operators to activations ---------------------------------------------------------------------

#: The options of an ELU that is a SELU, as torch has them.
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)


def _named(name: str) -> Callable[..., Activation]:
    """An operator whose arguments are the options of the activation, by the same names."""
    return lambda **options: Activation(name, **options)


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    # What torch makes of its other two below the level of its functions.
    if (alpha, scale, input_scale) == _SELU:
        return Activation("selu")
    if scale == 1 != alpha and input_scale * alpha == 1:
        return Activation("celu", alpha=alpha)
    return Activation("elu", alpha=alpha, scale=scale, input_scale=input_scale)


def _gelu(approximate: str = "none") -> Activation | None:
    return {"none": Activation("gelu"), "tanh": Activation("gelu_tanh")}.get(approximate)


def _clamp(min: float | None = None, max: float | None = None) -> Activation | None:
    """Cut off below and above; the activations that do so under other names are those."""
    low = -math.inf if min is None else min
    high = math.inf if max is None else max
    if (low, high) == (0, math.inf):
        return Activation("relu")
    if (low, high) == (0, 6):
        return Activation("relu6")
    if high == math.inf:
        return Activation("threshold", threshold=low, value=low)
    return Activation("hardtanh", min_val=low, max_val=high)


def _threshold(threshold: float, value: float) -> Activation:
    if threshold == value == 0:
        return Activation("relu")
    return Activation("threshold", threshold=threshold, value=value)


def _rrelu(lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Activation | None:
    # In evaluation mode torch takes the slope in the middle.
    return None if training else Activation("leaky_relu", negative_slope=(lower + upper) / 2)


#: ATen operator, or function of ``torch.nn.functional`` that is composed of such -> the activation
#: for its arguments after the first, by name; ``None`` for arguments that no activation has
OPERATORS: dict[str, Callable[..., Activation | None]] = {
    **{
        name: _named(name)
        for name in (
            "relu", "silu", "sigmoid", "relu6", "hardswish", "hardsigmoid", "mish", "selu", "tanh",
            "softsign", "tanhshrink", "log_sigmoid", "exp", "sinc", "erf", "abs", "square", "atan",
            "asinh", "leaky_relu", "softplus", "celu", "softshrink", "hardshrink",
        )
    },
    **{
        name: _named(known)
        for name, known in {
            "special_expit": "sigmoid", "special_erf": "erf", "special_sinc": "sinc",
            "absolute": "abs", "arctan": "atan", "arcsinh": "asinh", "sin": "sine",
            "cos": "cosine", "log_sigmoid_forward": "log_sigmoid",
        }.items()
    },
    "elu": _elu,
    "gelu": _gelu,
    "hardtanh": lambda min_val=-1.0, max_val=1.0: _clamp(min_val, max_val),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda min: _clamp(min),
    "clamp_max": lambda max: _clamp(None, max),
    "threshold": _threshold,
    "rrelu": _rrelu,
}


def operator_activation(name: str, options: Mapping[str, Any]) -> Activation | None:
    """Return the activation that an operator applies; ``None`` if no activation is exactly it.

    Its ``options`` are its arguments after the first, by the names of its schema.
    """
    known = OPERATORS.get(name)
    try:
        given = {key: value for key, value in options.items() if value is not None}
        return None if known is None else known(**given)
    except (TypeError, ArchitectureError):
        return None  # an argument that is no finite number, or that the activation does not have


# -- activations to modules -----------------------------------------------------------------------

#: activation name -> the module that applies it with any options, which it takes by name
_TO_MODULE: dict[str, Callable[..., nn.Module]] = {
    "identity": nn.Identity, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"), "silu": nn.SiLU, "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus, "relu6": nn.ReLU6, "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid, "mish": nn.Mish, "selu": nn.SELU, "tanh": nn.Tanh, "sine": Sine,
    "celu": nn.CELU, "softsign": nn.Softsign, "tanhshrink": nn.Tanhshrink,
    "softshrink": nn.Softshrink, "hardshrink": nn.Hardshrink, "threshold": nn.Threshold,
    "log_sigmoid": nn.LogSigmoid,
}  # fmt: skip


def check_known(activation: Activation) -> None:
    """Refuse to make a module of ``other``, which only its network can apply."""
    if activation.name == "other":
        raise ArchitectureError(
            f"the activation {activation} is not known exactly, so that no module can be made of "
            "it. Pass the module that the graph was made of: to_module(graph, template)."
        )


def activation_module(activation: Activation) -> nn.Module:
    """Return a module that applies ``activation``; refuse ``other``."""
    check_known(activation)
    if activation.name == "elu" and activation["scale"] == activation["input_scale"] == 1:
        return nn.ELU(activation["alpha"])
    if activation.name == "hardtanh" and activation["min_val"] < activation["max_val"]:
        return nn.Hardtanh(activation["min_val"], activation["max_val"])
    make = _TO_MODULE.get(activation.name)
    return Elementwise(activation) if make is None else make(**dict(activation.options))
