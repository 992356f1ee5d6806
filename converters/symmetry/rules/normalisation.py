"""Normalisation: statistics that do not see the order of what they run over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from converters.symmetry.call import Call
from converters.symmetry.dims import Dim, atom, factor
from converters.symmetry.rules.common import broadcast, entrywise, rest_fixed, table, tied
from converters.symmetry.values import Value


def _with_statistics(
    call: Call, first: Value, kept: Sequence[Dim], dropped: Iterable[Dim]
) -> list[Value | None]:
    """Return a normalised tensor and its statistics, which have only some of its dimensions."""
    results = rest_fixed(call, first)
    for number, shape in enumerate(call.shapes):
        if number and call.used(number) and shape == tuple(dim.size for dim in kept):
            call.drops(*dropped, results=(number,))
            results[number] = first.like(kept)
    return results


def channel_norm(call: Call) -> list[Value | None]:
    """Normalise each channel, of each example or of all, by its statistics."""
    value = call.value("input")
    place = min(1, value.rank - 1)
    rest = [i for i in range(value.rank) if i != place]
    kind = "instance_norm" if "instance" in call.operation.name else "batch_norm"
    call.mixes(value, range(2, value.rank) if kind == "instance_norm" else rest)
    channels = [value.dims[place]]
    roles = tied(call, channels, "weight", "bias", "running_mean", "running_var")
    result = call.enter(kind, [value], value.like(value.dims), roles, eps=call.get("eps", 1e-5))
    return _with_statistics(call, result, channels, [value.dims[i] for i in rest])


def group_norm(call: Call) -> list[Value | None]:
    """Normalise over groups of channels: relabelled within groups, and groups as wholes."""
    value = call.value("input")
    groups = int(call["num_groups"] if "num_groups" in call.arguments else call["group"])
    channels = value.dims[1]
    group = channels if groups == channels.size else atom(1)
    if 1 < groups < channels.size:
        group, _ = factor(channels, (groups, channels.size // groups))
        call.name(group, "groups")
        call.iterates(value.dims[0], group)
    call.mixes(value, range(2 if groups == channels.size else 1, value.rank))
    roles = tied(call, [channels], "weight", "bias")
    result = call.enter(
        "group_norm", [value], value.like(value.dims), roles, groups=groups, eps=call["eps"]
    )
    return _with_statistics(call, result, [value.dims[0], group], value.dims[1:])


def layer_norm(call: Call) -> list[Value | None]:
    """Normalise over the last axes; scale and shift are indexed by them."""
    value = call.value("input")
    rank = len(call["normalized_shape"])
    call.mixes(value, range(value.rank - rank, value.rank))
    roles = tied(call, value.dims[-rank:], "weight", "bias")
    kind = "rms_norm" if "rms" in call.operation.name else "layer_norm"
    result = call.enter(kind, [value], value.like(value.dims), roles, eps=call.get("eps"))
    statistics = [*value.dims[: value.rank - rank], *(atom(1) for _ in range(rank))]
    return _with_statistics(call, result, statistics, value.dims[value.rank - rank :])


@entrywise
def local_response_norm(call: Call) -> Value:
    """Normalise over neighbouring channels, whose order counts."""
    value = call.value("self")
    call.fix([value.dims[1]], "is normalised over its neighbours")
    return call.enter("normalise", [value], value.like(value.dims))


def weight_norm(call: Call) -> Value:
    """Scale each slice of a weight to a norm that is a parameter of its own."""
    direction, length = call.value("v"), call.value("g")
    dims = broadcast([direction.dims, length.dims])
    call.mixes(direction, [i for i, size in enumerate(length.shape) if size == 1])
    return call.enter("normalise", [], Value(dims), {"direction": direction, "length": length})


NORMALISATION = {
    **table(channel_norm, "batch_norm", "native_batch_norm", "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update",
            "instance_norm"),
    **table(group_norm, "group_norm", "native_group_norm"),
    **table(layer_norm, "layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"),
    **table(weight_norm, "_weight_norm"),
    **table(local_response_norm, "local_response_norm"),
}
