r"""What operations let the neurons of a space be multiplied by: a row of a linear system for each.

Let every entry of a tensor that counts neuron i of a space be multiplied by :math:`q_i^e`: each
(tensor, axis, space) has an exponent e, and each operation says what holds between those of its
operands and of its results, such that the result is multiplied as said *exactly*. A contraction
lets exponents cancel, a sum wants them equal, a product adds them, relu keeps positive scales.
An operation without a rule wants them all zero: sound, never wrong.

Where no operation goes neuron by neuron along a space (:meth:`Exponents.apart`), matrices may take
the place of factors: exponent 1 is multiplied by g, -1 by :math:`g^{-T}`, so that a contraction
cancels them too. Where signs alone cancel, as in a Gram matrix or an RMS norm, g is orthogonal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from converters.activations import operator_activation
from converters.symmetry.dims import Dim
from converters.symmetry.groups.exponents import Exponents, OfAxis, Place, row
from converters.symmetry.groups.occurrences import occurrences
from converters.symmetry.program import Operation, Ref, references
from converters.symmetry.values import Value

#: exponents that a function of one number turns e into k e; ``None``: e must be zero
Degrees = tuple[Fraction | int | None, Fraction | int | None]

#: what each kind of neuron symmetry lets positive scales and signs do
_OF_ACTIVATION: dict[str, Degrees] = {
    "none": (None, None), "sign": (None, 1), "positive_scale": (1, None), "any_scale": (1, 1),
    "phase": (None, 1),
}  # fmt: skip
_POWERS: dict[str, Degrees] = {
    "abs": (1, 0), "absolute": (1, 0), "neg": (1, 1), "square": (2, 0), "reciprocal": (-1, 1),
    "sqrt": (Fraction(1, 2), None), "rsqrt": (Fraction(-1, 2), None), "sign": (0, 1),
    "sgn": (0, 1),
}  # fmt: skip


# -- rules -----------------------------------------------------------------------------------------

_Rule = Callable[[Exponents, Operation, Mapping[str, Any]], None]


def _outputs(operation: Operation) -> list[Ref]:
    return [ref for ref in operation.outputs if ref is not None]


def nothing(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """Let nothing be scaled: the rule of every operation that has no other."""
    known.zero(*references(dict(given)), *_outputs(operation))


def _carry(systems: tuple[int, ...] = (0, 1), lost: bool = True) -> _Rule:
    """Results hold entries of operands, or sums of them over what they lose."""

    def rule(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
        taken, made = [*references(dict(given))], _outputs(operation)
        for _, places in known.matched(*taken, *made):
            before = [place for place in places[: len(taken)] if place is not None]
            after = [place for place in places[len(taken) :] if place is not None]
            apart = (not after and lost) or not before
            for place in (*before, *after):
                known.demand(row((place, 1)) if apart else row((place, 1), (before[0], -1)))
                if systems == (0,):
                    known.demand({place: 1}, (1,))
        if systems == (0,):
            known.apart(*taken)

    return rule


def _cut(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """Results hold some indices of an axis each, and what lies in them."""
    x, ranges = given["self"], _ranges(known, operation, given)
    if ranges is None:
        return nothing(known, operation, given)
    axis = given["dim"] % known.rank(x)
    for out, (start, stop) in zip(operation.outputs, ranges, strict=True):
        if out is None:
            continue
        after, before = known.of(out), known.of(x)
        for part in dict.fromkeys((*before, *after)):
            held = [
                ((x, o.axis, part, o.number), o.lies_in(axis, start, stop))
                for o in known.occurrences(x) if o.space is part
            ] if before else []
            left = [place for place, inside in held if inside]
            made = after.get(part, [])
            axes = [{place[1] for place in places} for places in (left, made)]
            if len(left) == len(made) and all(len(each) < 2 for each in axes):
                for one, other in zip(left, made, strict=True):
                    known.demand(row((one, 1), (other, -1)))
                lost = [place for place, inside in held if inside is None]
            else:
                lost = [*made, *(place for place, inside in held if inside is not False)]
            for place in lost:
                known.demand({place: 1})
    return None


def _ranges(
    known: Exponents, operation: Operation, given: Mapping[str, Any]
) -> list[tuple[int, int]] | None:
    """Return which indices of the axis each result holds; ``None`` where they are no range."""
    name, size = operation.short_name, int(known.values[given["self"]].shape[given["dim"]])

    def place(number: int | None, default: int) -> int:
        found = default if number is None else number
        return min(max(found if found >= 0 else found + size, 0), size)

    if name == "select":
        index = given["index"] + size * (given["index"] < 0)
        return [(index, index + 1)]
    if name == "narrow":
        start = given["start"]
        if type(start) is not int:
            return None
        return [(place(start, 0), place(start, 0) + given["length"])]
    if name == "slice":
        plain = given["step"] == 1
        return [(place(given["start"], 0), place(given["end"], size))] if plain else None
    count = len(operation.outputs)
    if name == "split_with_sizes":
        sizes = given["split_sizes"]
    elif name == "split":
        asked = given["split_size"]
        sizes = asked if isinstance(asked, (list, tuple)) else [asked] * count
    else:
        sizes = [1 if name == "unbind" else -(-size // given["chunks"])] * count
    stops = [*itertools.accumulate(sizes)]
    return [(stop - own, min(stop, size)) for own, stop in zip(sizes, stops, strict=True)]


def _one(degrees: Degrees) -> _Rule:
    """Apply a function of one number."""

    def rule(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
        (out,) = operation.outputs
        if degrees == (2, 0) and out is not None:
            known.square(out)
        elif degrees != (1, 1):
            known.apart(out)
        for _, (before, after) in known.matched(given["self"], out):
            for system, degree in enumerate(degrees):
                if degree is None:
                    known.demand(row((before, 1)), (system,))
                known.demand(row((after, 1), (before, -(degree or 0))), (system,))

    return rule


def _power(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    exponent = given["exponent"]
    if not isinstance(exponent, (int, float)) or isinstance(exponent, bool):
        return nothing(known, operation, given)
    even = int(exponent) % 2 if float(exponent).is_integer() else None
    return _one((Fraction(exponent), even))(known, operation, given)


def _sum(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """Add tensors, or stack them: all are multiplied as the result is."""
    (out,) = operation.outputs
    operands = given["tensors"] if "tensors" in given else (given["self"], given["other"])
    for _, (*before, after) in known.matched(*operands, out):
        for place in before:
            known.demand(row((after, 1), (place, -1)))


def _product(second: int) -> _Rule:
    """Multiply entry by entry, or divide (-1)."""

    def rule(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
        (out,) = operation.outputs
        if given.get("rounding_mode") is not None:
            return nothing(known, operation, given)
        one, other = known.counted(given["self"]), known.counted(given["other"])
        known.entrywise |= one & other if second == 1 else other
        for _, (at_one, at_other, after) in known.matched(given["self"], given["other"], out):
            known.demand(row((after, 1), (at_one, -1), (at_other, -second)))
        return None

    return rule


def _choose(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """``where``: entries of one or the other, by what is not scaled."""
    known.zero(given["condition"])
    known.apart(given["condition"])
    _sum(known, operation, given)


def _masked(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    known.zero(given["mask"])
    known.apart(given["mask"])
    if given["value"] != 0:
        return nothing(known, operation, given)
    return _carry()(known, operation, {"self": given["self"]})


def _multiply(
    known: Exponents, out: Ref, one: Ref, other: Ref, added: Any = None, transposed: bool = False
) -> None:
    """``one @ other``, or ``one @ other.T``, and what is added along the last axis."""
    inner, outer = (-1, -2) if transposed else (-2, -1)
    known.link((known.axis(one, -1), 1), (known.axis(other, inner), 1))
    known.link((known.axis(out, -1), 1), (known.axis(other, outer), -1))
    rank = known.rank(out)
    for back in range(2, rank + 1):
        factors = [(known.axis(one, -back), -1)] if known.rank(one) >= back else []
        if back > 2 and known.rank(other) >= back:
            factors.append((known.axis(other, -back), -1))
            known.one_by_one(out, -back)
        known.link((known.axis(out, -back), 1), *factors)
    if isinstance(added, Ref):
        missing = known.rank(added) < 1
        known.link((known.axis(out, -1), 1), ({} if missing else known.axis(added, -1), -1))
        for back in range(2, rank + 1):
            own = known.axis(added, -back) if known.rank(added) >= back else {}
            known.link((known.axis(out, -back), 1), (own, -1))


def _linear(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    (out,) = _outputs(operation)
    if known.rank(given["weight"]) != 2:
        return nothing(known, operation, given)
    return _multiply(known, out, given["input"], given["weight"], given["bias"], transposed=True)


def _matmul(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    (out,) = _outputs(operation)
    one = given.get("mat1", given.get("batch1"))
    added = None if one is None else given["self"]
    one = given["self"] if one is None else one
    other = given.get("mat2", given.get("batch2", given.get("other")))
    if known.rank(one) < 2 or known.rank(other) < 2:
        return nothing(known, operation, given)
    return _multiply(known, out, one, other, added)


def _convolution(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    (out,), x, weight = _outputs(operation), given["input"], given["weight"]
    transposed = given.get("transposed", "transpose" in operation.name)
    batched = known.rank(x) == known.rank(weight)
    channels, before, after = known.axis(x, 1), known.axis(weight, 1), known.axis(weight, 0)
    made = known.axis(out, 1)
    if not batched or (given["groups"] > 1 and (before or transposed or set(made) != set(after))):
        return nothing(known, operation, given)
    if given["groups"] == 1:
        known.link((channels, 1), (after if transposed else before, 1))
        known.link((made, 1), (before if transposed else after, -1))
    else:
        known.link((made, 1), (after, -1), (channels, -1))
        known.apart(out)
    bias = given["bias"]
    if isinstance(bias, Ref):
        known.link((made, 1), (known.axis(bias, 0), -1))
    for axis in (axis for axis in range(known.rank(x)) if axis != 1):
        # No one scales samples or pixels, so that little is lost by letting no one.
        known.link((known.axis(x, axis), 1))
        known.link((known.axis(out, axis), 1))
    for axis in range(2, known.rank(weight)):
        known.link((known.axis(weight, axis), 1))
    return None


def _normalise_by_statistics(
    known: Exponents, operation: Operation, given: Mapping[str, Any]
) -> None:
    """Batch norm in evaluation: means move with what they are subtracted from."""
    out, mean, variance = operation.outputs[0], given["running_mean"], given["running_var"]
    if given.get("training") or not isinstance(mean, Ref):
        return nothing(known, operation, given)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    known.zero(variance, *operation.outputs[1:])
    known.apart(mean)
    for _, places in known.matched(x, mean, weight, out, bias):
        at_x, at_mean, at_weight, at_out, at_bias = places
        known.demand(row((at_x, 1), (at_mean, -1)))
        known.demand(row((at_out, 1), (at_x, -1), (at_weight, -1)))
        if isinstance(bias, Ref):
            known.demand(row((at_out, 1), (at_bias, -1)))
    return None


def _normalise_by_root(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """RMS norm: signs and rotations pass, and its weight goes neuron by neuron."""
    (out,), x, weight = _outputs(operation), given["input"], given["weight"]
    if len(given["normalized_shape"]) != 1:
        return nothing(known, operation, given)
    known.apart(weight)
    for axis in range(known.rank(x) - 1):
        known.one_by_one(x, axis)
    _unscaled(known, x)
    for _, (before, at_weight, after) in known.matched(x, weight, out):
        known.demand(row((after, 1), (before, -1), (at_weight, -1)))
    return None


def _unscaled(known: Exponents, ref: Ref) -> None:
    """Let no positive factor be on any axis: what is normalised does not follow it."""
    for places in known.of(ref).values():
        for place in places:
            known.demand({place: 1}, (0,))


def _normalise(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """Layer norm: what it normalises stays as it is, and its weight and bias go with the result."""
    out, x = operation.outputs[0], given["input"]
    weight, bias = given["weight"], given["bias"]
    known.apart(out)
    _unscaled(known, x)
    if any(ref is not None for ref in operation.outputs[1:]):
        known.zero(x, *operation.outputs[1:])
    for axis in range(-len(given["normalized_shape"]), 0):
        known.link((known.axis(x, axis), 1))
    for _, (before, at_weight, at_bias, after) in known.matched(x, weight, bias, out):
        known.demand(row((after, 1), (before, -1), (at_weight, -1)))
        if isinstance(bias, Ref):
            known.demand(row((after, 1), (at_bias, -1)))


def _slopes(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """PReLU: its slopes are not scaled."""
    known.zero(given["weight"])
    known.apart(given["self"])
    _one((1, None))(known, operation, given)


def _spread(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """``expand``: entries are alike along what it adds, so that a matrix may mix these."""
    (out,) = _outputs(operation)
    known.alike[out] = known.counted(out) - known.counted(given["self"])
    _carry(lost=False)(known, operation, given)


def _norm_of(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """Euclidean norm: over what is summed, signs and rotations cancel."""
    (out,) = _outputs(operation)
    if given.get("ord", given.get("p", 2)) not in (2, None):
        return nothing(known, operation, given)
    for part, (before, after) in known.matched(given["self"], out):
        known.demand(row((before, 1)) if after is None else row((after, 1), (before, -1)), (0,))
        known.demand(row((after, 1)), (1,))
        if after is not None:
            known.entrywise.add(part)
    return None


def _recurrent(lost: int, gates: int = 1) -> _Rule:
    """Let states of a recurrent layer be scaled as its activation lets them: not by ``lost``.

    Of the gates the third alone makes states; the others are sigmoids, and stay as they are.
    """

    def rule(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
        per_layer = 4 if given["has_biases"] else 2
        results, params = _outputs(operation), given["params"]
        started = given["hx"] if isinstance(given["hx"], (list, tuple)) else [given["hx"]]
        constants = [known.values[ref].constant for ref in started]
        zero = all(found is not None and found.number == 0 for found in constants)
        plain = len(params) == per_layer * given["num_layers"] and len(results) == 1
        if given["bidirectional"] or given["dropout"] or not zero or not plain:
            return nothing(known, operation, given)
        (out,), before = results, known.axis(given["input"], -1)
        known.apart(out, *params)
        for first in range(0, len(params), per_layer):
            into, back, *biases = params[first : first + per_layer]
            known.link((before, 1), (known.axis(into, 1), 1))
            state, *others = (_gate(known, ref, gates) for ref in (into, back, *biases))
            known.link((state, 1), (known.axis(back, 1), 1))
            for other in others:
                known.link((state, 1), (other, -1))
            for place in state.values():
                known.demand({place: 1}, (lost,))
            before = state
        known.link((before, 1), (known.axis(out, -1), -1))
        for ref in (given["input"], out):
            for axis in range(known.rank(ref) - 1):
                known.link((known.axis(ref, axis), 1))
        return None

    return rule


def _gate(known: Exponents, ref: Ref, gates: int) -> OfAxis:
    """Return the places of what makes states, as those of one axis; other gates are not scaled."""
    found = known.axis(ref, 0)
    if gates == 1:
        return found
    for (_, number), place in found.items():
        if number % gates != 2:
            known.demand({place: 1})
    return {
        (part, number // gates): place
        for (part, number), place in found.items() if number % gates == 2
    }


def _embedding(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    (out,), weight = _outputs(operation), given["weight"]
    known.link((known.axis(weight, 0), 1))
    known.link((known.axis(out, -1), 1), (known.axis(weight, 1), -1))
    for axis in range(known.rank(out) - 1):
        known.link((known.axis(out, axis), 1))


def _attention(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """Scores stay as they are: what queries are multiplied by, keys are divided by."""
    out, query, key, value = operation.outputs[0], given["query"], given["key"], given["value"]
    ranks = {known.rank(ref) for ref in (query, key, value)}
    if given.get("dropout_p") or out is None or len(ranks) > 1:
        return nothing(known, operation, given)
    known.zero(given.get("attn_mask"))
    for axis in range(ranks.pop()):
        if given.get("enable_gqa") and axis == known.rank(query) - 3:
            for ref in (query, key, value, out):
                known.link((known.axis(ref, axis), 1))
            continue
        at_query, at_key, at_value, after = (
            known.axis(ref, axis) for ref in (query, key, value, out)
        )
        if axis < known.rank(query) - 2:
            known.one_by_one(query, axis)
        if axis == known.rank(query) - 2:  # positions: each score is of two of them
            for places in (at_query, at_key, at_value, after):
                known.link((places, 1))
        else:
            known.link((at_query, 1), (at_key, 1))
            known.link((after, 1), (at_value, -1))
    return None


def _join(known: Exponents, operation: Operation, given: Mapping[str, Any]) -> None:
    """``cat``: each has its own part of one axis, and all have the others."""
    (out,), joined = _outputs(operation), given["tensors"]
    rank, own = known.rank(out), given["dim"] % known.rank(out)
    if any(known.rank(ref) != rank for ref in joined):
        return nothing(known, operation, given)
    for axis in (axis for axis in range(rank) if axis != own):
        for ref in joined:
            known.link((known.axis(out, axis), 1), (known.axis(ref, axis), -1))
    left, start = dict(known.axis(out, own)), 0
    for ref in joined:
        value = known.values[ref]
        stop = start + int(value.shape[own])
        there = [
            (o.space, o.number) for o in known.occurrences(out)
            if o.axis == own and o.lies_in(own, start, stop)
        ]
        after = [(key[0], place) for key in there if (place := left.pop(key, None)) is not None]
        before = [(part, place) for (part, _), place in known.axis(ref, own).items()]
        _align(known, after, before, value.constant is not None and value.constant.number == 0)
        start = stop
    known.link((left, 1))  # what lies in no part as a whole
    return None


def _align(
    known: Exponents, after: Sequence[tuple[Dim, Place]], before: Sequence[tuple[Dim, Place]],
    zero: bool,
) -> None:  # fmt: skip
    """Let a part of a result be multiplied as what it is made of; zeros are by any factor."""
    for space in dict.fromkeys(part for part, _ in (*after, *before)):
        made, taken = ([place for part, place in each if part is space] for each in (after, before))
        if len(made) == len(taken):
            for one, other in zip(made, taken, strict=True):
                known.demand(row((one, 1), (other, -1)))
        elif not zero:
            for place in (*made, *taken):
                known.demand({place: 1})


_LAYOUT = (
    "view reshape _unsafe_view flatten unflatten permute transpose t movedim unsqueeze squeeze "
    "clone alias detach contiguous repeat repeat_interleave to _to_copy lift_fresh_copy dropout "
    "flip roll"
)
_CUTTING = "slice select narrow split split_with_sizes chunk unbind"
_SUMMED = (
    "sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "_adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest2d upsample_bilinear2d"
)
_LARGEST = (
    "amax amin max_pool1d max_pool2d max_pool3d max_pool2d_with_indices adaptive_max_pool2d"
)

#: operator, without ``aten.`` -> its rule
SCALING_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_LAYOUT.split(), _carry(lost=False)),
    **dict.fromkeys(_CUTTING.split(), _cut),
    **dict.fromkeys(_SUMMED.split(), _carry()),
    **dict.fromkeys(_LARGEST.split(), _carry((0,))),
    **{name: _one(degrees) for name, degrees in _POWERS.items()},
    "pow": _power,
    **dict.fromkeys(("add", "sub", "subtract", "stack"), _sum),
    **dict.fromkeys(("mul", "multiply"), _product(1)),
    **dict.fromkeys(("div", "divide", "true_divide"), _product(-1)),
    "expand": _spread,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _slopes),
    "cat": _join,
    "where": _choose,
    "masked_fill": _masked,
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm", "baddbmm"), _matmul),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
         "conv_transpose3d"),
        _convolution,
    ),
    **dict.fromkeys(
        ("_native_batch_norm_legit_no_training", "batch_norm"), _normalise_by_statistics
    ),
    "rms_norm": _normalise_by_root,
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _normalise),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm_of),
    "rnn_relu": _recurrent(lost=1),
    "rnn_tanh": _recurrent(lost=0),
    "lstm": _recurrent(lost=0, gates=4),
    "gru": _recurrent(lost=0, gates=3),
    "embedding": _embedding,
    "scaled_dot_product_attention": _attention,
}  # fmt: skip


def _is_whole(value: Value) -> bool:
    """Whether the pieces of a tensor count the same spaces along all other axes."""
    if value.blocks is None:
        return True
    own, pieces = value.blocks
    counted = [
        [{o.space for o in occurrences(piece) if o.axis == axis}
         for axis in range(value.rank) if axis != own]
        for piece in pieces
    ]  # fmt: skip
    return all(map(_is_whole, pieces)) and all(each == counted[0] for each in counted)


def apply_rule(known: Exponents, operation: Operation) -> None:
    """Let one operation demand what it must."""
    given, summed = operation.arguments, operation.short_name in ("sum", "mean")
    for ref in operation.operands:
        known.use(ref, *(_outputs(operation) if summed else ()))
    taken, made = (
        [value for ref in refs if (value := known.values.get(ref)) is not None]
        for refs in (operation.operands, _outputs(operation))
    )
    rule = SCALING_RULES.get(operation.short_name)
    if rule is None:
        activation = operator_activation(operation.short_name, dict([*given.items()][1:]))
        if activation is not None and "self" in given and len(taken) == len(made) == 1:
            rule = _one(_OF_ACTIVATION[activation.symmetry])
    # Pieces are told apart where entries are laid out anew, and nowhere else.
    arranged = operation.short_name in (*_LAYOUT.split(), *_CUTTING.split(), "cat")
    pieces = not arranged and any(not _is_whole(value) for value in (*taken, *made))
    # Whole numbers that are made of scaled ones stay as they are only if these do.
    whole = not known.varies(made[0]) if made else True
    if rule is None or pieces or (whole and any(map(known.varies, taken))):
        rule = nothing
    rule(known, operation, given)
