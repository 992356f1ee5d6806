"""The primitives in plain torch over index tensors: the definition, for any graph and dtype."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nngraph.graph import Topology


def ends(topology: Topology, side: str) -> tuple[Tensor, int]:
    """Return the row that each edge is reduced to, ``[E]``, and the number of rows."""
    if side == "block":
        return topology.edge_block, len(topology.blocks.size)
    return topology.target if side == "target" else topology.source, topology.num_nodes


def sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the sum of the rows that share an index, ``size`` rows in all."""
    out = values.new_zeros(*values.shape[:-2], size, values.shape[-1])
    return out.index_add(-2, index, values)


#: ``(values [*, n, C], index [n], size) -> [*, size, C]``, as :func:`sum_by`.
Total = Callable[[Tensor, Tensor, int], Tensor]


def mean_by(values: Tensor, index: Tensor, sizes: Tensor, total: Total = sum_by) -> Tensor:
    """Return the mean of the rows that share an index; ``sizes`` says how many each has."""
    return total(values, index, len(sizes)) / sizes.clamp(min=1).to(values.dtype).unsqueeze(-1)


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    return x.index_select(-2, ends(topology, side)[0])


def reduce_sum(topology: Topology, e: Tensor, side: str, total: Total = sum_by) -> Tensor:
    return total(e, *ends(topology, side))


def reduce_extreme(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    index, size = ends(topology, side)
    out = e.new_zeros(*e.shape[:-2], size, e.shape[-1])
    at = index.unsqueeze(-1).expand_as(e)
    return out.scatter_reduce(-2, at, e, f"a{op}", include_self=False)


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
    gathered = gather(topology, source, "source") + gather(topology, target, "target")
    return gathered if e is None else e + gathered


def inner(topology: Topology, source: Tensor, target: Tensor, heads: int) -> Tensor:
    products = gather(topology, source, "source") * gather(topology, target, "target")
    return torch.unflatten(products, -1, (heads, -1)).sum(-1)


def multiply_blocks(topology: Topology, e: Tensor, weight: Tensor) -> Tensor:
    each = weight.index_select(0, topology.edge_block)
    return (each @ e.unsqueeze(-1)).squeeze(-1)


def normalise_blocks(
    topology: Topology, e: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Total = sum_by
) -> Tensor:
    block, sizes = topology.edge_block, topology.blocks.size
    mean = mean_by(e, block, sizes, total).mean(-1, keepdim=True)
    # Around the mean, not E[e^2] - E[e]^2, which cancels.
    apart = e - mean.index_select(-2, block)
    variance = mean_by(apart.square(), block, sizes, total).mean(-1, keepdim=True)
    scale = weight * (variance + eps).rsqrt()
    return apart * scale.index_select(-2, block) + bias.index_select(-2, block)


def propagate(
    topology: Topology, weight: Tensor, x: Tensor, to: str, total: Total = sum_by
) -> Tensor:
    messages = weight.unsqueeze(-1) * gather(topology, x, "source" if to == "target" else "target")
    return reduce_sum(topology, messages, to, total)


def heard_levels(topology: Topology, level: int) -> range:
    """Return the levels whose neurons a level hears: the one before, or all before."""
    return range(0 if topology.levels[level].skips else level - 1, level)


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """``x`` is that of the levels it hears of."""
    rows = torch.argsort(topology.nodes.level_order)
    here = sum(topology.levels[before].size for before in range(level))
    first = here - sum(topology.levels[before].size for before in heard_levels(topology, level))
    sending, receiving = rows[first:here], rows[here : here + topology.levels[level].size]
    if to == "source":
        sending, receiving = receiving, sending
    state = x.new_zeros(*x.shape[:-2], topology.num_nodes, x.shape[-1])
    state = state.index_copy(-2, sending, x)
    there = (topology.blocks.level == level)[topology.edge_block]
    own = weight.where(there, torch.zeros_like(weight))
    return propagate(topology, own, state, to).index_select(-2, receiving)
