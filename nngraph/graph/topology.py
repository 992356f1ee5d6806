"""Who is connected to whom, in the form the kernels read: blocks of equal shape side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import ROLES, Architecture

__all__ = ["Bucket", "Nodes", "Topology"]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Rows of the node features: ``count`` sets of ``size`` neurons each.

    Contiguous rows are a slice, read as a view; others carry their index ``[count * size]``.
    """

    count: int
    size: int
    start: int
    index: Tensor | None

    @property
    def stop(self) -> int:
        """One past the last row, where the rows are contiguous."""
        return self.start + self.count * self.size


@dataclass(frozen=True, eq=False)
class Bucket:
    """``count`` blocks of one shape whose edges ``start:stop`` lie one after the other.

    Their edge features are a view ``[..., count, rows, columns, C]``: row the target, column the
    source.
    """

    start: int
    stop: int
    count: int
    rows: int
    columns: int
    source: Nodes
    target: Nodes


@dataclass(frozen=True, eq=False)
class Topology:
    """The structure of one architecture, or of a batch of networks of any architectures.

    Features are ``[*, N, C]`` on nodes and ``[*, E, C]`` on edges. For a *stacked* batch the
    leading shape is ``(B,)`` and the topology is that of the one architecture. For a *ragged* batch
    there is no leading shape: nodes are network by network, as PyG orders them, and edges are
    brought into buckets, so that blocks of equal shape of different networks lie side by side;
    ``edge_order`` maps this order to PyG's.

    Attributes:
        num_nodes, num_edges: N and E, over all networks.
        num_graphs: number of networks that the topology itself spans (1 when stacked).
        source, target: ``[E]`` neuron at each end of each edge.
        edge_block: ``[E]`` block of each edge, counted over the whole batch in the order of edges.
        node_group: ``[N]`` group of each node, counted over the whole batch.
        node_graph, block_graph, group_graph: network of each node, block, group.
        node_role: ``[N]`` input 0, hidden 1, output 2.
        node_position: ``[N]`` place within the group.
        node_level, block_level: distance from the input group, in blocks; a block has the level of
            its target.
        node_height: distance to the output group.
        max_inputs, max_outputs: the most of one network.
        output_rows: for each level that has output neurons (several only where depths are mixed),
            which of its neurons they are.
        level_order: ``[N]`` place of each neuron in the order of levels.
        group_level: as ``node_level``, per group.
        node_has_bias: ``[N]`` whether the neuron has a bias at all.
        buckets: maximal runs of blocks of equal shape.
        levels: for each level from 1, the buckets whose targets lie there, with neurons counted
            within their level; empty where a block skips a level.
        level_nodes: for each level from 0, its neurons.
        level_activations: for each level from 0, its distinct activations, each with the rows of
            ``level_nodes`` that apply it; ``None`` for all of them.
        activations, node_activation: distinct activations, and ``[N]`` which of them each neuron
            has.
        edge_order: ``[E]`` or ``None``: feature ``i`` here is feature ``edge_order[i]`` of the
            batch.
    """

    num_nodes: int
    num_edges: int
    num_graphs: int
    source: Tensor
    target: Tensor
    edge_block: Tensor
    node_group: Tensor
    node_graph: Tensor
    block_graph: Tensor
    group_graph: Tensor
    node_role: Tensor
    node_position: Tensor
    node_level: Tensor
    node_height: Tensor
    node_has_bias: Tensor
    output_rows: dict[int, Tensor]
    level_order: Tensor
    max_inputs: int
    max_outputs: int
    group_level: Tensor
    block_level: Tensor
    in_degree: Tensor
    out_degree: Tensor
    block_size: Tensor
    group_size: Tensor
    buckets: tuple[Bucket, ...]
    levels: tuple[tuple[Bucket, ...], ...]
    level_nodes: tuple[Nodes, ...]
    level_activations: tuple[tuple[tuple[Activation, Tensor | None], ...], ...]
    activations: tuple[Activation, ...]
    node_activation: Tensor
    edge_order: Tensor | None
    architectures: tuple[Architecture, ...]
    _moved: dict[torch.device, Topology] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, architecture: Architecture) -> Topology:
        """Return the topology of one architecture, for single networks and stacks; cached."""
        return _of_architecture(architecture)

    @classmethod
    def of_batch(cls, architectures: Sequence[Architecture]) -> Topology:
        """Return the topology of networks side by side, as a PyG ``Batch`` orders them; cached."""
        if not architectures:
            raise InvalidGraphError("the batch has no networks; expected at least one.")
        return _of_architectures(tuple(architectures))

    def to(self, device: torch.device | str) -> Topology:
        """Return the topology with its index tensors on ``device``; each copy is made once."""
        device = torch.device(device)
        if self.source.device == device:
            return self
        if device not in self._moved:
            self._moved[device] = _move(self, device)
        return self._moved[device]

    @property
    def single(self) -> Architecture:
        """The one architecture of a stacked batch.

        Raises:
            InvalidGraphError: if the topology is that of several networks side by side.
        """
        if self.num_graphs != 1:
            raise InvalidGraphError(
                f"the batch holds {self.num_graphs} networks side by side; expected one "
                "architecture. Stack networks of one architecture in a NeuralGraphStack."
            )
        return self.architectures[0]


