"""Pointwise operations: aligned indices are relabelled together."""

from __future__ import annotations

from converters.symmetry.blocks import blocked, pieces_of, rearrange, take
from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import cut, unify
from converters.symmetry.rules.common import broadcast, entrywise, is_weight, table
from converters.symmetry.values import Value, tensors

#: Operations that join values, by the kind under which the record of layers has them.
_KINDS = {
    **dict.fromkeys(("aten.add", "aten.sub", "aten.rsub", "aten.subtract"), "add"),
    **dict.fromkeys(("aten.mul", "aten.div", "aten.multiply", "aten.divide"), "multiply"),
    "aten.true_divide": "multiply",
}


@entrywise
def pointwise(call: Call) -> Value:
    """Combine tensors entry by entry, with broadcasting."""
    values = tensors(call.arguments)
    result = _combined(values)
    moving = [value for value in values if value.constant is None and not is_weight(value)]
    if not moving:
        return result
    kind = "activation" if len(values) == 1 else "pointwise"
    kind = _KINDS.get(call.operation.name, kind)
    if kind == "multiply" and len(moving) == 1 and not any(map(is_weight, values)):
        kind = "scale"
    plain = {
        key: value for key, value in call.arguments.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    roles = {
        key: value for key, value in call.arguments.items()
        if isinstance(value, Value) and is_weight(value)
    }
    return call.enter(kind, moving, result, roles, **plain)


def _combined(values: list[Value]) -> Value:
    """Broadcast, piece by piece if one is in pieces."""
    split = next((value for value in values if value.blocks is not None), None)
    if split is None:
        return Value(broadcast([value.dims for value in values]))
    own, spans = pieces_of(split)
    # Counted from the right, since ranks may differ.
    axis, rank = own - split.rank, max(value.rank for value in values)
    parts = [
        [
            take(value, axis + value.rank, start, stop)
            if value.rank >= -axis and value.shape[axis] > 1 else value
            for value in values
        ]
        for _, start, stop in spans
    ]
    return blocked(axis + rank, [_combined(part) for part in parts])


@entrywise
def same(call: Call) -> Value:
    """Change type, layout or ownership: nothing that a dimension sees."""
    value, *others = tensors(call.arguments)
    call.leaves_out(*others)
    return rearrange(value, range(value.rank))


@entrywise
def fill(call: Call) -> Value:
    """Overwrite with one number."""
    call.leaves_out(*tensors(call.arguments))
    return Value(map(call.copies, call.shape))


@entrywise
def prelu(call: Call) -> Value:
    """Multiply what is negative by one number, or one per channel (axis 1)."""
    value, weight = call.value("self"), call["weight"]
    if weight.shape != (1,) and weight.shape != ():
        channels = value.dims[1] if len(value.dims) > 1 else value.dims[0]
        broadcast([[channels], weight.dims])
    return call.enter("activation", [value], value.like(value.dims), {"weight": weight})


def rrelu(call: Call) -> Value:
    """Multiply what is negative: by one number in evaluation mode, else by random ones."""
    if call["training"]:
        raise Unruled("draws random numbers, so that the function is not one function")
    return pointwise(call)


@entrywise
def glu(call: Call) -> Value:
    """Gate one half of an axis with the other: index i of one with index i of the other."""
    value, place = call.along()
    half = value.dims[place].size // 2
    left, right = cut(value.dims[place], (half, half))
    unify(left, right)
    call.drops(left)
    return call.enter("gate", [value], value.with_dim(place, left), dim=place)


POINTWISE = {
    **table(same, "clone", "_to_copy", "to", "contiguous", "alias", "detach", "detach_", "dropout",
            "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "lift_fresh_copy", "lift",
            "positive", "type_as", "conj", "resolve_conj", "resolve_neg"),
    **table(fill, "fill", "zero"),
    **table(prelu, "prelu"),
    **table(glu, "glu"),
    **table(rrelu, "rrelu"),
    **table(
        # Pointwise operators that torch does not tag as such.
        pointwise, "_prelu_kernel", "masked_fill", "where", "lerp", "addcmul", "addcdiv",
        "hardswish", "hardsigmoid", "hardtanh", "relu6", "elu", "celu", "selu", "gelu", "silu",
        "mish", "softplus", "softshrink", "hardshrink", "tanhshrink", "leaky_relu", "log_sigmoid",
        "log_sigmoid_forward", "threshold", "logit", "nan_to_num", "clamp", "clip", "square",
        "true_divide", "divide", "multiply", "subtract", "absolute", "special_expit", "xlogy",
        "isfinite", "isnan", "isinf", "isclose", "rsub", "erfinv", "heaviside", "float_power",
        "floor_divide", "remainder", "fmod", "floor", "ceil", "round", "trunc", "sign", "sgn",
    ),
}
