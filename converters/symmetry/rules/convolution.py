"""Convolutions: channels are relabelled, within groups where there are groups; pixels are fixed."""

from __future__ import annotations

from converters.symmetry.call import Call
from converters.symmetry.dims import factor, multiply, unify
from converters.symmetry.rules.common import align, entrywise, option, table
from converters.symmetry.values import Value


def convolve(call: Call) -> Value:
    r"""Convolve, :math:`y_{b,gc,p} = \sum_{i,k} W_{gc,i,k} x_{b,gi,p+k} + b_{gc}`.

    The weight is ``[g c, i, *k]``, and ``[g i, c, *k]`` for a transposed convolution.
    """
    value, weight, bias = call.value("input"), call["weight"], call["bias"]
    transposed = bool(call.get("transposed", "transpose" in call.operation.name))
    groups = int(call["groups"])
    taps = list(weight.dims[2:])
    lead = list(value.dims[: len(value.dims) - len(taps) - 1])
    channels, pixels = value.dims[len(lead)], value.dims[len(lead) + 1 :]
    moved = [i for i, tap in enumerate(taps) if tap.size > 1 or _moves(call, i)]
    # Pixels that are not mixed are run over as well.
    joint = [*lead, *(pixel for i, pixel in enumerate(pixels) if i not in moved)]
    # The axis of the weight that is whole, and the one that stands for one group.
    whole, part = weight.dims[0], weight.dims[1]
    if groups == 1:
        inner, outer = (whole, part) if transposed else (part, whole)
        align([channels, inner])
        call.iterates(*joint, inner, outer)
    else:
        group, inner = factor(channels, (groups, channels.size // groups))
        weight_group, rest = factor(whole, (groups, whole.size // groups))
        unify(group, weight_group)
        if inner.size > 1 or rest.size > 1:
            call.name(group, "groups")
        if transposed:
            unify(inner, rest)
            outer = multiply((group, part))
            call.iterates(*joint, group, inner, part)
        else:
            unify(inner, part)
            outer = whole
            call.iterates(*joint, group, inner, rest)
    if bias is not None:
        align([outer, bias.dims[0]])
    call.fix([taps[i] for i in moved], "counts taps", natural=True)
    places = [len(lead) + 1 + i for i in moved]
    dims = call.resample(value.dims, places, "is convolved over")
    dims[len(lead)] = outer
    facts = {
        name: call[name] for name in ("stride", "padding", "dilation", "output_padding")
        if name in call.arguments
    }
    return call.enter(
        "convolution", [value], Value(dims), {"weight": weight, "bias": bias},
        groups=groups, transposed=transposed, **facts,
    )


def _moves(call: Call, place: int) -> bool:
    """Whether pixels of the result stand elsewhere, on an axis, than those they come from."""
    moves = {"stride": 1, "padding": 0, "output_padding": 0}
    return any(option(call, name, place, still) != still for name, still in moves.items())


@entrywise
def im2col(call: Call) -> Value:
    """Take windows: (C, H, W) -> (C k k, windows)."""
    value = call.value("self")
    *lead, channels, height, width = value.dims
    sizes = (call.shape[-2] // channels.size, call.shape[-1])
    taps, windows = call.resampled([height, width], sizes, "has windows taken")
    return value.like([*lead, multiply((channels, taps)), windows])


@entrywise
def col2im(call: Call) -> Value:
    """Add up windows: (C k k, windows) -> (C, H, W)."""
    value = call.value("self")
    *lead, columns, windows = value.dims
    channels = call.shape[-3]
    outer, taps = factor(columns, (channels, columns.size // channels))
    pixels = call.resampled([taps, windows], call.shape[-2:], "has windows added up")
    return value.like([*lead, outer, *pixels])


CONVOLUTION = {
    **table(convolve, "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d",
            "conv_transpose2d", "conv_transpose3d"),
    **table(im2col, "im2col"),
    **table(col2im, "col2im"),
}
