"""What a rule must account for: each operand axis in each result, and how both are run through.

What a rule does not say (see :mod:`converters.symmetry.rules`) is taken to be the worst. An axis
that a result neither carries nor is said to drop may have met any other, and one that comes from
nowhere may have indices that differ: the operation counts as one without a rule. So a rule that is
written carelessly loses symmetry and invents none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import chain

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, atoms, find
from converters.symmetry.values import Value, tensors


def check_accounted(call: Call, results: Sequence[Value | None]) -> None:
    """Hold what a rule gives against what it takes; raise ``Unruled`` where they do not agree.

    Indices are counted with their multiplicity: of two axes that are relabelled together, one may
    not be lost behind the other.
    """
    given = tensors(call.arguments)
    # A constant is the same whatever is relabelled, and where it varies, its axes are fixed: but
    # for a unit matrix, whose axes are relabelled together.
    operands = [_counted(v) for v in given if v.constant is None or len(set(v.dims)) < v.rank]
    everything = _counted(*given)
    for number, (ref, value) in enumerate(zip(call.operation.outputs, results, strict=False)):
        if ref is None or value is None or value.constant is not None or 0 in value.shape:
            continue
        carried = _counted(value)
        dropped = set(_opened(call.dropped_by(number)))
        if any(_missing(operand, carried) - dropped for operand in operands):
            raise Unruled(f"has a rule that does not say what result {number} loses")
        if _missing(carried, everything) - set(_opened(call.alike)):
            raise Unruled(f"has a rule that does not say where axes of result {number} come from")


def record_runs(call: Call, results: Sequence[Value | None]) -> None:
    """Record what an operation runs over, where it moves entries or does not say how it runs."""
    touched = [*tensors(call.arguments), *(value for value in results if value is not None)]
    cells = [cell for value in touched for cell in value.cells]
    if not call.declared:
        for part in {part for cell in cells for part in _opened(cell)}:
            call.record([part])
    elif call.mixed:
        apart = set(map(find, call.mixed))
        for cell in cells:
            call.record(dim for dim in cell if find(dim) not in apart)


def _counted(*values: Value) -> Counter[Dim]:
    """Return how often tensors count each of their dimensions."""
    return Counter(dim for value in values for dims in _by_axis(value) for dim in dims)


def _by_axis(value: Value) -> list[list[Dim]]:
    """Return what each axis counts; of pieces, across their axis, what any of them counts there."""
    if value.blocks is None:
        return [[find(dim)] for dim in value.dims]
    own, pieces = value.blocks
    found = zip(*map(_by_axis, pieces), strict=True)
    return [
        list(chain.from_iterable(parts)) if axis == own else reduce(_either, parts)
        for axis, parts in enumerate(found)
    ]


def _either(one: list[Dim], other: list[Dim]) -> list[Dim]:
    # One dimension may be several objects.
    return one if one == other else [*(Counter(_opened(one)) | Counter(_opened(other))).elements()]


def _missing(one: Counter[Dim], other: Counter[Dim]) -> set[Dim]:
    """Return the free atoms that one tensor counts more often than another."""
    # Dimensions that both have cancel before they are opened: a concatenation may be long.
    left, right = one - other, other - one
    if not left:
        return set()
    return set(Counter(_opened(left.elements())) - Counter(_opened(right.elements())))


def _opened(dims: Iterable[Dim]) -> Iterable[Dim]:
    return (part for dim in dims for part in atoms(dim) if part.size > 1 and not part.reasons)
