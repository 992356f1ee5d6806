"""The primitives on torch-scatter's kernels over index tensors: any graph, edges in any order."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from nngraph.errors import MissingDependencyError
from nngraph.graph.topology import Topology

__all__ = [
    "edge_affine",
    "gather",
    "pool_blocks",
    "propagate",
    "propagate_level",
    "reduce_sum",
    "torch_scatter",
]


def torch_scatter() -> ModuleType:
    """Return the package.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import torch_scatter as package
    except ImportError as error:
        raise MissingDependencyError(
            "the backend 'scatter' needs torch-scatter, which is not installed. Install it with "
            "`pip install --no-build-isolation torch-scatter`, or use the backend 'dense'."
        ) from error
    return package  # type: ignore[no-any-return]


def _end(topology: Topology, side: str) -> Tensor:
    return topology.target if side == "target" else topology.source


def _sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    total: Tensor = torch_scatter().scatter(values, index, dim=-2, dim_size=size, reduce="sum")
    return total


def gather(topology: Topology, x: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.gather`."""
    torch_scatter()  # refuse here as in the other primitives, not at the first reduction
    return x.index_select(-2, _end(topology, side))


def reduce_sum(topology: Topology, e: Tensor, side: str) -> Tensor:
    """See :func:`nngraph.kernels.reduce`."""
    return _sum(e, _end(topology, side), topology.num_nodes)


def edge_affine(topology: Topology, e: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.edge_affine`."""
    total = gather(topology, source, "source") + gather(topology, target, "target")
    return total if e is None else total + e


def propagate(topology: Topology, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """See :func:`nngraph.kernels.propagate`."""
    messages = weight.unsqueeze(-1) * gather(topology, x, "source" if to == "target" else "target")
    return reduce_sum(topology, messages, to)


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.propagate_level`."""
    before, here = topology.node_level == level - 1, topology.node_level == level
    edges = (topology.block_level == level)[topology.edge_block].nonzero().flatten()
    # Place of each neuron among those of its level.
    senders = (before.cumsum(0) - 1)[topology.source[edges]]
    receivers = (here.cumsum(0) - 1)[topology.target[edges]]
    messages = weight.index_select(-1, edges).unsqueeze(-1) * x.index_select(-2, senders)
    return _sum(messages, receivers, int(here.sum()))


def pool_blocks(topology: Topology, e: Tensor) -> Tensor:
    """See :func:`nngraph.kernels.pool_blocks`."""
    total = _sum(e, topology.edge_block, len(topology.block_size))
    return total / topology.block_size.to(e.dtype).unsqueeze(-1)
