r"""Which spaces may be relabelled independently for each neuron of another: wreath structure.

Features inside of heads :math:`h` may have a permutation :math:`\tau_h` for each head exactly if
every tensor that counts them also says of which head they are, and no operation ever brings the
features of one head together with those of another. Both are read off the *records*: for each
tensor, and for each operation that sums over something, the dimensions it runs over jointly. A
space :math:`C` lies within :math:`H` if in every record, at every index that counts a neuron of
:math:`C`, exactly one neuron of :math:`H` is counted. None would mean that the features of all
heads meet (a scale that they share); two, that it is not determined whose permutation is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from converters.symmetry.dims import ATOM, CONCATENATION, Dim, find
from converters.symmetry.reasons import STRUCTURE

#: How often an index may count an atom, as bits: never, once, twice or more.
NEVER, ONCE, TWICE = 1, 2, 4

#: atom -> how often; one that is not there is never counted
Counted: TypeAlias = Mapping[Dim, int]


def find_within(records: Iterable[Sequence[Dim]]) -> dict[Dim, list[Dim]]:
    """Return for each free atom the atoms that it lies within, outermost first."""
    within: dict[Dim, set[Dim]] = {}
    seen: set[tuple[Dim, ...]] = set()
    counts = Counts()
    for record in records:
        key = tuple(find(dim) for dim in record)
        if key not in seen:
            seen.add(key)
            _restrict(within, key, counts)
    result = {
        # Of two that could lie within each other only one may.
        dim: [
            o for o in outers
            if o.reasons or dim not in within.get(o, ()) or o.serial < dim.serial
        ]
        for dim, outers in within.items() if not dim.reasons
    }
    for kept in result.values():
        kept.sort(key=lambda o: (len(result.get(o, ())), o.serial))
    return result


def _restrict(within: dict[Dim, set[Dim]], record: Sequence[Dim], counts: Counts) -> None:
    """Keep for each atom of a record only what the record allows."""
    # What the dimensions count, each: only an atom that exactly one of them counts, and always
    # once, says by itself whose permutation is meant, whatever dimension that is.
    places: dict[Dim, list[int]] = {}
    for place, dim in enumerate(record):
        for other in counts.of(dim):
            places.setdefault(other, []).append(place)
    once = {
        other: place for other, (place, *more) in places.items()
        if not more and counts.of(record[place])[other] == ONCE and STRUCTURE not in other.reasons
    }
    for place, dim in enumerate(record):
        elsewhere = {other for other, at in once.items() if at != place}
        for own, beside in counts.given(dim).items():
            if own.reasons:
                continue
            # A factor of the same dimension says it, whatever else the record counts. Where
            # structures did not fit, it is not known which index met which.
            allowed = {
                o for o, found in beside.items()
                if o is not own and STRUCTURE not in o.reasons
                and (found == ONCE or (found == ONCE | NEVER and o in elsewhere))
            } | (elsewhere - beside.keys())
            within[own] = within[own] & allowed if own in within else allowed


# -- how often the indices of a dimension count the neurons of an atom -----------------------------
# An index of a product counts one neuron of each factor, and one of a concatenation what an index
# of one of its parts counts. To write out every choice of a part from each factor would take
# exponential time; that is not needed to say of each atom how often it can be counted.

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
            else:
                found = [self.of(child) for child in dim.children]
                self._of[dim] = _either(found) if dim.kind == CONCATENATION else _both(found)
        return self._of[dim]

    def given(self, dim: Dim) -> Mapping[Dim, Counted]:
        """Return for each atom what the indices count that count it."""
        dim = find(dim)
        if dim not in self._given:
            choices: dict[Dim, list[Counted]] = {}
            if dim.kind == ATOM and dim.size > 1:
                choices[dim] = [{dim: ONCE}]
            for place, child in enumerate(dim.children):
                others = [] if dim.kind == CONCATENATION else [
                    self.of(other) for at, other in enumerate(dim.children) if at != place
                ]
                for own, beside in self.given(child).items():
                    choices.setdefault(own, []).append(_both([beside, *others]))
            self._given[dim] = {own: _either(found) for own, found in choices.items()}
        return self._given[dim]


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
