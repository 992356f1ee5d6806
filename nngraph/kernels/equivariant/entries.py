"""Entries of networks summed into rows of tables and read back, for edges in any order.

What layers that work entry by entry stand on: where each edge of an architecture stands in an
``edge_index``, and sums and reads by pairs of an entry and a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture, Topology
from nngraph.kernels.backends.scatter import torch_scatter

__all__ = ["add_rows", "edge_keys", "place_edges", "sum_rows"]


def edge_keys(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """Return the edges u -> v as sorted keys u * N + v, and which of all edges each is."""
    topology = Topology.of(architecture)
    keys, edges = (topology.source * topology.num_nodes + topology.target).sort()
    return keys, edges


def place_edges(
    architecture: Architecture, keys: tuple[Tensor, Tensor], batch: int, edge_index: Tensor
) -> Tensor:
    """Return where each edge of B networks, in the architecture's order, stands: ``[B E]``.

    Args:
        keys: :func:`edge_keys` of the architecture, on the device of the edges.
        edge_index: ``[2, B E]``, of the networks side by side, edges in any order.

    Raises:
        InvalidGraphError: if an edge is unknown, missing or there twice.
    """
    known_keys, edges = keys
    expected = (2, batch * architecture.num_edges)
    if tuple(edge_index.shape) != expected:
        raise InvalidGraphError(
            f"edge_index has shape {tuple(edge_index.shape)}; {batch} networks of the "
            f"architecture {architecture} expect {expected}."
        )
    network = edge_index[0] // architecture.num_nodes
    source, target = edge_index - network * architecture.num_nodes
    key = source * architecture.num_nodes + target
    at = torch.searchsorted(known_keys, key).clamp(max=max(len(known_keys) - 1, 0))
    known = (known_keys[at] == key) & (target >= 0) & (target < architecture.num_nodes)
    own = network * architecture.num_edges + edges[at]
    count = torch.bincount(own[known], minlength=expected[1]) if bool(known.all()) else None
    if count is None or len(count) != expected[1] or bool((count != 1).any()):
        raise InvalidGraphError(
            "edge_index is not that of a batch of networks of the architecture "
            f"{architecture}: an edge is unknown, missing or there twice. Edges "
            "come from the architecture; use the edge_index of a PyG Batch of its graphs."
        )
    return torch.empty_like(own).scatter_(0, own, torch.arange(len(own), device=own.device))


def sum_rows(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Return the sums of the values that share a row: ``[K, C]``, ``[K]`` -> ``[size, C]``.

    Raises:
        MissingDependencyError: if torch-scatter is not installed.
    """
    total: Tensor = torch_scatter().scatter(values, rows, dim=0, dim_size=size, reduce="sum")
    return total


def add_rows(out: Tensor, pairs: Tensor, table: Tensor) -> Tensor:
    """Add to entries ``[K, C]``, for each pair (entry, row) ``[2, *]``, that row of a table."""
    entries, rows = pairs
    return out.index_add(0, entries, table.index_select(0, rows).to(out.dtype))
