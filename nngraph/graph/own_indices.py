"""Whether the indices of a graph are those of its architecture, by which its features are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nngraph.graph.architecture import Architecture
from nngraph.graph.structure import STRUCTURE

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
    flags = list(found)
    same = not flags or bool(torch.stack(flags).all())
    if same:
        note_own(index, architectures)
    return same


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


def _entries(
    name: str, index: Tensor, architectures: Sequence[Architecture]
) -> Iterator[Tensor]:
    start = 0
    for a, count in _runs(architectures):
        expected = STRUCTURE[name](a).to(index.device)
        part = index[start : start + count * len(expected)]
        yield (torch.unflatten(part, 0, (count, len(expected))) == expected).all()
        start += len(part)
