"""Operations that order entries along an axis: values do not see their order, places do.

The largest, the k-th and the sorted entries are the same however the axis is relabelled. *Where*
they stand is relabelled with it: such a result holds indices of the axis (``Value.indexes``), and
an operation that looks them up in an axis ties it to this one. Any other use tells them apart.

The index of the largest entry moves with it when neurons are relabelled, unless two are equal, as
behind a ReLU: then the first counts. So an index is followed only where the entries are scores that
a linear map gives, possibly normalised: these agree by accident only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from converters.symmetry.call import Call, Entry
from converters.symmetry.dims import Dim, find
from converters.symmetry.rules.common import broadcast, entrywise, table
from converters.symmetry.values import Value

if TYPE_CHECKING:
    from converters.symmetry.engine import Engine

#: Strictly monotone functions keep different entries apart.
_MONOTONE = {"sigmoid", "tanh", "exp", "log", "softplus", "log_sigmoid", "neg"}

#: Functions that are constant nowhere: what goes in is flat where what comes out is.
_NOWHERE_FLAT = {
    *_MONOTONE, "silu", "gelu", "mish", "elu", "celu", "selu", "leaky_relu", "sin", "cos", "erf",
    "pow", "square", "sqrt", "rsqrt", "reciprocal",
}
_PASSING = {
    "input", "linear", "convolution", "embedding", "batch_norm", "layer_norm", "rms_norm",
    "group_norm", "instance_norm", "normalise", "add", "multiply", "scale", "gate", "softmax",
    "attention", "reduce", "pool", "concatenate", "recurrent", "transform",
}


def _all_different(engine: Engine, value: Value, axis: Dim) -> bool:
    """Whether entries along an axis differ but by accident, for almost every input."""
    if len(value.sources) != 1:
        return False
    entry = engine.entries[value.sources[0]]
    if not _holds(entry.output, axis):
        return False
    if entry.kind == "linear":
        stored = [engine.program.parameters[name] for _, name in entry.parameters]
        weights = [engine.values[ref] for ref in stored]
        weights += [value for value in entry.values if value.made_from]
        known = any(_holds(weight, axis) for weight in weights)
        return known and _nowhere_zero(entry, engine.entries)
    monotone = entry.kind == "activation" and entry.op.removeprefix("aten.") in _MONOTONE
    shifted = entry.kind == "add" and bool(entry.parameters)
    if (monotone or shifted or entry.kind == "softmax") and len(entry.values) == 1:
        return _all_different(engine, entry.values[0], axis)
    return False


def _holds(value: Value, axis: Dim) -> bool:
    return any(find(dim) is find(axis) for dim in value.shown)


def _nowhere_zero(last: Entry, entries: Sequence[Entry]) -> bool:
    """Whether what a layer takes is flat for no set of inputs, or it adds something of its own."""
    pending, seen = [last], {id(last)}
    while pending:
        entry = pending.pop()
        curved = entry.kind == "activation" and entry.op.removeprefix("aten.") in _NOWHERE_FLAT
        if entry.kind not in _PASSING and not curved:
            return False
        if any(role == "bias" for role, _ in entry.parameters):
            continue
        for source in (entries[number] for number in entry.inputs):
            if id(source) not in seen:
                seen.add(id(source))
                pending.append(source)
    return True


def places(call: Call, value: Value, dim: Dim, kept: Sequence[Dim]) -> Value:
    """Return indices of a dimension of a value, where its largest or sorted entries stand."""
    result = value.like(kept)
    call.drops(dim, results=range(len(call.shapes)))
    if _all_different(call.engine, value, dim):
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
