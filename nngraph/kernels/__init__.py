"""The primitives that every layer stands on, behind one door: gather, reduce, pool, broadcast.

Every function takes the :class:`~nngraph.graph.topology.Topology` first, then features
``[*, N, C]`` on nodes or ``[*, E, C]`` on edges, with any leading shape, and ``backend=``:

- ``"reference"``: plain torch over the index tensors; the definition;
- ``"scatter"``: torch-scatter's kernels over the index tensors; needs that package;
- ``"dense"``: blocks as dense arrays: views, broadcasts, sums along an axis, matrix products;
- ``"auto"``: ``"dense"``, which serves every topology that the library makes.

A backend that is named is used, or refused with an error; none replaces another silently.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal, cast

from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.topology import Nodes, Topology
from nngraph.kernels import dense, reference, scatter

__all__ = [
    "BACKENDS",
    "Side",
    "edge_affine",
    "gather",
    "pool_blocks",
    "pool_groups",
    "propagate",
    "propagate_level",
    "reduce",
    "spread_blocks",
    "spread_groups",
    "take",
]

#: Which end of an edge: the neuron it leaves, or the one it enters.
Side = Literal["source", "target"]
BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "scatter": scatter,
    "dense": dense,
}
_AUTO = "dense"


def _kernel(backend: str, name: str) -> Any:
    chosen = _AUTO if backend == "auto" else backend
    if chosen not in BACKENDS:
        raise ValueError(
            f"backend is {backend!r}; expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )
    return getattr(BACKENDS[chosen], name)


def gather(topology: Topology, x: Tensor, side: Side, backend: str = "auto") -> Tensor:
    """Return for each edge the features of the neuron at that end: ``[*, N, C] -> [*, E, C]``."""
    return cast(Tensor, _kernel(backend, "gather")(topology, x, side))


def reduce(
    topology: Topology, e: Tensor, side: Side, op: str = "sum", backend: str = "auto"
) -> Tensor:
    r"""Reduce edge features to the neuron at that end: ``[*, E, C] -> [*, N, C]``.

    ``op`` is ``"sum"`` or ``"mean"``; a neuron with no such edge gets 0.
    """
    if op not in ("sum", "mean"):
        raise ValueError(f"op is {op!r}; expected 'sum' or 'mean'.")
    total = cast(Tensor, _kernel(backend, "reduce_sum")(topology, e, side))
    if op == "sum":
        return total
    degree = topology.in_degree if side == "target" else topology.out_degree
    return total / degree.clamp(min=1).to(e.dtype).unsqueeze(-1)


def edge_affine(
    topology: Topology, e: Tensor | None, source: Tensor, target: Tensor, backend: str = "auto"
) -> Tensor:
    r"""Return :math:`e_{ij} + s_j + t_i` for each edge j -> i without the gathered features.

    ``e`` ``[*, E, C]`` or ``None`` for 0; ``source``, ``target`` ``[*, N, C]``. With ``e``,
    ``source`` and ``target`` linear images of edge and node features this is a linear map of
    ``[x_src, x_dst, e]`` at the cost of one product per neuron instead of one per edge.
    """
    return cast(Tensor, _kernel(backend, "edge_affine")(topology, e, source, target))


def propagate(
    topology: Topology, weight: Tensor, x: Tensor, to: Side = "target", backend: str = "auto"
) -> Tensor:
    r"""Pass node features along the edges with one scalar weight each: :math:`\sum_j w_{ij} x_j`.

    Args:
        weight: ``[*, E]``.
        x: ``[*, N, C]``.
        to: ``"target"`` runs forwards; ``"source"`` runs backwards, :math:`\sum_i w_{ij} x_i`.

    Returns:
        ``[*, N, C]``; 0 at neurons that nothing reaches.
    """
    return cast(Tensor, _kernel(backend, "propagate")(topology, weight, x, to))


def propagate_level(
    topology: Topology, level: int, weight: Tensor, x: Tensor, backend: str = "auto"
) -> Tensor:
    r"""Pass the features of one level's neurons on to the next: :math:`\sum_j w_{ij} x_j`.

    Args:
        level: of the targets, from 1.
        weight: ``[*, E]``, of all edges.
        x: ``[*, n, C]``, features of the neurons ``topology.level_nodes[level - 1]``.

    Returns:
        ``[*, m, C]`` at the neurons ``topology.level_nodes[level]``.

    Raises:
        InvalidGraphError: if the topology has no such level, as when its blocks skip levels.
    """
    if not 1 <= level <= len(topology.levels):
        raise InvalidGraphError(
            f"level {level} was asked of a topology with {len(topology.levels)}; networks whose "
            "blocks skip levels have none."
        )
    return cast(Tensor, _kernel(backend, "propagate_level")(topology, level, weight, x))


def pool_blocks(topology: Topology, e: Tensor, backend: str = "auto") -> Tensor:
    """Return the mean over each block's edges: ``[*, E, C] -> [*, K, C]`` for K blocks."""
    return cast(Tensor, _kernel(backend, "pool_blocks")(topology, e))


def spread_blocks(topology: Topology, blocks: Tensor) -> Tensor:
    """Return each block's features at each of its edges: ``[*, K, C] -> [*, E, C]``."""
    return blocks.index_select(-2, topology.edge_block)


def pool_groups(topology: Topology, x: Tensor) -> Tensor:
    """Return the mean over each group's neurons: ``[*, N, C] -> [*, G, C]`` for G groups."""
    return reference.mean_by(x, topology.node_group, topology.group_size)


def spread_groups(topology: Topology, groups: Tensor) -> Tensor:
    """Return each group's features at each of its neurons: ``[*, G, C] -> [*, N, C]``."""
    return groups.index_select(-2, topology.node_group)


def take(x: Tensor, nodes: Nodes) -> Tensor:
    """Return the features of some neurons: ``[*, N, C] -> [*, n, C]``; a view where contiguous."""
    if nodes.index is None:
        return x[..., nodes.start : nodes.stop, :]
    return x.index_select(-2, nodes.index)
