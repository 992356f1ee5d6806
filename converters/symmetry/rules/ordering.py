"""Operations that order entries along an axis: values do not see their order, places do.

The largest, the k-th and the sorted entries are the same however the axis is relabelled. *Where*
they stand is relabelled with it: such a result holds indices of the axis (``Value.indexes``), and
an operation that looks them up in an axis ties it to this one. Any other use tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.symmetry.call import Call
from converters.symmetry.dims import Dim
from converters.symmetry.rules.common import broadcast, entrywise, table
from converters.symmetry.ties import all_different
from converters.symmetry.values import Value


def places(call: Call, value: Value, dim: Dim, kept: Sequence[Dim]) -> Value:
    """Return indices of a dimension of a value, where its largest or sorted entries stand."""
    result = value.like(kept)
    call.drops(dim, results=range(len(call.shapes)))
    engine = call.engine
    parameters = {name: engine.values[ref] for name, ref in engine.program.parameters.items()}
    if all_different(value, dim, engine.entries, parameters):
        result.indexes = dim
        # One relabelling of the indices is meant, wherever they are looked up.
        call.iterates(dim)
    else:
        call.fix([dim], "has its entries ordered, of which some may be equal")
    return result


def order(call: Call) -> list[Value | None]:
    """Sort along an axis, or take some of the largest; and say where they stand."""
    value, place = call.along(default=-1)
    dim = value.dims[place]
    call.mixes(value, [place])
    call.drops(dim)
    shape = next(shape for i, shape in enumerate(call.shapes) if call.used(i))
    # One of them alone, such as the k-th, may drop the axis.
    found = [call.fixed(shape[place])] if call.get("keepdim", True) else []
    values = value.with_dim(place, *found)
    return [values, places(call, value, dim, values.dims) if call.used(1) else None]


def argsort(call: Call) -> Value:
    """Take the indices that would sort an axis."""
    value, place = call.along()
    dim = value.dims[place]
    return places(call, value, dim, value.with_dim(place, call.fixed(dim.size)).dims)


def position(call: Call) -> Value:
    """Take the index of the largest or smallest."""
    if call["dim"] is None:
        value = call.value("self")
        call.entrywise()
        call.fix(value.dims, "has the index of its largest entry taken")
        return value.like(map(call.fixed, call.shape))
    value, place = call.along()
    kept = value.with_dim(place, *([call.fixed(1)] if call["keepdim"] else []))
    return places(call, value, value.dims[place], kept.dims)


@entrywise
def bucket(call: Call) -> Value:
    """Find each entry's place in a sorted sequence, whose order counts."""
    value = call.value("self")
    sequence = call.value("boundaries" if "boundaries" in call.arguments else "sorted_sequence")
    sorter = call.get("sorter")
    for given in (sequence, sorter):
        if isinstance(given, Value):
            call.fix([given.dims[-1]], "is searched in order")
            if given.rank > 1:
                broadcast([given.dims[:-1], value.dims[:-1]])
    return value.like(value.dims)


ORDERING = {
    **table(order, "sort", "topk", "kthvalue", "mode", "msort"),
    **table(argsort, "argsort"),
    **table(bucket, "bucketize", "searchsorted"),
    **table(position, "argmax", "argmin"),
}
