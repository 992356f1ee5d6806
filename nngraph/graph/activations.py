"""Activation functions by name: data in an architecture, callables when a graph is run.

:data:`ACTIVATIONS` is the one table of them: what each computes, the options it has, and the
symmetry that it leaves to a neuron. Whoever needs one of these asks an :class:`Activation`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.errors import ArchitectureError

#: What an activation a lets a neuron do besides being relabelled, its network's function kept:
#:
#: - ``"none"``: nothing that is known of;
#: - ``"sign"``: a(-u) = -a(u), odd functions;
#: - ``"positive_scale"``: a(q u) = q a(u) for q > 0, positively homogeneous functions;
#: - ``"any_scale"``: a(q u) = q a(u) for every q, linear functions;
#: - ``"phase"``: a(-u) = -a(u) and a(u + pi / w0) = -a(u) with its option w0, sines.
NeuronSymmetry = Literal["none", "sign", "positive_scale", "any_scale", "phase"]


@dataclass(frozen=True)
class ActivationFunction:
    """A row of :data:`ACTIVATIONS`.

    Attributes:
        function: of the pre-activation and the options by name; ``None`` if nobody knows it.
        options: their names and defaults, torch's own where torch has any.
        symmetry: that of a neuron, or a function of the options that gives it.
    """

    function: Callable[..., Tensor] | None
    options: Mapping[str, float] = field(default_factory=dict)
    symmetry: NeuronSymmetry | Callable[..., NeuronSymmetry] = "none"


# -- symmetries that the options decide -----------------------------------------------------------


def _of_elu(alpha: float, scale: float, input_scale: float) -> NeuronSymmetry:
    if input_scale < 0:
        # Far below 0 the exponential overflows, and infinity times 0 is no number.
        return "none"
    if scale == 0:
        return "any_scale"
    return "positive_scale" if 0 in (alpha, input_scale) else "none"


def _of_hardtanh(min_val: float, max_val: float) -> NeuronSymmetry:
    if min_val == max_val == 0:
        return "any_scale"
    return "sign" if -min_val == max_val else "none"


# -- the table ------------------------------------------------------------------------------------

#: name -> what is known of it. Learned tables go by its order: new rows are added at the end.
ACTIVATIONS: dict[str, ActivationFunction] = {
    "identity": ActivationFunction(lambda u: u, symmetry="any_scale"),
    "relu": ActivationFunction(torch.relu, symmetry="positive_scale"),
    "leaky_relu": ActivationFunction(
        F.leaky_relu, {"negative_slope": 0.01},
        lambda negative_slope: "any_scale" if negative_slope == 1 else "positive_scale",
    ),
    "elu": ActivationFunction(
        torch.ops.aten.elu, {"alpha": 1.0, "scale": 1.0, "input_scale": 1.0}, _of_elu
    ),
    "gelu": ActivationFunction(F.gelu),
    "gelu_tanh": ActivationFunction(lambda u: F.gelu(u, approximate="tanh")),
    "silu": ActivationFunction(F.silu),
    "sigmoid": ActivationFunction(torch.sigmoid),
    "softplus": ActivationFunction(F.softplus, {"beta": 1.0, "threshold": 20.0}),
    "relu6": ActivationFunction(F.relu6),
    "hardswish": ActivationFunction(F.hardswish),
    "hardsigmoid": ActivationFunction(F.hardsigmoid),
    "mish": ActivationFunction(F.mish),
    "selu": ActivationFunction(F.selu),
    "tanh": ActivationFunction(torch.tanh, symmetry="sign"),
    "sine": ActivationFunction(
        lambda u, w0: torch.sin(w0 * u), {"w0": 1.0}, lambda w0: "any_scale" if w0 == 0 else "phase"
    ),
    # What a network applies and this table does not know exactly; it cannot be run.
    "other": ActivationFunction(None),
    "celu": ActivationFunction(F.celu, {"alpha": 1.0}),
    "hardtanh": ActivationFunction(F.hardtanh, {"min_val": -1.0, "max_val": 1.0}, _of_hardtanh),
    "softsign": ActivationFunction(F.softsign, symmetry="sign"),
    "tanhshrink": ActivationFunction(F.tanhshrink, symmetry="sign"),
    "softshrink": ActivationFunction(
        F.softshrink, {"lambd": 0.5}, lambda lambd: "any_scale" if lambd == 0 else "sign"
    ),
    # Below 0 nothing is cut off.
    "hardshrink": ActivationFunction(
        F.hardshrink, {"lambd": 0.5}, lambda lambd: "any_scale" if lambd <= 0 else "sign"
    ),
    # torch has no defaults for these; those of 0 make it a ReLU.
    "threshold": ActivationFunction(
        F.threshold, {"threshold": 0.0, "value": 0.0},
        lambda threshold, value: "positive_scale" if threshold == value == 0 else "none",
    ),
    "log_sigmoid": ActivationFunction(F.logsigmoid),
    "exp": ActivationFunction(torch.exp),
    "cosine": ActivationFunction(lambda u, w0: torch.cos(w0 * u), {"w0": 1.0}),
    "sinc": ActivationFunction(torch.sinc),
    "erf": ActivationFunction(torch.erf, symmetry="sign"),
    "abs": ActivationFunction(torch.abs, symmetry="positive_scale"),
    "square": ActivationFunction(torch.square),
    "atan": ActivationFunction(torch.atan, symmetry="sign"),
    "asinh": ActivationFunction(torch.asinh, symmetry="sign"),
}  # fmt: skip


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Comparing takes whole numbers of any size, also those that no float can be.
    return -sys.float_info.max <= value <= sys.float_info.max


@lru_cache(maxsize=4096)
def _refusal(name: str, options: tuple[tuple[str, float], ...]) -> str | None:
    """Return why torch does not apply a function with these options, which it says when it runs."""
    function = ACTIVATIONS[name].function
    try:
        if function is not None:
            function(torch.zeros((), dtype=torch.float64, device="cpu"), **dict(options))
    except (ArithmeticError, RuntimeError, ValueError) as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Activation:
    r"""An activation function as data: a name of :data:`ACTIVATIONS` and its numeric options.

    ``Activation("sine", w0=30)`` is :math:`a(u) = \sin(w_0 u)`, the activation of a SIREN.
    Calling it applies it. Options left out take torch's own defaults.

    ``Activation("other", operator="aten.prelu")`` is one that is not known exactly: it says what
    its network calls it, and cannot be applied.

    Raises:
        ArchitectureError: if the name or an option is unknown, an option is not a finite number or
            one that torch refuses, or an operator is given to a known function.
    """

    name: str
    options: tuple[tuple[str, float], ...]
    operator: str

    # The name of the object itself is left to files, whose fields come here as options.
    def __init__(self, /, name: str = "identity", *, operator: str = "", **options: float) -> None:
        if name not in ACTIVATIONS:
            raise ArchitectureError(
                f"unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}."
            )
        if not isinstance(operator, str) or (operator and name != "other"):
            raise ArchitectureError(
                f"activation {name!r} has the operator {operator!r}; expected a string, and one "
                "for 'other' alone."
            )
        defaults = ACTIVATIONS[name].options
        if unknown := sorted(set(options) - set(defaults)):
            raise ArchitectureError(
                f"activation {name!r} has no option {unknown[0]!r}; "
                f"its options: {', '.join(defaults) or 'none'}."
            )
        for option, value in options.items():
            if not _is_finite_number(value):
                raise ArchitectureError(
                    f"option {option!r} of activation {name!r} is {value!r:.40}; "
                    "expected a finite number."
                )
        values = {**defaults, **options}
        ordered = tuple((k, float(values[k])) for k in sorted(values))
        if (reason := _refusal(name, ordered)) is not None:
            raise ArchitectureError(
                f"torch applies no {name} with {', '.join(f'{k}={v:g}' for k, v in ordered)}: "
                f"{reason}"
            )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", ordered)
        object.__setattr__(self, "operator", operator)

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

    @property
    def symmetry(self) -> NeuronSymmetry:
        """What a neuron of this activation, with its options, can do besides being relabelled."""
        known = ACTIVATIONS[self.name].symmetry
        return known(**dict(self.options)) if callable(known) else known

    def __getitem__(self, option: str) -> float:
        return dict(self.options)[option]

    def __call__(self, pre_activation: Tensor) -> Tensor:
        """Apply the activation; an ArchitectureError if it is not known exactly."""
        function = ACTIVATIONS[self.name].function
        if function is None:
            raise ArchitectureError(
                f"the activation {self} is not known exactly: its network alone knows what it "
                "computes. Run the module."
            )
        return function(pre_activation, **dict(self.options))

    def __str__(self) -> str:
        if self.operator:
            return f"{self.name}({self.operator})"
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{k}={v:g}' for k, v in self.options)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check what a file brought, as the constructor does (`torch.load` calls this)."""
        # Files of old have no operators.
        self.__init__(  # type: ignore[misc]
            state["name"], operator=state.get("operator", ""), **dict(state["options"])
        )
