"""Index tensors that follow from an architecture alone, and whether those of a graph still do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nngraph.graph.architecture import Architecture
from nngraph.graph.groups import ROLES


def _edge_index(architecture: Architecture) -> Tensor:
    """Return ``[2, E]``: source and target of each edge; of a block by part, target and source."""
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
    """Return ``[N, F]``: whether a parameter is there, so that a missing bias is no bias of 0."""
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


# -- whether those of a graph still do -------------------------------------------------------------

# What was found of a tensor holds as long as the tensor is that object and has that version:
# indices are compared again only after they were replaced or written to.
_KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def note_own(index: Tensor, architectures: Sequence[Architecture]) -> None:
    """Remember that an index tensor is the one of these networks, until it is written to."""
    if not index.is_inference():
        _KNOWN[index] = (index._version, tuple(architectures))


def are_own(name: str, index: Tensor, architectures: Sequence[Architecture]) -> bool:
    """Whether an index tensor is that of networks side by side, as a PyG ``Batch`` joins them.

    Exact. It reads the tensor once, without making the one that is expected of all edges.
    """
    if not index.is_inference() and index in _KNOWN:
        version, known = _KNOWN[index]
        if version == index._version and known == tuple(architectures):
            return True
    axis = 1 if name == "edge_index" else 0
    rows = [a.num_edges if name.startswith("edge") else a.num_nodes for a in architectures]
    if index.shape[axis:] != (sum(rows),) or (axis and len(index) != 2):
        return False
    if index.is_meta:
        return True
    found = _edges(index, architectures) if axis else _entries(name, index, architectures)
    if (flags := list(found)) and not bool(torch.stack(flags).all()):
        return False
    note_own(index, architectures)
    return True


def is_same_edges(edge_index: Tensor, architecture: Architecture) -> bool:
    """Whether the edges are those of an architecture, in any order."""
    if tuple(edge_index.shape) != (2, architecture.num_edges):
        return False
    size = architecture.num_nodes
    if not bool(((edge_index >= 0) & (edge_index < size)).all()):
        return False
    own = STRUCTURE["edge_index"](architecture).to(edge_index.device)
    found, expected = ((i[0] * size + i[1]).sort().values for i in (edge_index, own))
    return torch.equal(found, expected)


def _runs(architectures: Sequence[Architecture]) -> Iterator[tuple[Architecture, int]]:
    for architecture, run in groupby(architectures):
        yield architecture, sum(1 for _ in run)


def _edges(index: Tensor, architectures: Sequence[Architecture]) -> Iterator[Tensor]:
    """Compare ``edge_index`` block by block with two ranges, for all networks of a run at once."""
    edge = node = 0
    for a, count in _runs(architectures):
        part = index[:, edge : edge + count * a.num_edges]
        part = torch.unflatten(part, 1, (count, a.num_edges))
        first = node + a.num_nodes * torch.arange(count, device=index.device).view(-1, 1, 1, 1)
        for block in a.blocks:
            sizes = (block.parts, block.rows, block.columns)
            found = torch.unflatten(part[..., block.start : block.stop], -1, sizes)
            for end, group, shape in (
                (0, block.source, (block.parts, 1, block.columns)),
                (1, block.target, (block.parts, block.rows, 1)),
            ):
                places = torch.arange(math.prod(shape), device=index.device).view(shape)
                yield (found[end] == first + a.node_starts[group] + places).all()
        edge, node = edge + count * a.num_edges, node + count * a.num_nodes


def _entries(name: str, index: Tensor, architectures: Sequence[Architecture]) -> Iterator[Tensor]:
    start = 0
    for a, count in _runs(architectures):
        expected = STRUCTURE[name](a).to(index.device)
        part = index[start : start + count * len(expected)]
        yield (torch.unflatten(part, 0, (count, len(expected))) == expected).all()
        start += len(part)
