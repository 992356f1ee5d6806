"""Activations as torch writes them: modules and functions to :class:`Activation`, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nngraph.graph import Activation

__all__ = ["Sine", "activation_module", "module_activation"]


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


def _gelu(approximate: str) -> Activation | None:
    return {"none": Activation("gelu"), "tanh": Activation("gelu_tanh")}.get(approximate)


#: module type -> the activation that a module of exactly this type applies (None: not known)
_FROM_MODULE: dict[type[nn.Module], Callable[[Any], Activation | None]] = {
    nn.Identity: lambda m: Activation("identity"),
    nn.ReLU: lambda m: Activation("relu"),
    nn.LeakyReLU: lambda m: Activation("leaky_relu", negative_slope=m.negative_slope),
    nn.ELU: lambda m: Activation("elu", alpha=m.alpha),
    nn.GELU: lambda m: _gelu(m.approximate),
    nn.SiLU: lambda m: Activation("silu"),
    nn.Sigmoid: lambda m: Activation("sigmoid"),
    nn.Softplus: lambda m: Activation("softplus", beta=m.beta, threshold=m.threshold),
    nn.Tanh: lambda m: Activation("tanh"),
    Sine: lambda m: Activation("sine", w0=m.w0),
}

#: activation name -> the module that applies it
_TO_MODULE: dict[str, Callable[[Activation], nn.Module]] = {
    "identity": lambda a: nn.Identity(),
    "relu": lambda a: nn.ReLU(),
    "leaky_relu": lambda a: nn.LeakyReLU(a["negative_slope"]),
    "elu": lambda a: nn.ELU(a["alpha"]),
    "gelu": lambda a: nn.GELU(),
    "gelu_tanh": lambda a: nn.GELU(approximate="tanh"),
    "silu": lambda a: nn.SiLU(),
    "sigmoid": lambda a: nn.Sigmoid(),
    "softplus": lambda a: nn.Softplus(a["beta"], a["threshold"]),
    "tanh": lambda a: nn.Tanh(),
    "sine": lambda a: Sine(a["w0"]),
}


def _elu(alpha: float = 1.0, inplace: bool = False) -> Activation:
    return Activation("elu", alpha=alpha)


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> Activation:
    return Activation("leaky_relu", negative_slope=negative_slope)


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Activation:
    return Activation("softplus", beta=beta, threshold=threshold)


def _named(name: str) -> Callable[..., Activation]:
    def activation(inplace: bool = False) -> Activation:
        return Activation(name)

    return activation


#: function, or name of a tensor method -> the activation for the arguments after the first
FROM_FUNCTION: dict[Any, Callable[..., Activation | None]] = {
    **dict.fromkeys((torch.relu, torch.relu_, F.relu, "relu", "relu_"), _named("relu")),
    **dict.fromkeys((torch.tanh, torch.tanh_, F.tanh, "tanh", "tanh_"), _named("tanh")),
    **dict.fromkeys(
        (torch.sigmoid, torch.sigmoid_, torch.special.expit, F.sigmoid, "sigmoid", "sigmoid_"),
        _named("sigmoid"),
    ),
    **dict.fromkeys((torch.sin, torch.sin_, "sin", "sin_"), _named("sine")),
    **dict.fromkeys((F.silu, torch._C._nn.silu), _named("silu")),
    **dict.fromkeys((F.elu, torch._C._nn.elu), _elu),
    **dict.fromkeys((F.leaky_relu, torch._C._nn.leaky_relu), _leaky_relu),
    F.gelu: lambda approximate="none": _gelu(approximate),
    F.softplus: _softplus,
}


def module_activation(module: nn.Module) -> Activation | None:
    """Return the activation that ``module`` applies; ``None`` if it is of another kind."""
    known = _FROM_MODULE.get(type(module))
    return None if known is None else known(module)


def activation_module(activation: Activation) -> nn.Module:
    """Return a module that applies ``activation``."""
    return _TO_MODULE[activation.name](activation)


def finite_number(value: object) -> float | None:
    """Return a Python number as a finite float; ``None`` if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
