"""Pooling and resampling over pixels: channel by channel, pixels fixed."""

from __future__ import annotations

from converters.symmetry.call import Call
from converters.symmetry.dims import atom
from converters.symmetry.rules.common import broadcast, option, table
from converters.symmetry.values import Value, tensors


def _windows(call: Call, rank: int) -> list[Value | None]:
    call.entrywise()
    value = tensors(call.arguments)[0]
    dims, lead = list(value.dims), value.rank - rank
    # The indices of the largest entries count the pixels of all axes together.
    seen = len(call.shapes) > 1 and call.used(1)
    moved = []
    for place, size in enumerate(call.shape[lead:]):
        before = dims[lead + place].size
        if not seen and _is_over_everything(call, place, before, size):
            call.drops(dims[lead + place])
            dims[lead + place] = atom(1)
        elif seen or not _is_entry_by_entry(call, place, before, size):
            moved.append(lead + place)
    sizes = [call.shape[place] for place in moved]
    found = call.resampled([dims[place] for place in moved], sizes, "is pooled or resampled")
    for place, dim in zip(moved, found, strict=True):
        dims[place] = dim
    first = call.enter("pool", [value], Value(tuple(dims)))
    # What else there is are the indices of the largest entries, channel by channel.
    return [first] + [
        Value(tuple(dims), first.sources) if call.used(number) else None
        for number in range(1, len(call.shapes))
    ]


def unpool(call: Call) -> Value:
    """Put entries back where the indices say, channel by channel; pixels are told apart."""
    call.entrywise()
    value, indices = call.value("self"), call.value("indices")
    rank = 3 if "3d" in call.operation.name else 2
    lead = broadcast([value.dims[: value.rank - rank], indices.dims[: value.rank - rank]])
    call.fix(indices.dims[value.rank - rank :], "counts positions")
    pixels = call.resampled(value.dims[value.rank - rank :], call.shape[-rank:], "is put back")
    return call.enter("pool", [value, indices], Value((*lead, *pixels)))


def _is_over_everything(call: Call, place: int, before: int, after: int) -> bool:
    """Whether there is one window over all of an axis: it does not see the order."""
    if after != 1 or "adaptive" in call.operation.name:
        return after == 1
    return "fractional" not in call.operation.name and _window(call, place) == (before, 0)


def _is_entry_by_entry(call: Call, place: int, before: int, after: int) -> bool:
    """Whether each window of an axis is one index, in order."""
    if before != after or "fractional" in call.operation.name:
        return False
    if "adaptive" in call.operation.name:
        return True
    if "kernel_size" in call.arguments:
        return _window(call, place) == (1, 0) and option(call, "stride", place, 1) == 1
    scales = [value for name, value in call.arguments.items() if name.startswith("scales")]
    scale = scales[place] if scales else option(call, "scale_factors", place)
    return scale is None or scale == 1


def _window(call: Call, place: int) -> tuple[int, int]:
    """Return size and padding of the windows along an axis; a dilated one is none."""
    size, dilation = (option(call, n, place, 1) for n in ("kernel_size", "dilation"))
    return (size if size == 1 or dilation == 1 else 0), option(call, "padding", place, 0)


def pool_1d(call: Call) -> list[Value | None]:
    """Pool over the last axis."""
    return _windows(call, 1)


def pool_2d(call: Call) -> list[Value | None]:
    """Pool over the last two axes."""
    return _windows(call, 2)


def pool_3d(call: Call) -> list[Value | None]:
    """Pool over the last three axes."""
    return _windows(call, 3)


def resample(call: Call) -> list[Value | None]:
    """Resample over all axes but the batch and the channels."""
    return _windows(call, len(tensors(call.arguments)[0].dims) - 2)


POOLING = {
    **table(
        pool_1d, "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
        "max_pool1d_with_indices",
    ),
    **table(
        pool_2d, "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d",
        "adaptive_max_pool2d", "_adaptive_avg_pool2d", "fractional_max_pool2d",
    ),
    **table(
        pool_3d, "max_pool3d", "max_pool3d_with_indices", "avg_pool3d", "adaptive_avg_pool3d",
        "adaptive_max_pool3d", "_adaptive_avg_pool3d",
    ),
    **table(unpool, "max_unpool2d", "max_unpool3d"),
    **table(
        resample, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "upsample_linear1d",
        "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    ),
}
