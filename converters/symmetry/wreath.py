r"""Which spaces may be relabelled independently for each neuron of another: wreath structure.

Take features :math:`j` inside of heads :math:`h`. The features may have a permutation
:math:`\tau_h` for each head exactly if every tensor that counts them also says of which head they
are, and no operation ever brings the features of one head together with those of another. Both are
read off the *records*: for each tensor, and for each operation that sums over something, the
dimensions it runs over jointly. A space :math:`C` lies within :math:`H` if in every record, at
every index that counts a neuron of :math:`C`, exactly one neuron of :math:`H` is counted. None
would mean that the features of all heads meet (a scale shared between heads); two, that heads are
compared and it is not determined whose permutation is meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from converters.symmetry.dims import STRUCTURE, Dim, find, monomials

__all__ = ["find_within"]


def find_within(records: Iterable[Sequence[Dim]]) -> dict[Dim, list[Dim]]:
    """Return for each free atom the atoms that it lies within, outermost first."""
    within: dict[Dim, set[Dim]] = {}
    seen: set[tuple[Dim, ...]] = set()
    for record in records:
        key = tuple(find(dim) for dim in record)
        if key not in seen:
            seen.add(key)
            _restrict(within, key)
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


def _restrict(within: dict[Dim, set[Dim]], record: Sequence[Dim]) -> None:
    """Keep for each atom of a record only what the record allows."""
    cells = [
        [[atom for atom in monomial if atom.size > 1] for monomial in monomials(dim)]
        for dim in record
    ]
    always = [_always(monomials_of) for monomials_of in cells]
    for place, monomials_of in enumerate(cells):
        elsewhere: Counter[Dim] = Counter()
        unclear: set[Dim] = set()
        for other, (counts, varying) in enumerate(always):
            if other != place:
                elsewhere.update(counts)
                unclear |= varying
        for monomial in monomials_of:
            own = Counter(monomial)
            for dim in own:
                if dim.reasons:
                    continue
                joint = own + elsewhere
                # A factor of the same dimension says whose permutation is meant, whatever else the
                # record counts. Where structures did not fit, it is not known which index met
                # which.
                allowed = {
                    o for o, n in joint.items()
                    if o is not dim and STRUCTURE not in o.reasons
                    and (own[o] == 1 or (n == 1 and o not in unclear))
                }
                within[dim] = within[dim] & allowed if dim in within else allowed


def _always(monomials_of: Sequence[Sequence[Dim]]) -> tuple[Counter[Dim], set[Dim]]:
    """Return what every index of a dimension counts, how often, and what only some do."""
    counters = [Counter(monomial) for monomial in monomials_of]
    if not counters:
        return Counter(), set()
    first = counters[0]
    if len(counters) == 1:
        return first, set()
    union = {dim for counter in counters for dim in counter}
    varying = {dim for dim in union if len({counter[dim] for counter in counters}) > 1}
    return Counter({dim: n for dim, n in first.items() if dim not in varying}), varying
