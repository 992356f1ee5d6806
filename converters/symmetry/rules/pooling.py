"""Pooling and resampling over pixels: channel by channel, pixels fixed."""

from __future__ import annotations

from converters.symmetry.call import Call
from converters.symmetry.dims import atom
from converters.symmetry.rules.common import rest_fixed, table, tensors
from converters.symmetry.values import Value

__all__ = ["POOLING"]


def _windows(call: Call, rank: int) -> list[Value | None]:
    value = tensors(call.arguments)[0]
    lead = len(value.dims) - rank
    sizes = call.shape[lead:]
    pooled = value.dims[lead:]
    if all(size == 1 for size in sizes) and "adaptive" in call.operation.name:
        # One window over everything does not see the order.
        dims = [*value.dims[:lead], *(atom(1) for _ in sizes)]
    else:
        dims = [*value.dims[:lead], *call.resampled(pooled, sizes, "is pooled or resampled")]
    first = call.enter("pool", [value], Value(tuple(dims)))
    return rest_fixed(call, first)


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
    **table(
        resample, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "upsample_linear1d",
        "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    ),
}
