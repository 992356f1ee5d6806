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

from collections.abc import Iterable, Sequence

from converters.symmetry.counts import NEVER, ONCE, Counts
from converters.symmetry.dims import Dim, find
from converters.symmetry.reasons import STRUCTURE


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
