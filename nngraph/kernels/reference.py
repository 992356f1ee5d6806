"""The primitives in plain torch over index tensors: the definition, for any graph and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.graph.topology import Topology

__all__ = [
    "edge_affine",
    "gather",
    "mean_by",
    "pool_blocks",
    "propagate",
    "propagate_level",
    "reduce_sum",
    "sum_by",
]


def _end(topology: Topology, side: str) -> Tensor:
    return topology.target if side == "target" else topology.source


def sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the sum of the rows that share an index, ``size`` rows in all."""
    out = values.new_zeros(*values.shape[:-2], size, values.shape[-1])
    return out.index_add(-2, index, values)


def mean_by(values: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    """Return the mean of the rows that share an index; ``sizes`` says how many each has."""
    total = sum_by(values, index, len(sizes))
    return total / sizes.to(values.dtype).unsqueeze(-1)


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.gather`."""
    return x.index_select(-2, _end(topology, side))


def reduce_sum(topology: Topology, e: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`."""
    return sum_by(e, _end(topology, side), topology.num_nodes)


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.edge_affine`."""
    gathered = gather(topology, source, "source") + gather(topology, target, "target")
    return gathered if e is None else e + gathered


def propagate(topology: Topology, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """See :func:`nngraph.kernels.propagate`."""
    messages = weight.unsqueeze(-1) * gather(topology, x, "source" if to == "target" else "target")
    return reduce_sum(topology, messages, to)


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.propagate_level`."""
    rows = torch.arange(topology.num_nodes, device=x.device)
    before, here = rows[topology.node_level == level - 1], rows[topology.node_level == level]
    state = x.new_zeros(*x.shape[:-2], topology.num_nodes, x.shape[-1]).index_copy(-2, before, x)
    there = (topology.block_level == level)[topology.edge_block].to(weight.dtype)
    return propagate(topology, weight * there, state, "target").index_select(-2, here)


def pool_blocks(topology: Topology, e: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.pool_blocks`."""
    return mean_by(e, topology.edge_block, topology.block_size)
