r"""How often the indices of a dimension count the neurons of an atom.

An index of a product counts one neuron of each factor, and an index of a concatenation what an
index of one of its parts counts. To write out every choice of a part from each factor would take
exponential time; that is not needed to say of each atom how often it can be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from converters.symmetry.dims import ATOM, CONCATENATION, Dim, find

#: How often an index may count an atom, as bits: never, once, twice or more.
NEVER, ONCE, TWICE = 1, 2, 4

#: atom -> how often; one that is not there is never counted
Counted: TypeAlias = Mapping[Dim, int]


class Counts:
    """What dimensions count, each computed once; for terms that no longer change."""

    def __init__(self) -> None:
        self._of: dict[Dim, Counted] = {}
        self._given: dict[Dim, Mapping[Dim, Counted]] = {}

    def of(self, dim: Dim) -> Counted:
        """Return how often the indices of a dimension count each atom; those of size 1 left out."""
        dim = find(dim)
        if dim not in self._of:
            if dim.kind == ATOM:
                self._of[dim] = {dim: ONCE} if dim.size > 1 else {}
            elif dim.kind == CONCATENATION:
                self._of[dim] = _either([self.of(child) for child in dim.children])
            else:
                self._of[dim] = _both(self.of(child) for child in dim.children)
        return self._of[dim]

    def given(self, dim: Dim) -> Mapping[Dim, Counted]:
        """Return for each atom what the indices count that count it."""
        dim = find(dim)
        if dim not in self._given:
            if dim.kind == ATOM:
                self._given[dim] = {dim: {dim: ONCE}} if dim.size > 1 else {}
            else:
                self._given[dim] = self._given_part(dim)
        return self._given[dim]

    def _given_part(self, dim: Dim) -> Mapping[Dim, Counted]:
        choices: dict[Dim, list[Counted]] = {}
        for place, child in enumerate(dim.children):
            others = [] if dim.kind == CONCATENATION else [
                self.of(other) for at, other in enumerate(dim.children) if at != place
            ]
            for own, beside in self.given(child).items():
                choices.setdefault(own, []).append(_both([beside, *others]) if others else beside)
        return {own: _either(found) for own, found in choices.items()}


def _either(choices: list[Counted]) -> Counted:
    if len(choices) == 1:
        return choices[0]
    counted: dict[Dim, int] = {}
    seen: dict[Dim, int] = {}
    for choice in choices:
        for dim, times in choice.items():
            counted[dim] = counted.get(dim, 0) | times
            seen[dim] = seen.get(dim, 0) + 1
    return {
        dim: times if seen[dim] == len(choices) else times | NEVER
        for dim, times in counted.items()
    }


def _both(factors: Iterable[Counted]) -> Counted:
    counted: dict[Dim, int] = {}
    for factor in factors:
        for dim, times in factor.items():
            counted[dim] = _add(counted.get(dim, NEVER), times)
    return counted


def _add(one: int, other: int) -> int:
    """Return how often two counts can be together."""
    never = one & other & NEVER
    once = ONCE * bool((one & NEVER and other & ONCE) or (one & ONCE and other & NEVER))
    twice = TWICE * bool((one | other) & TWICE or (one & other & ONCE))
    return never | once | twice
