"""Whether entries along an axis are all different, for almost every input and all parameters.

The index of the largest entry moves with it when neurons are relabelled, unless two are equal: then
the first counts. Behind a ReLU many entries are zero at once. So an index is followed only where
the entries are scores that a linear map gives, possibly normalised: these agree by accident only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from converters.symmetry.call import Entry
from converters.symmetry.dims import Dim, find
from converters.symmetry.values import Value

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


def all_different(
    value: Value, axis: Dim, entries: Sequence[Entry], parameters: Mapping[str, Value]
) -> bool:
    """Whether the entries of a value along an axis differ but by accident.

    Args:
        value: what the axis belongs to.
        axis: its dimension.
        entries: the record of layers so far.
        parameters: the parameters by name.
    """
    if len(value.sources) != 1:
        return False
    entry = entries[value.sources[0]]
    if not _holds(entry.output, axis):
        return False
    if entry.kind == "linear":
        weights = [parameters[name] for _, name in entry.parameters]
        weights += [value for value in entry.values if value.made_from]
        return any(_holds(weight, axis) for weight in weights) and _nowhere_zero(entry, entries)
    monotone = entry.kind == "activation" and entry.op.removeprefix("aten.") in _MONOTONE
    shifted = entry.kind == "add" and bool(entry.parameters)
    if (monotone or shifted or entry.kind == "softmax") and len(entry.values) == 1:
        return all_different(entry.values[0], axis, entries, parameters)
    return False


def _holds(value: Value, axis: Dim) -> bool:
    return any(find(dim) is find(axis) for dim in value.shown)


def _nowhere_zero(last: Entry, entries: Sequence[Entry]) -> bool:
    """Whether what a layer takes is flat for no set of inputs, or it adds something of its own."""
    pending, seen = [last], {id(last)}
    while pending:
        entry = pending.pop()
        name = entry.op.removeprefix("aten.")
        if entry.kind not in _PASSING and not (
            entry.kind == "activation" and name in _NOWHERE_FLAT
        ):
            return False
        if any(role == "bias" for role, _ in entry.parameters):
            continue
        for source in entry.inputs:
            if id(entries[source]) not in seen:
                seen.add(id(entries[source]))
                pending.append(entries[source])
    return True
