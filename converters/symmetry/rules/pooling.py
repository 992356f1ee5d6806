"""Pooling and resampling over pixels: channel by channel, pixels fixed."""

from __future__ import annotations

from converters.symmetry.call import Call
from converters.symmetry.dims import atom
from converters.symmetry.rules.common import broadcast, option, rest_alike, table
from converters.symmetry.values import Value, tensors


def pool(call: Call) -> list[Value | None]:
    """Pool or resample over the last axes, of which the operator's name says how many."""
    call.entrywise()
    value = tensors(call.arguments)[0]
    dims, lead = list(value.dims), value.rank - _rank(call)
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
    dims = call.resample(dims, moved, "is pooled or resampled")
    # What else there is are the indices of the largest entries, channel by channel.
    return rest_alike(call, call.enter("pool", [value], Value(dims)))


def _rank(call: Call) -> int:
    return next(rank for rank in (1, 2, 3) if f"{rank}d" in call.operation.name)


def unpool(call: Call) -> Value:
    """Put entries back where the indices say, channel by channel; pixels are told apart."""
    call.entrywise()
    value, indices = call.value("self"), call.value("indices")
    rank = _rank(call)
    lead = broadcast([value.dims[:-rank], indices.dims[:-rank]])
    call.fix(indices.dims[-rank:], "counts positions")
    pixels = call.resampled(value.dims[-rank:], call.shape[-rank:], "is put back")
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


POOLING = {
    **table(pool, "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d",
            "max_pool1d_with_indices", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d",
            "adaptive_avg_pool2d", "adaptive_max_pool2d", "_adaptive_avg_pool2d",
            "fractional_max_pool2d", "max_pool3d", "max_pool3d_with_indices", "avg_pool3d",
            "adaptive_avg_pool3d", "adaptive_max_pool3d", "_adaptive_avg_pool3d",
            "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
            "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "upsample_linear1d",
            "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
            "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    **table(unpool, "max_unpool2d", "max_unpool3d"),
}
