"""Laying the blocks of all networks of a batch side by side: from architectures to a topology."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nngraph.graph.activations import Activation
from nngraph.graph.architecture import ROLES, Architecture
from nngraph.graph.topology.kinds import KERNEL_AXES, block_kind, column_kind, kernel_size
from nngraph.graph.topology.meetings import meetings
from nngraph.graph.topology.parts import Bucket, Nodes

__all__ = ["build"]

#: The topology, which imports this module.
Made = TypeVar("Made")


def _levels(architecture: Architecture) -> tuple[list[int], list[int]]:
    """Longest distance of each group from the inputs and to the outputs, in blocks."""
    level, height = [0] * len(architecture.groups), [0] * len(architecture.groups)
    # Groups stand in the order of computation; parameters in that of the state dict.
    for block in sorted(architecture.blocks, key=lambda block: block.source):
        level[block.target] = max(level[block.target], level[block.source] + 1)
    for block in sorted(architecture.blocks, key=lambda block: -block.target):
        height[block.source] = max(height[block.source], height[block.target] + 1)
    return level, height


def build(
    make: Callable[..., Made], architectures: tuple[Architecture, ...], reorder: bool
) -> Made:
    """Lay the blocks of all networks side by side; loops over distinct architectures only.

    Args:
        make: the topology's class, which is given its fields by name.
        architectures: of the networks, in order.
        reorder: whether blocks of equal shape are brought together.
    """
    distinct = {a: i for i, a in enumerate(dict.fromkeys(architectures))}
    kind = np.array([distinct[a] for a in architectures])
    nodes = np.array([a.num_nodes for a in distinct])[kind]
    edges = np.array([a.num_edges for a in distinct])[kind]
    node_start = np.concatenate([[0], np.cumsum(nodes)])
    edge_start = np.concatenate([[0], np.cumsum(edges)])
    functions = {a: i for i, a in enumerate(
        dict.fromkeys(group.activation for a in distinct for group in a.groups)
    )}
    # Which kinds of columns the neurons of each group fill, as rows of one table.
    width = max(len(a.column_names) for a in distinct)
    kinds_of = {a: np.zeros(len(a.groups), dtype=np.int64) for a in distinct}
    rows_of: dict[frozenset[tuple[int, int]], int] = {frozenset(): 0}
    for a in distinct:
        own: list[set[tuple[int, int]]] = [set() for _ in a.groups]
        for c in a.columns:
            own[c.group].update((c.column + i, column_kind(c)) for i in range(c.width))
        kinds_of[a][:] = [rows_of.setdefault(frozenset(columns), len(rows_of)) for columns in own]
    filled = np.zeros((len(rows_of), width), dtype=np.int64)
    for columns, row in rows_of.items():
        for column, kind_of_column in columns:
            filled[row, column] = kind_of_column
    group_count = np.array([len(a.groups) for a in distinct])[kind]
    first_group = np.concatenate([[0], np.cumsum(group_count)])
    block_parts, group_parts = [], []
    for a, i in distinct.items():
        graphs = np.flatnonzero(kind == i)[:, None]
        level, height = _levels(a)
        table = np.array(
            [
                (b.rows, b.columns, b.parts, a.node_starts[b.source], a.node_starts[b.target],
                 b.start, level[b.target], b.index, b.source, b.target)
                for b in a.blocks
            ],
            dtype=np.int64,
        ).reshape(-1, 10)
        shift = np.zeros((len(graphs), 1, 10), dtype=np.int64)
        shift[:, :, 3:5] = node_start[graphs][:, :, None]
        shift[:, :, 5] = edge_start[graphs]
        shift[:, :, 8:] = first_group[graphs][:, :, None]
        part = table[None] + shift
        owner = np.broadcast_to(graphs[:, :, None], (*part.shape[:2], 1))
        nature = np.array(
            [(block_kind(b), *kernel_size(b)) for b in a.blocks], dtype=np.int64
        ).reshape(-1, 1 + KERNEL_AXES)
        nature = np.broadcast_to(nature[None], (len(graphs), *nature.shape))
        every = np.concatenate([part, owner, nature], axis=2)
        block_parts.append(every.reshape(-1, every.shape[-1]))
        table = np.array(
            [
                (group.size, ROLES.index(group.role), level[g], height[g], kinds_of[a][g],
                 functions[group.activation], g,
                 any(factor.space in a.spaces for factor in group.factors))
                for g, group in enumerate(a.groups)
            ],
            dtype=np.int64,
        )
        part = np.broadcast_to(table[None], (len(graphs), *table.shape))
        owner = np.broadcast_to(graphs[:, :, None], (*part.shape[:2], 1))
        group_parts.append(np.concatenate([part, owner], axis=2).reshape(-1, 9))
    blocks, groups = np.concatenate(block_parts), np.concatenate(group_parts)
    groups = groups[np.lexsort((groups[:, 6], groups[:, 8]))]
    # Native order is by network and block; ragged batches sort by shape, then level.
    keys = [7, 10, 6, 2, 1, 0] if reorder else [7, 10]
    blocks = blocks[np.lexsort(tuple(blocks[:, key] for key in keys))]

    sizes = blocks[:, :3].prod(axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    group_size = groups[:, 0]
    node_group = np.repeat(np.arange(len(groups)), group_size)
    group_start = np.concatenate([[0], np.cumsum(group_size)])
    num_nodes = int(node_start[-1])
    degrees = np.zeros((2, len(groups)), dtype=np.int64)
    np.add.at(degrees[0], blocks[:, 9], blocks[:, 1])
    np.add.at(degrees[1], blocks[:, 8], blocks[:, 0])

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))

    depth = int(groups[:, 2].max())
    level_rows = [np.flatnonzero(groups[node_group, 2] == level) for level in range(depth + 1)]
    levels, skips = _layers(blocks, starts, level_rows, groups[node_group, 2])
    output = ROLES.index("output")
    outputs = groups[groups[:, 1] == output]
    node_role = groups[node_group, 1]
    is_output = node_role == output
    graph_of_node = groups[node_group, 8]
    before = np.cumsum(is_output) - is_output
    place = np.where(is_output, before - before[node_start[:-1]][graph_of_node], -1)
    return make(
        num_nodes=num_nodes,
        num_edges=int(starts[-1]),
        num_graphs=len(architectures),
        node_group=tensor(node_group),
        node_graph=tensor(groups[node_group, 8]),
        block_graph=tensor(blocks[:, 10]),
        group_graph=tensor(groups[:, 8]),
        node_role=tensor(node_role),
        node_position=tensor(np.arange(num_nodes) - group_start[node_group]),
        node_moves=tensor(groups[node_group, 7]).bool(),
        node_level=tensor(groups[node_group, 2]),
        node_height=tensor(groups[node_group, 3]),
        node_mask=torch.from_numpy(filled[groups[node_group, 4]] > 0),
        node_columns=torch.from_numpy(filled[groups[node_group, 4]]),
        output_place=tensor(place),
        in_level_order=bool((np.diff(np.concatenate(level_rows)) == 1).all()),
        output_rows={
            level: tensor(np.flatnonzero(node_role[level_rows[level]] == output))
            for level in sorted(set(outputs[:, 2].tolist()))
        },
        level_order=tensor(np.argsort(np.concatenate(level_rows))),
        max_inputs=int(groups[(groups[:, 2] == 0) & (groups[:, 7] == 0), 0].max(initial=0)),
        max_outputs=int(place.max()) + 1,
        group_level=tensor(groups[:, 2]),
        block_level=tensor(blocks[:, 6]),
        block_kind=tensor(blocks[:, 11]),
        kernel_size=tensor(blocks[:, 12:]),
        in_degree=tensor(degrees[0][node_group]),
        out_degree=tensor(degrees[1][node_group]),
        block_size=tensor(sizes),
        group_size=tensor(group_size),
        buckets=tuple(
            bucket for bucket, _ in _runs(blocks, starts, blocks[:, :3])
        ),
        levels=levels,
        level_skips=skips,
        level_nodes=tuple(_nodes(rows, 1) for rows in level_rows),
        places=_places(groups[node_group, 2:4]),
        level_activations=tuple(
            _by_activation(tuple(functions), groups[node_group[rows], 5]) for rows in level_rows
        ),
        activations=tuple(functions),
        node_activation=tensor(groups[node_group, 5]),
        max_tensors=int(np.bincount(np.concatenate([groups[:, 8], blocks[:, 10]])).max()),
        meetings=meetings(blocks[:, :5], starts, group_start[:-1], group_size),
        blocks=tensor(blocks[:, :6]),
        reordered=reorder and not _is_range(blocks[:, 5], sizes),
        architectures=architectures,
        num_taps=max(a.num_taps for a in set(architectures)),
        chains=all(a.is_chain for a in set(architectures)),
    )


def _layers(
    blocks: np.ndarray, starts: np.ndarray, level_rows: list[np.ndarray], node_level: np.ndarray
) -> tuple[tuple[tuple[Bucket, ...], ...], tuple[bool, ...]]:
    """Group the blocks by level, neurons counted within their level, or within all before."""
    order = np.argsort(np.concatenate(level_rows))
    first = np.concatenate([[0], np.cumsum([len(rows) for rows in level_rows])])
    skipping = set(blocks[node_level[blocks[:, 3]] + 1 != blocks[:, 6], 6].tolist())
    skips = np.array([level in skipping for level in range(len(level_rows))])
    within = blocks.copy()
    before = np.where(skips[blocks[:, 6]], 0, first[node_level[blocks[:, 3]]])
    within[:, 3] = order[blocks[:, 3]] - before
    within[:, 4] = order[blocks[:, 4]] - first[blocks[:, 6]]
    runs = _runs(within, starts, blocks[:, [0, 1, 2, 6]])
    levels = tuple(
        tuple(bucket for bucket, at in runs if blocks[at, 6] == level)
        for level in range(1, len(level_rows))
    )
    return levels, tuple(skips[1:].tolist())


def _is_range(first: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether runs of these sizes follow one another without a gap."""
    return bool((np.diff(first) == sizes[:-1]).all())


