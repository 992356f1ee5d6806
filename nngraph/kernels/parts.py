"""Primitives of the parts of networks: blocks, groups, whole networks, and sets of neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from nngraph.graph import Topology
from nngraph.kernels import sets
from nngraph.kernels.backends import reference
from nngraph.kernels.backends.choice import Side, count_of, kernel_of, known_side
from nngraph.kernels.edges import gather, reduce

__all__ = [
    "attend_graphs",
    "broadcast_blocks",
    "broadcast_graphs",
    "broadcast_groups",
    "multiply_blocks",
    "normalise_blocks",
    "pool_blocks",
    "pool_graphs",
    "pool_groups",
    "quantiles",
    "quantiles_of_groups",
]


def multiply_blocks(
    topology: Topology, e: Tensor, weight: Tensor, backend: str = "auto"
) -> Tensor:
    r"""Multiply each edge's features by the matrix of its block: :math:`\Theta_{k(e)} e`.

    Args:
        e: ``[*, E, C]``.
        weight: ``[K, C_out, C]``, one matrix for each block.

    Returns:
        ``[*, E, C_out]``.
    """
    return cast(Tensor, kernel_of(topology, backend, "multiply_blocks")(topology, e, weight))


def normalise_blocks(
    topology: Topology,
    e: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    r"""Standardise each block of each network over its edges and channels, then scale and shift.

    .. math:: e'_{ij} = \gamma_k \frac{e_{ij} - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta_k

    with k the edge's block, and :math:`\mu_k`, :math:`\sigma_k` the mean and deviation of all its
    numbers.

    Args:
        e: ``[*, E, C]``.
        weight, bias: :math:`\gamma` and :math:`\beta`, ``[K, C]``.

    Returns:
        ``[*, E, C]``.
    """
    kernel = kernel_of(topology, backend, "normalise_blocks")
    return cast(Tensor, kernel(topology, e, weight, bias, eps))


def pool_blocks(topology: Topology, e: Tensor, backend: str = "auto") -> Tensor:
    """Return the mean over each block's edges: ``[*, E, C] -> [*, K, C]`` for K blocks."""
    return reduce(topology, e, "block", "mean", backend)


def broadcast_blocks(topology: Topology, blocks: Tensor, backend: str = "auto") -> Tensor:
    """Return each block's features at each of its edges: ``[*, K, C] -> [*, E, C]``."""
    return gather(topology, blocks, "block", backend)


def pool_groups(topology: Topology, x: Tensor) -> Tensor:
    """Return the mean over each group's neurons: ``[*, N, C] -> [*, G, C]`` for G groups."""
    return reference.mean_by(x, topology.nodes.group.index, topology.groups.size)


def broadcast_groups(topology: Topology, groups: Tensor) -> Tensor:
    """Return each group's features at each of its neurons: ``[*, G, C] -> [*, N, C]``."""
    return groups.index_select(-2, topology.nodes.group.index)


def pool_graphs(topology: Topology, values: Tensor, of: Tensor) -> Tensor:
    """Return the mean over what belongs to each network: ``[*, K, C] -> [*, networks, C]``.

    Args:
        of: ``[K]``, network of each row: the topology's ``node_graph``, ``group_graph`` or
            ``block_graph``.
    """
    # Not torch.bincount, which waits for a GPU to know how long its answer is.
    count = torch.zeros(topology.num_graphs, dtype=of.dtype, device=of.device)
    return reference.mean_by(values, of, count.index_add(0, of, torch.ones_like(of)))


def broadcast_graphs(graphs: Tensor, of: Tensor) -> Tensor:
    """Return each network's features at what belongs to it: ``[*, networks, C] -> [*, K, C]``."""
    return graphs.index_select(-2, of)


def attend_graphs(topology: Topology, values: Tensor, score: Tensor, of: Tensor) -> Tensor:
    r"""Average what belongs to each network by the softmax of a score: :math:`\sum_k a_k v_k`.

    Args:
        values: ``[*, K, C]``.
        score: ``[*, K, H]``, one for each of H heads, which share the channels evenly.
        of: as of :func:`pool_graphs`.

    Returns:
        ``[*, networks, C]``; 0 for networks that have none.
    """
    return sets.attend_by(values, score, of, topology.num_graphs)


def quantiles(topology: Topology, e: Tensor, side: Side, shares: Sequence[float]) -> Tensor:
    """Return quantiles of the edges that share an end or a block: ``[*, E, C] -> [*, N, Q, C]``.

    ``[*, K, Q, C]`` for K blocks; 0 at neurons with no such edge. Linear between two values; two
    sorts of all edges.
    """
    index, _ = reference.ends(topology, known_side(side))
    return sets.quantiles_by(e, index, count_of(topology, side), shares)


def quantiles_of_groups(topology: Topology, x: Tensor, shares: Sequence[float]) -> Tensor:
    """Return quantiles of the neurons of each group: ``[*, N, C] -> [*, G, Q, C]``."""
    return sets.quantiles_by(x, topology.nodes.group.index, topology.groups.size, shares)
