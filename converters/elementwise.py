r"""Functions of one neuron as expressions, so that one function has one form however it is written.

An expression is a product :math:`c \, f_1 \cdots f_n` of a number and factors: the neuron u itself,
applied operators, and sums. Products and sums are flattened, sorted and their numbers collected; so
``x * torch.sigmoid(x)``, ``x / (1 + torch.exp(-x))`` and ``torch.sin(x * 3 * 10)`` are recognised
as the activations that they are. What is recognised is equal as a function, not merely close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from converters.activations import operator_activation
from nngraph.errors import ArchitectureError
from nngraph.graph import Activation

#: Expressions of more parts than this are not followed any further.
_MAX_PARTS = 200


class TooLong(Exception):
    """An expression has grown beyond what any activation is written as."""


@dataclass(frozen=True)
class Applied:
    """An activation or another operator, applied to expressions."""

    function: Activation | str
    operands: tuple[Expression, ...]
    options: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def text(self) -> str:
        """The expression as written."""
        inner = ", ".join([*(e.text for e in self.operands), *map(str, self.options)])
        return f"{self.function}({inner})"


#: The function of a sum, whose first term has the coefficient 1.
_SUM = "sum"


@dataclass(frozen=True)
class Expression:
    """A number times factors in a fixed order; without factors it is the number."""

    coefficient: float
    factors: tuple[Applied, ...] = ()

    @cached_property
    def text(self) -> str:
        """The one form of it. Two numbers that differ by their last bits alone are one there."""
        return " * ".join([f"{self.coefficient:.14g}", *(f.text for f in self.factors)])

    @property
    def is_number(self) -> bool:
        """Whether it does not depend on the neuron."""
        return not self.factors

    def __mul__(self, other: Expression | float) -> Expression:
        other = _expression(other)
        coefficient = self.coefficient * other.coefficient
        if coefficient == 0:
            return Expression(0.0)
        factors = sorted((*self.factors, *other.factors), key=lambda factor: factor.text)
        return _checked(Expression(coefficient, tuple(factors)))

    def __add__(self, other: Expression | float) -> Expression:
        collected: dict[tuple[Applied, ...], float] = {}
        for term in (*self.terms, *_expression(other).terms):
            collected[term.factors] = collected.get(term.factors, 0.0) + term.coefficient
        terms = [Expression(c, factors) for factors, c in collected.items() if c != 0]
        if len(terms) < 2:
            return terms[0] if terms else Expression(0.0)
        # The number first, and the rest in a fixed order.
        terms.sort(key=lambda term: (len(term.factors) > 0, Expression(1.0, term.factors).text))
        first = terms[0].coefficient
        monic = tuple(Expression(t.coefficient / first, t.factors) for t in terms)
        return _checked(Expression(first, (Applied(_SUM, monic),)))

    __rmul__, __radd__ = __mul__, __add__

    def __sub__(self, other: Expression | float) -> Expression:
        return self + _expression(other) * -1.0

    def __truediv__(self, other: Expression | float) -> Expression:
        return self * _reciprocal(_expression(other))

    @property
    def terms(self) -> tuple[Expression, ...]:
        """The terms of a sum; of anything else, itself."""
        if len(self.factors) == 1 and self.factors[0].function == _SUM:
            terms = self.factors[0].operands
            return tuple(Expression(self.coefficient * t.coefficient, t.factors) for t in terms)
        return (self,)


#: The pre-activation of a neuron.
NEURON = Expression(1.0, (Applied("u", ()),))


def finite_number(value: object) -> float | None:
    """Return a Python number as a finite float; ``None`` if it is anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _expression(value: Expression | float) -> Expression:
    return value if isinstance(value, Expression) else Expression(float(value))


def _checked(expression: Expression) -> Expression:
    if len(_parts(expression)) > _MAX_PARTS:
        raise TooLong("is the end of a longer formula than any activation")
    return expression


def _parts(expression: Expression) -> list[Expression | Applied]:
    """Return all parts of an expression, no more than decide whether it is too long."""
    parts: list[Expression | Applied] = [expression]
    for part in parts:  # which grows
        if len(parts) > _MAX_PARTS:
            break
        parts += part.factors if isinstance(part, Expression) else part.operands
    return parts


def _reciprocal(expression: Expression) -> Expression:
    if expression.coefficient == 0:
        return applied("reciprocal", expression)
    result = Expression(1.0 / expression.coefficient)
    for factor in expression.factors:
        twice = factor.function == "reciprocal"
        result *= factor.operands[0] if twice else applied("reciprocal", Expression(1.0, (factor,)))
    return result


def applied(
    function: Activation | str, *operands: Expression | float, **options: Any
) -> Expression:
    """Apply an activation or another operator to expressions."""
    call = Applied(function, tuple(map(_expression, operands)), tuple(sorted(options.items())))
    return _checked(Expression(1.0, (call,)))


# -- operators ------------------------------------------------------------------------------------


def _power(base: Expression, exponent: Expression) -> Expression:
    if exponent.is_number and exponent.coefficient in (1, 2, 3):
        return math.prod([base] * (int(exponent.coefficient) - 1), start=base)
    return applied("pow", base, exponent)


def _extreme(name: str, bound: str) -> Callable[[Expression, Expression], Expression]:
    """The larger or smaller of two; with a number that is to cut off at it."""

    def extreme(one: Expression, other: Expression) -> Expression:
        number, rest = (one, other) if one.is_number else (other, one)
        if number.is_number and not rest.is_number:
            cut = operator_activation("clamp", {bound: number.coefficient})
            if cut is not None:
                return applied(cut, rest)
        return applied(name, *sorted((one, other), key=lambda operand: operand.text))

    return extreme


