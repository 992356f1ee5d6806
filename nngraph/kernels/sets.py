"""Primitives of sets of rows: the neurons of groups, and all that belongs to one network.

Each takes features ``[*, K, C]`` and the :class:`~nngraph.graph.Members` that say which of S sets
each row belongs to, such as ``topology.nodes.group`` or ``topology.blocks.graph``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nngraph.graph import Members
from nngraph.kernels.backends.reference import mean_by, sum_by


def pool(values: Tensor, of: Members) -> Tensor:
    """Return the mean over the rows of each set: ``[*, K, C] -> [*, S, C]``; 0 if it is empty."""
    return mean_by(values, of.index, of.sizes)


def broadcast(sets: Tensor, of: Members) -> Tensor:
    """Return each set's features at each of its rows: ``[*, S, C] -> [*, K, C]``."""
    return sets.index_select(-2, of.index)


def quantiles(values: Tensor, of: Members, shares: Sequence[float]) -> Tensor:
    """Return the quantiles of each channel over the rows of each set: ``-> [*, S, Q, C]``.

    Between two values it is linear, as torch and numpy have it by default; 0 for sets that are
    empty. Two sorts of all rows, whatever the number of sets and their sizes.
    """
    index, sizes = of.index, of.sizes
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

    Of sizes ``[*, 1]``, or one number: ``[*, Q]`` each.
    """
    last = (size - 1).clamp(min=0)
    # float64: positions in large sets are no float32.
    rank = last * torch.tensor(shares, dtype=torch.float64, device=size.device)
    below = rank.floor().long()
    return below, (below + 1).clamp(max=last), rank - below


def attend_members(values: Tensor, score: Tensor, of: Members) -> Tensor:
    r"""Average the rows of each set by the softmax of a score: :math:`\sum_k a_k v_k`.

    ``[*, K, C]`` and a score ``[*, K, H]``, one for each of H heads, which share the channels
    evenly, ``-> [*, S, C]``, 0 for sets that are empty.
    """
    index, size = of.index, of.count
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
