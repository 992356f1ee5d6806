"""Quantiles and attention over sets of rows of any size: one sort, or one softmax, for all sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nngraph.kernels.backends.reference import sum_by

__all__ = ["attend_by", "quantile_ranks", "quantiles_by"]


def quantiles_by(values: Tensor, index: Tensor, sizes: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the quantiles of each channel over the rows that share an index.

    Between two values it is linear, as torch and numpy have it by default. Two sorts of all rows,
    whatever the number of sets and their sizes.

    Shape:
        values ``[*, K, C]``, index ``[K]``, sizes ``[S]`` of the sets -> ``[*, S, Q, C]``, 0 for
        sets that are empty.
    """
    shape = (*values.shape[:-2], len(sizes), len(shares), values.shape[-1])
    if not values.shape[-2]:
        return values.new_zeros(shape)
    order = values.detach().argsort(dim=-2)
    # Stable, so that within a set the order of values stays.
    order = order.gather(-2, index[order].argsort(dim=-2, stable=True))
    ranked = values.gather(-2, order)
    *ranks, part = quantile_ranks(sizes.unsqueeze(-1), shares)
    first = (sizes.cumsum(0) - sizes).unsqueeze(-1)
    ends = [(first + rank).flatten().clamp(max=len(index) - 1) for rank in ranks]
    low, high = (ranked.index_select(-2, end) for end in ends)
    found = torch.lerp(low, high, part.to(values.dtype).reshape(-1, 1))
    found = found * (sizes > 0).repeat_interleave(len(shares)).unsqueeze(-1)
    return found.reshape(shape)


def quantile_ranks(size: Tensor, shares: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ranks in a set of ``size`` values between which quantiles lie, and how far along.

    Shape:
        size ``[*, 1]``, or one number -> ``[*, Q]`` each.
    """
    last = (size - 1).clamp(min=0)
    # float64: positions in large sets are no float32.
    rank = last * torch.tensor(shares, dtype=torch.float64, device=size.device)
    below = rank.floor().long()
    return below, (below + 1).clamp(max=last), rank - below


def attend_by(values: Tensor, score: Tensor, index: Tensor, size: int) -> Tensor:
    """Average the rows that share an index by the softmax of a score.

    Shape:
        values ``[*, K, C]``, score ``[*, K, H]`` for H heads, which share the channels evenly,
        index ``[K]`` -> ``[*, size, C]``, 0 for sets that are empty.
    """
    heads = torch.unflatten(values, -1, (score.shape[-1], -1))
    if size == 1:
        weight = score.softmax(-2).unsqueeze(-1)
        return (heads * weight).sum(-3, keepdim=True).flatten(-2)
    # Shifting a softmax changes nothing, so the shift has no gradient.
    lowest = score.new_full((*score.shape[:-2], size, score.shape[-1]), -torch.inf)
    at = index.unsqueeze(-1).expand_as(score)
    peak = lowest.scatter_reduce(-2, at, score.detach(), "amax")
    weight = (score - peak.index_select(-2, index)).exp()
    share = weight / sum_by(weight, index, size).index_select(-2, index)
    return sum_by((heads * share.unsqueeze(-1)).flatten(-2), index, size)
