"""Selecting networks of a zoo by conditions that are written as words."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.zoo.store.zoo import Zoo

_COMPARE: dict[str, Callable[[Tensor, float], Tensor]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "==": operator.eq, "=": operator.eq,
    ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(>=|<=|!=|==|=|>|<)\s*(.+?)\s*", re.DOTALL)


def select(zoo: Zoo, conditions: Sequence[str]) -> Tensor:
    """Return which networks meet all of some conditions, ``[B]`` bool.

    A condition is ``fact operator value``, such as ``psnr>=25``, ``split=train`` or ``label!=3``;
    values of a fact that has names are named. Beside the zoo's facts there are ``architecture``,
    its index, and ``parameters``, how many a network has.

    Raises:
        InvalidGraphError: if a condition is not of that form, or names what the zoo does not have.
    """
    keep = torch.ones(len(zoo), dtype=torch.bool)
    for condition in conditions:
        found = _CONDITION.fullmatch(condition)
        if found is None:
            raise InvalidGraphError(
                f"the condition {condition!r:.80} is not understood; expected a fact, an operator "
                f"({', '.join(_COMPARE)}) and a value, such as psnr>=25."
            )
        name, sign, text = found.groups()
        value, names = _column(zoo, name)
        keep &= _COMPARE[sign](value, _number(condition, text, names))
    return keep


def _column(zoo: Zoo, name: str) -> tuple[Tensor, tuple[str, ...]]:
    if name == "architecture":
        return zoo.architecture_index, ()
    if name == "parameters":
        sizes = [sum(p.numel for p in each.parameters) for each in zoo.architectures]
        return torch.tensor(sizes, dtype=torch.int64)[zoo.architecture_index], ()
    return zoo.fact(name), zoo.manifest.fact(name).values


def _number(condition: str, text: str, names: tuple[str, ...]) -> float:
    if names:
        if text not in names:
            raise InvalidGraphError(
                f"the condition {condition!r:.80} has the value {text!r:.40}; expected one of "
                f"{', '.join(names):.300}."
            )
        return names.index(text)
    try:
        return float(text)
    except ValueError:
        raise InvalidGraphError(
            f"the condition {condition!r:.80} has the value {text!r:.40}; expected a number."
        ) from None
