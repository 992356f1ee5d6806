"""Operators of traced activations, by the names that graphs have for them."""

from __future__ import annotations

from nngraph.graph import ACTIVATIONS, Activation

__all__ = ["activation_of"]

_NAMES = {"sin": "sine"}


def activation_of(operator: str | None) -> Activation:
    """Return the activation of an operator such as ``aten.relu``, with its usual options.

    ``"other"``, with the operator, for those that graphs have no name for.
    """
    if operator is None:
        return Activation("identity")
    name = operator.removeprefix("aten.").rstrip("_")
    name = _NAMES.get(name, name)
    return Activation(name) if name in ACTIVATIONS else Activation("other", operator=operator)
