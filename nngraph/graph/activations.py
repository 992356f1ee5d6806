"""Activation functions by name: data in an architecture, callables when a graph is run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.errors import ArchitectureError

__all__ = ["ACTIVATIONS", "Activation"]

#: name -> (function of the pre-activation and the options, its options with their defaults)
ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "identity": (lambda u: u, {}),
    "relu": (torch.relu, {}),
    "leaky_relu": (
        lambda u, negative_slope: F.leaky_relu(u, negative_slope),
        {"negative_slope": 0.01},
    ),
    "elu": (lambda u, alpha: F.elu(u, alpha), {"alpha": 1.0}),
    "gelu": (F.gelu, {}),
    "gelu_tanh": (lambda u: F.gelu(u, approximate="tanh"), {}),
    "silu": (F.silu, {}),
    "sigmoid": (torch.sigmoid, {}),
    "softplus": (
        lambda u, beta, threshold: F.softplus(u, beta, threshold),
        {"beta": 1.0, "threshold": 20.0},
    ),
    "relu6": (F.relu6, {}),
    "hardswish": (F.hardswish, {}),
    "hardsigmoid": (F.hardsigmoid, {}),
    "mish": (F.mish, {}),
    "selu": (F.selu, {}),
    "tanh": (torch.tanh, {}),
    "sine": (lambda u, w0: torch.sin(w0 * u), {"w0": 1.0}),
    # What a network applies and this table does not know; it cannot be run.
    "other": (lambda u: _refuse_to_run(), {}),
}


def _refuse_to_run() -> Tensor:
    raise ArchitectureError(
        "an activation is 'other': its network alone knows what it computes. Run the module."
    )


@dataclass(frozen=True)
class Activation:
    r"""An activation function as data: a name of :data:`ACTIVATIONS` and its numeric options.

    ``Activation("sine", w0=30)`` is :math:`a(u) = \sin(w_0 u)`, the activation of a SIREN.
    Calling it applies it. Options left out take torch's own defaults.

    Raises:
        ArchitectureError: if the name or an option is unknown, or an option is not a finite number.
    """

    name: str
    options: tuple[tuple[str, float], ...]

    def __init__(self, name: str = "identity", **options: float) -> None:
        if name not in ACTIVATIONS:
            raise ArchitectureError(
                f"unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}."
            )
        defaults = ACTIVATIONS[name][1]
        if unknown := sorted(set(options) - set(defaults)):
            raise ArchitectureError(
                f"activation {name!r} has no option {unknown[0]!r}; "
                f"its options: {', '.join(defaults) or 'none'}."
            )
        for option, value in options.items():
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not math.isfinite(value)
            ):
                raise ArchitectureError(
                    f"option {option!r} of activation {name!r} is {value!r}; "
                    "expected a finite number."
                )
        values = {**defaults, **options}
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple((k, float(values[k])) for k in sorted(values)))

    @classmethod
    def of(cls, value: Activation | str) -> Activation:
        """Return ``value`` itself, or the activation of that name with its default options."""
        if isinstance(value, Activation):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ArchitectureError(
            f"an activation is {value!r} of type {type(value).__name__}; "
            "expected its name or an nngraph.Activation."
        )

    def __getitem__(self, option: str) -> float:
        return dict(self.options)[option]

    def __call__(self, pre_activation: Tensor) -> Tensor:
        """Apply the activation."""
        return ACTIVATIONS[self.name][0](pre_activation, **dict(self.options))

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{k}={v:g}' for k, v in self.options)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check what a file brought, as the constructor does (`torch.load` calls this)."""
        self.__init__(state["name"], **dict(state["options"]))  # type: ignore[misc]