def _runs(
    blocks: np.ndarray, starts: np.ndarray, keys: np.ndarray
) -> list[tuple[Bucket, int]]:
    """Join neighbouring blocks of equal key; each with the index of its first block."""
    change = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    bounds = [0, *change.tolist(), len(blocks)] if len(blocks) else [0]
    runs = []
    for first, last in pairwise(bounds):
        rows, columns, parts = blocks[first, :3].tolist()
        within = np.arange(parts)
        sources = blocks[first:last, 3, None] + within * columns
        targets = blocks[first:last, 4, None] + within * rows
        runs.append(
            (
                Bucket(
                    int(starts[first]),
                    int(starts[last]),
                    (last - first) * parts,
                    rows,
                    columns,
                    _nodes(sources.reshape(-1), columns),
                    _nodes(targets.reshape(-1), rows),
                    parts,
                ),
                first,
            )
        )
    return runs


def _places(place: np.ndarray) -> tuple[tuple[int, int, Nodes], ...]:
    """Group neurons by their level and height."""
    distinct, which = np.unique(place, axis=0, return_inverse=True)
    return tuple(
        (level, height, _nodes(np.flatnonzero(which.reshape(-1) == i), 1))
        for i, (level, height) in enumerate(distinct.tolist())
    )


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
    start = int(first[0]) if len(first) else 0
    if _is_range(first, np.full(len(first), size)):
        return Nodes(len(first), size, start, None)
    rows = (first[:, None] + np.arange(size)).reshape(-1)
    return Nodes(len(first), size, start, torch.from_numpy(rows))
