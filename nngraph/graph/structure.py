"""Index tensors that follow from an architecture alone: who is connected, and what each node is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nngraph.graph.architecture import Architecture
from nngraph.graph.groups import ROLES


def _edge_index(architecture: Architecture) -> Tensor:
    """Return ``[2, E]``: source and target neuron of each edge, block by block.

    Edges of a block are sorted by part, target and source, the order of a flattened ``[out, in]``
    weight.
    """
    index = torch.empty(2, architecture.num_edges, dtype=torch.long)
    for block in architecture.blocks:
        parts, rows, cols = block.parts, block.rows, block.columns
        out = index[:, block.start : block.stop].view(2, parts, rows, cols)
        source = architecture.node_starts[block.source]
        target = architecture.node_starts[block.target]
        out[0] = torch.arange(source, source + parts * cols).view(parts, 1, cols)
        out[1] = torch.arange(target, target + parts * rows).view(parts, rows, 1)
    return index


def _repeat(values: Sequence[int], counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(
        torch.tensor(values, dtype=torch.long), torch.tensor(counts, dtype=torch.long)
    )


def _edge_block(architecture: Architecture) -> Tensor:
    """Return ``[E]``: index of the block of each edge."""
    blocks = architecture.blocks
    return _repeat([b.index for b in blocks], [b.stop - b.start for b in blocks])


def _node_group(architecture: Architecture) -> Tensor:
    """Return ``[N]``: index of the neuron group of each node."""
    return _repeat(range(len(architecture.groups)), architecture.widths)


def _node_role(architecture: Architecture) -> Tensor:
    """Return ``[N]``: role of each node, an index into ``ROLES`` (input 0, hidden 1, output 2)."""
    return _repeat([ROLES.index(group.role) for group in architecture.groups], architecture.widths)


def _node_position(architecture: Architecture) -> Tensor:
    """Return ``[N]``: place of each node within its group, from 0."""
    starts = _repeat(architecture.node_starts[:-1], architecture.widths)
    return torch.arange(architecture.num_nodes) - starts


def _node_mask(architecture: Architecture) -> Tensor:
    """Return ``[N, F]``: whether a parameter fills this column of this node.

    An input neuron has no bias, nor has a neuron of a layer without biases: there the feature is
    0 and the mask ``False``, so that a missing bias never looks like a bias of 0.
    """
    mask = torch.zeros(architecture.num_nodes, len(architecture.column_names), dtype=torch.bool)
    for column in architecture.columns:
        mask[column.start : column.stop, column.column : column.column + column.width] = True
    return mask


#: Index tensors of a graph, each a function of its architecture.
STRUCTURE = {
    "edge_index": _edge_index,
    "x_mask": _node_mask,
    "node_group": _node_group,
    "node_role": _node_role,
    "node_position": _node_position,
    "edge_block": _edge_block,
}