@lru_cache(maxsize=64)
def _of_architecture(architecture: Architecture) -> Topology:
    return _build((architecture,), reorder=False)


@lru_cache(maxsize=16)
def _of_architectures(architectures: tuple[Architecture, ...]) -> Topology:
    return _build(architectures, reorder=True)


def _levels(architecture: Architecture) -> tuple[list[int], list[int]]:
    """Longest distance of each group from the inputs and to the outputs, in blocks."""
    level, height = [0] * len(architecture.groups), [0] * len(architecture.groups)
    # Groups stand in the order of computation; parameters in that of the state dict.
    for block in sorted(architecture.blocks, key=lambda block: block.source):
        level[block.target] = max(level[block.target], level[block.source] + 1)
    for block in sorted(architecture.blocks, key=lambda block: -block.target):
        height[block.source] = max(height[block.source], height[block.target] + 1)
    return level, height


def _build(architectures: tuple[Architecture, ...], reorder: bool) -> Topology:
    """Lay the blocks of all networks side by side; loops over distinct architectures only."""
    distinct = {a: i for i, a in enumerate(dict.fromkeys(architectures))}
    kind = np.array([distinct[a] for a in architectures])
    nodes = np.array([a.num_nodes for a in distinct])[kind]
    edges = np.array([a.num_edges for a in distinct])[kind]
    node_start = np.concatenate([[0], np.cumsum(nodes)])
    edge_start = np.concatenate([[0], np.cumsum(edges)])
    functions = {a: i for i, a in enumerate(
        dict.fromkeys(group.activation for a in distinct for group in a.groups)
    )}
    block_parts, group_parts = [], []
    for a, i in distinct.items():
        graphs = np.flatnonzero(kind == i)[:, None]
        level, height = _levels(a)
        biased = {c.group for c in a.columns if a.column_names[c.column] == "bias"}
        table = np.array(
            [
                (b.shape[0], b.shape[1], level[b.target], b.start,
                 a.node_starts[b.source], a.node_starts[b.target], b.index)
                for b in a.blocks
            ],
            dtype=np.int64,
        ).reshape(-1, 7)
        shift = np.zeros((len(graphs), 1, 7), dtype=np.int64)
        shift[:, :, 3] = edge_start[graphs]
        shift[:, :, 4:6] = node_start[graphs][:, :, None]
        part = table[None] + shift
        owner = np.broadcast_to(graphs[:, :, None], (*part.shape[:2], 1))
        block_parts.append(np.concatenate([part, owner], axis=2).reshape(-1, 8))
        table = np.array(
            [
                (group.size, ROLES.index(group.role), level[g], height[g], g in biased,
                 functions[group.activation], g)
                for g, group in enumerate(a.groups)
            ],
            dtype=np.int64,
        )
        part = np.broadcast_to(table[None], (len(graphs), *table.shape))
        owner = np.broadcast_to(graphs[:, :, None], (*part.shape[:2], 1))
        group_parts.append(np.concatenate([part, owner], axis=2).reshape(-1, 8))
    blocks, groups = np.concatenate(block_parts), np.concatenate(group_parts)
    groups = groups[np.lexsort((groups[:, 6], groups[:, 7]))]
    # Native order is by network and block; ragged batches sort by shape, then level.
    keys = [6, 7, 2, 1, 0] if reorder else [6, 7]
    blocks = blocks[np.lexsort(tuple(blocks[:, key] for key in keys))]

    rows, columns = blocks[:, 0], blocks[:, 1]
    sizes = rows * columns
    starts = np.concatenate([[0], np.cumsum(sizes)])
    edge_block = np.repeat(np.arange(len(blocks)), sizes)
    within = np.arange(starts[-1]) - starts[edge_block]
    source = blocks[edge_block, 4] + within % columns[edge_block]
    target = blocks[edge_block, 5] + within // columns[edge_block]
    order = blocks[edge_block, 3] + within if reorder else None
    group_size = groups[:, 0]
    node_group = np.repeat(np.arange(len(groups)), group_size)
    group_start = np.concatenate([[0], np.cumsum(group_size)])
    num_nodes = int(node_start[-1])

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))

    buckets = _runs(blocks, starts, np.stack([rows, columns], axis=1))
    depth = int(groups[:, 2].max())
    level_rows = [np.flatnonzero(groups[node_group, 2] == level) for level in range(depth + 1)]
    levels = _layers(blocks, starts, level_rows, groups[node_group, 2])
    output = ROLES.index("output")
    outputs = groups[groups[:, 1] == output]
    node_role = groups[node_group, 1]
    return Topology(
        num_nodes=num_nodes,
        num_edges=int(starts[-1]),
        num_graphs=len(architectures),
        source=tensor(source),
        target=tensor(target),
        edge_block=tensor(edge_block),
        node_group=tensor(node_group),
        node_graph=tensor(groups[node_group, 7]),
        block_graph=tensor(blocks[:, 7]),
        group_graph=tensor(groups[:, 7]),
        node_role=tensor(node_role),
        node_position=tensor(np.arange(num_nodes) - group_start[node_group]),
        node_level=tensor(groups[node_group, 2]),
        node_height=tensor(groups[node_group, 3]),
        node_has_bias=tensor(groups[node_group, 4]).bool(),
        output_rows={
            level: tensor(np.flatnonzero(node_role[level_rows[level]] == output))
            for level in sorted(set(outputs[:, 2].tolist()))
        },
        level_order=tensor(np.argsort(np.concatenate(level_rows))),
        max_inputs=int(groups[groups[:, 2] == 0, 0].max()),
        max_outputs=int(outputs[:, 0].max()),
        group_level=tensor(groups[:, 2]),
        block_level=tensor(blocks[:, 2]),
        in_degree=tensor(np.bincount(target, minlength=num_nodes)),
        out_degree=tensor(np.bincount(source, minlength=num_nodes)),
        block_size=tensor(sizes),
        group_size=tensor(group_size),
        buckets=tuple(bucket for bucket, _ in buckets),
        levels=levels,
        level_nodes=tuple(_nodes(rows, 1) for rows in level_rows),
        level_activations=tuple(
            _by_activation(tuple(functions), groups[node_group[rows], 5]) for rows in level_rows
        ),
        activations=tuple(functions),
        node_activation=tensor(groups[node_group, 5]),
        edge_order=None if order is None or _is_range(order) else tensor(order),
        architectures=architectures,
    )