#: Operators of arithmetic -> what they make of their operands
_ARITHMETIC: dict[str, Callable[..., Expression]] = {
    "add": lambda one, other, alpha=1: one + other * alpha,
    "sub": lambda one, other, alpha=1: one - other * alpha,
    "rsub": lambda one, other, alpha=1: other - one * alpha,
    "mul": lambda one, other: one * other,
    "div": lambda one, other: one / other,
    "neg": lambda one: one * -1.0,
    "reciprocal": _reciprocal,
    "square": lambda one: one * one,
    "pow": _power,
    "maximum": _extreme("maximum", "min"),
    "minimum": _extreme("minimum", "max"),
}
_SYNONYMS = {
    "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "negative": "neg",
}


def apply(name: str, arguments: Mapping[str, Any]) -> Expression | None:
    """Apply an operator to expressions; ``None`` if it is none of single entries.

    Args:
        name: of the operator, such as ``"leaky_relu"``.
        arguments: expressions and everything else by the names of its schema, in their order.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    name = _SYNONYMS.get(name, name)
    if name in _ARITHMETIC:
        plain = {k: v for k, v in given.items() if k == "alpha" and finite_number(v) is not None}
        operands = [_operand(v) for k, v in given.items() if k not in plain]
        if None in operands:
            return None
        return _ARITHMETIC[name](*operands, **plain)
    (_, first), *others = given.items()
    if isinstance(first, Expression):
        activation = operator_activation(name, {key: _number_in(value) for key, value in others})
        if activation is not None:
            return applied(activation, first)
    if not _is_pointwise(name):
        return None
    operands = [_operand(value) for value in given.values()]
    options = {k: v for (k, v), o in zip(given.items(), operands, strict=True) if o is None}
    return applied(name, *(o for o in operands if o is not None), **options)


def _operand(value: object) -> Expression | None:
    number = finite_number(value)
    if number is not None:
        return Expression(number)
    return value if isinstance(value, Expression) else None


def _number_in(value: object) -> object:
    return value.coefficient if isinstance(value, Expression) and value.is_number else value


def _is_pointwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    tags = [getattr(packet, o).tags for o in packet.overloads()] if packet is not None else []
    random = any(torch.Tag.nondeterministic_seeded in own for own in tags)
    return not random and any(torch.Tag.pointwise in own for own in tags)


# -- which activation it is -----------------------------------------------------------------------


def recognise(expression: Expression) -> Activation | None:
    """Return the activation that an expression is; ``None`` if no activation is exactly it."""
    if expression.text == NEURON.text:
        return Activation("identity")
    if expression.coefficient == 1 and len(expression.factors) == 1:
        call = expression.factors[0]
        if isinstance(call.function, Activation):
            found = _scaled(call.function, call.operands[0])
            if found is not None:
                return found
    parts = (part for part in _parts(expression) if isinstance(part, Expression))
    numbers = sorted({part.coefficient for part in parts})
    for activation, formula in _formulas(numbers):
        if formula.text == expression.text:
            return activation
    return None


def _scaled(activation: Activation, operand: Expression) -> Activation | None:
    """The activation of a multiple of the neuron: a factor of a sine is part of its w0."""
    if operand == NEURON:
        return activation
    if operand.factors != NEURON.factors or activation.name not in ("sine", "cosine"):
        return None
    try:
        return Activation(activation.name, w0=activation["w0"] * operand.coefficient)
    except ArchitectureError:
        return None  # no finite number


def _formulas(numbers: Iterable[float]) -> Iterator[tuple[Activation, Expression]]:
    """Activations as compositions of operators; those with an option for each of these numbers."""

    def of(name: str, operand: Expression) -> Expression:
        return applied(Activation(name), operand)

    u = NEURON
    positive = applied("gt", u, 0.0)
    cubed = 0.044715 * u * u * u
    scale = math.sqrt(2 / math.pi)
    six = of("relu6", u + 3.0) / 6.0
    yield Activation("square"), u * u
    yield Activation("sigmoid"), 1.0 * _reciprocal(1.0 + of("exp", -1.0 * u))
    yield Activation("silu"), u * of("sigmoid", u)
    yield Activation("silu"), u / (1.0 + of("exp", -1.0 * u))
    yield Activation("tanh"), 2.0 * of("sigmoid", 2.0 * u) - 1.0
    yield Activation("mish"), u * of("tanh", of("softplus", u))
    yield Activation("softsign"), u / (1.0 + of("abs", u))
    yield Activation("tanhshrink"), u - of("tanh", u)
    yield Activation("hardsigmoid"), six
    yield Activation("hardswish"), u * six
    yield Activation("gelu"), 0.5 * u * (1.0 + of("erf", u / math.sqrt(2)))
    for inner in (scale * (u + cubed), scale * u * (1.0 + 0.044715 * u * u)):
        yield Activation("gelu_tanh"), 0.5 * u * (1.0 + of("tanh", inner))
    yield Activation("relu"), 0.5 * (u + of("abs", u))
    yield Activation("relu"), u * positive
    for number in numbers:
        scaled = number * u
        leaky = Activation("leaky_relu", negative_slope=number)
        yield leaky, applied("where", positive, u, scaled)
        if 0 <= number <= 1:
            yield leaky, _ARITHMETIC["maximum"](u, scaled)
        if number >= 0:
            outside = applied("gt", of("abs", u), number)
            shrunk = u - number * applied("sign", u)
            yield Activation("softshrink", lambd=number), applied("where", outside, shrunk, 0.0)
        inside = applied("le", of("abs", u), number)
        yield Activation("hardshrink", lambd=number), applied("where", inside, 0.0, u)
