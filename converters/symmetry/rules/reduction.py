"""Reductions: symmetric in what they reduce over, so that nothing there is fixed."""

from __future__ import annotations

from converters.symmetry.call import Call
from converters.symmetry.dims import atom
from converters.symmetry.rules.common import axes, axis, broadcast, rest_alike, table
from converters.symmetry.rules.ordering import places
from converters.symmetry.rules.pointwise import pointwise
from converters.symmetry.values import Value


def reduce(call: Call) -> list[Value | None]:
    """Sum, average or otherwise reduce over axes in a way that does not see their order."""
    value = call.value("self")
    places = axes(call.get("dim"), value.rank)
    keep = call.get("keepdim", False)
    dims = [
        atom(1) if i in places else dim
        for i, dim in enumerate(value.dims) if keep or i not in places
    ]
    call.drops(*(value.dims[i] for i in places), results=range(len(call.shapes)))
    return rest_alike(call, call.enter("reduce", [value], value.like(dims)))


def extreme(call: Call) -> list[Value | None]:
    """Take the largest or smallest of two tensors, or along an axis, and perhaps its index."""
    if "other" in call.arguments:
        return [pointwise(call)]
    if "dim" not in call.arguments:
        return reduce(call)
    value, place = call.along()
    call.drops(value.dims[place], results=(0, 1))
    kept = value.with_dim(place, *([atom(1)] if call["keepdim"] else []))
    where = places(call, value, value.dims[place], kept.dims) if call.used(1) else None
    return [call.enter("reduce", [value], kept), where]


def softmax(call: Call) -> Value:
    """Normalise over an axis in a way that does not see its order."""
    value = call.value("self")
    call.mixes(value, axes(call["dim"], value.rank))
    return call.enter("softmax", [value], value.like(value.dims), dim=call["dim"])


def cosine(call: Call) -> Value:
    """Cosine of the angle between vectors along an axis."""
    one, other = call.value("x1"), call.value("x2")
    dims = broadcast([one.dims, other.dims])
    call.iterates(*dims)
    del dims[axis(call["dim"], len(dims))]
    return call.enter("reduce", [one, other], Value(dims))


def distances(call: Call) -> Value:
    """Distances between the rows of two sets of points."""
    one, other = call.value("x1"), call.value("x2")
    lead = broadcast([one.dims[:-2], other.dims[:-2]])
    inner = broadcast([one.dims[-1:], other.dims[-1:]])
    call.iterates(*lead, one.dims[-2], other.dims[-2], *inner)
    return call.enter("reduce", [one, other], Value((*lead, one.dims[-2], other.dims[-2])))


def histogram(call: Call) -> Value:
    """Count entries by size: bins are told apart, entries are not."""
    value, weights = call.value("self"), call.get("weights")
    if isinstance(weights, Value):
        broadcast([value.dims, weights.dims])
    call.drops(*value.dims)
    return value.like([call.fixed(size, "counts bins") for size in call.shape])


REDUCTION = {
    **table(reduce, "sum", "mean", "amax", "amin", "var", "std", "var_mean", "std_mean", "prod",
            "norm", "linalg_vector_norm", "logsumexp", "any", "all", "nansum", "nanmean",
            "count_nonzero", "aminmax"),
    **table(extreme, "max", "min", "median", "nanmedian"),
    **table(softmax, "softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax"),
    **table(histogram, "histc", "bincount"),
    **table(cosine, "cosine_similarity"),
    **table(distances, "cdist", "_cdist_forward"),
}