def _layers(
    blocks: np.ndarray, starts: np.ndarray, level_rows: list[np.ndarray], node_level: np.ndarray
) -> tuple[tuple[Bucket, ...], ...]:
    """Group the blocks by level, neurons counted within their level; none if one skips a level."""
    if (node_level[blocks[:, 4]] + 1 != blocks[:, 2]).any():
        return ()
    local = np.empty(len(node_level), dtype=np.int64)
    for rows in level_rows:
        local[rows] = np.arange(len(rows))
    within = blocks.copy()
    within[:, 4:6] = local[blocks[:, 4:6]]
    runs = _runs(within, starts, blocks[:, :3])
    return tuple(
        tuple(bucket for bucket, first in runs if blocks[first, 2] == level)
        for level in range(1, len(level_rows))
    )


def _is_range(values: np.ndarray) -> bool:
    return bool((np.diff(values) == 1).all())


def _runs(
    blocks: np.ndarray, starts: np.ndarray, keys: np.ndarray
) -> list[tuple[Bucket, int]]:
    """Join neighbouring blocks of equal key; each with the index of its first block."""
    change = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    bounds = [0, *change.tolist(), len(blocks)] if len(blocks) else [0]
    runs = []
    for first, last in pairwise(bounds):
        rows, columns = int(blocks[first, 0]), int(blocks[first, 1])
        runs.append(
            (
                Bucket(
                    int(starts[first]),
                    int(starts[last]),
                    last - first,
                    rows,
                    columns,
                    _nodes(blocks[first:last, 4], columns),
                    _nodes(blocks[first:last, 5], rows),
                ),
                first,
            )
        )
    return runs


def _by_activation(
    functions: tuple[Activation, ...], kinds: np.ndarray
) -> tuple[tuple[Activation, Tensor | None], ...]:
    present = np.unique(kinds)
    if len(present) == 1:
        return ((functions[present[0]], None),)
    return tuple(
        (functions[kind], torch.from_numpy(np.flatnonzero(kinds == kind))) for kind in present
    )


def _nodes(first: np.ndarray, size: int) -> Nodes:
    rows = (first[:, None] + np.arange(size)).reshape(-1)
    index = None if _is_range(rows) else torch.from_numpy(rows)
    return Nodes(len(first), size, int(first[0]), index)


def _move(topology: Topology, device: torch.device) -> Topology:
    def nodes(value: Nodes) -> Nodes:
        index = None if value.index is None else value.index.to(device)
        return Nodes(value.count, value.size, value.start, index)

    def bucket(value: Bucket) -> Bucket:
        fields = {**value.__dict__, "source": nodes(value.source), "target": nodes(value.target)}
        return Bucket(**fields)

    fields: dict[str, Any] = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in topology.__dict__.items()
    }
    fields["buckets"] = tuple(bucket(b) for b in topology.buckets)
    fields["levels"] = tuple(tuple(bucket(b) for b in level) for level in topology.levels)
    fields["level_nodes"] = tuple(nodes(level) for level in topology.level_nodes)
    fields["output_rows"] = {k: rows.to(device) for k, rows in topology.output_rows.items()}
    fields["level_activations"] = tuple(
        tuple((kind, None if rows is None else rows.to(device)) for kind, rows in level)
        for level in topology.level_activations
    )
    fields["_moved"] = {}
    return Topology(**fields)
