"""Laying the blocks of all networks of a batch side by side: from architectures to a topology."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nngraph.graph.activations import Activation
from nngraph.graph.architecture import COLUMNS, Architecture
from nngraph.graph.groups import ROLES
from nngraph.graph.layout import Block, Column
from nngraph.graph.topology.meetings import meetings
from nngraph.graph.topology.tables import Blocks, Bucket, Groups, Level, Members, Neurons, Nodes

#: The topology, which imports this module.
Made = TypeVar("Made")

_GROUP_COLUMNS = ("graph", "size", "role", "level", "depth_from_output", "activation", "moves")
_BLOCK_COLUMNS = ("graph", "rows", "columns", "parts", "source", "target", "edge", "level", "kind")
_ENDS = ("source_group", "target_group")
_OUTPUT = ROLES.index("output")

# -- what kind of tensor a block of edges and a column of node features is ------------------------

#: A weight from every neuron to every other; the same with taps, as of a convolution; one of
#: several parts, as with groups; one number per neuron, as the scale of a norm; a residual.
BLOCK_KINDS = ("dense", "kernel", "grouped", "diagonal", "identity")
#: No parameter, the columns that have one place in every architecture, and all others.
COLUMN_KINDS = ("none", *COLUMNS, "other")
#: Axes of a kernel that are told apart; the sizes of further ones multiply into the last.
KERNEL_AXES = 3


def _block_kind(block: Block) -> int:
    """Return the index into :data:`BLOCK_KINDS`."""
    letters = set(block.slab.axes)
    if block.identity:
        kind = "identity"
    elif not letters & {"t", "s"}:
        kind = "diagonal"
    elif "b" in letters:
        kind = "grouped"
    else:
        kind = "kernel" if "f" in letters else "dense"
    return BLOCK_KINDS.index(kind)


def _kernel_size(block: Block) -> tuple[int, ...]:
    """Return the sizes of the block's kernel along its axes, 1 where it has fewer."""
    factors = zip(block.slab.axes, block.slab.factors(block.parameter.shape), strict=True)
    found = [1] * KERNEL_AXES
    for axis, size in enumerate(size for letter, size in factors if letter == "f"):
        found[min(axis, KERNEL_AXES - 1)] *= size
    return tuple(found)


def _column_kind(column: Column) -> int:
    """Return the index into :data:`COLUMN_KINDS`."""
    name = column.slab.column
    return COLUMN_KINDS.index(name if name in COLUMNS else "other")


# -- the topology --------------------------------------------------------------------------------


def build(
    make: Callable[..., Made], architectures: tuple[Architecture, ...], reorder: bool
) -> Made:
    """Lay the blocks of all networks side by side; loops over distinct architectures only.

    ``make`` is given the topology's fields by name; ``reorder`` brings equal shapes together.
    """
    distinct = tuple(dict.fromkeys(architectures))
    activations = tuple(dict.fromkeys(group.activation for a in distinct for group in a.groups))
    groups, blocks = _tables(architectures, distinct, activations, reorder)
    sizes = blocks["rows"] * blocks["columns"] * blocks["parts"]
    starts, group_start = _starts(sizes), _starts(groups["size"])
    node_group = np.repeat(np.arange(len(groups)), groups["size"])
    node = groups[node_group]
    depth = int(groups["level"].max())
    level_rows = [np.flatnonzero(node["level"] == level) for level in range(depth + 1)]
    in_order = np.concatenate(level_rows)
    skipping = set(blocks["level"][node["level"][blocks["source"]] + 1 != blocks["level"]].tolist())
    group_sizes, num_graphs = _tensor(groups["size"]), len(architectures)

    def degree(group: str, count: str) -> Tensor:
        """Edges of each neuron: of each block as many at every neuron of a group."""
        return _tensor(np.bincount(blocks[group], blocks[count], len(groups))[node_group])

    nodes = Neurons(
        group=Members(_tensor(node_group), group_sizes),
        graph=_members(node["graph"], num_graphs),
        role=_tensor(node["role"]),
        position=_tensor(np.arange(len(node)) - group_start[node_group]),
        output_position=_tensor(_output_position(node, num_graphs)),
        moves=_tensor(node["moves"]).bool(),
        level=_tensor(node["level"]),
        depth_from_output=_tensor(node["depth_from_output"]),
        level_order=_tensor(np.argsort(in_order)),
        in_degree=degree("target_group", "columns"),
        out_degree=degree("source_group", "rows"),
        activation=_tensor(node["activation"]),
        mask=_tensor(node["columns"]) > 0,
        columns=_tensor(node["columns"]),
    )
    fixed = (groups["level"] == 0) & (groups["moves"] == 0)
    tensors = np.concatenate([groups["graph"], blocks["graph"]])
    return make(
        num_nodes=len(node),
        num_edges=int(starts[-1]),
        num_graphs=num_graphs,
        nodes=nodes,
        groups=Groups(_members(groups["graph"], num_graphs), group_sizes, _tensor(groups["level"])),
        blocks=Blocks(
            graph=_members(blocks["graph"], num_graphs),
            size=_tensor(sizes),
            **{name: _tensor(blocks[name]) for name in (*_BLOCK_COLUMNS[1:], "kernel_size")},
        ),
        levels=_levels(blocks, starts, level_rows, node, skipping, activations),
        buckets=tuple(_runs(blocks, starts, ("rows", "columns", "parts"))),
        meetings=meetings(blocks, starts, group_start[:-1], groups["size"]),
        places=_places(np.stack([node["level"], node["depth_from_output"]], axis=1)),
        activations=activations,
        architectures=architectures,
        max_inputs=int(groups["size"][fixed].max(initial=0)),
        max_outputs=int(nodes.output_position.max()) + 1,
        max_tensors=int(np.bincount(tensors).max()),
        num_taps=max(a.num_taps for a in distinct),
        chains=all(a.is_chain for a in distinct),
        in_level_order=bool((np.diff(in_order) == 1).all()),
        reordered=reorder and not _is_range(blocks["edge"], sizes),
    )


def _tables(
    architectures: Sequence[Architecture],
    distinct: Sequence[Architecture],
    activations: Sequence[Activation],
    reorder: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Groups and blocks of all networks, as arrays with named columns."""
    width = max(len(a.column_names) for a in distinct)
    number = {activation: i for i, activation in enumerate(activations)}
    own = {a: (_group_table(a, number, width), _block_table(a)) for a in distinct}
    groups, blocks = (np.concatenate([own[a][kind] for a in architectures]) for kind in (0, 1))
    networks = np.arange(len(architectures))
    for kind, table in enumerate((groups, blocks)):
        table["graph"] = np.repeat(networks, [len(own[a][kind]) for a in architectures])
    of = blocks["graph"]
    for columns, counts in (
        (("source", "target"), [a.num_nodes for a in architectures]),
        (("edge",), [a.num_edges for a in architectures]),
        (_ENDS, [len(a.groups) for a in architectures]),
    ):
        for column in columns:
            blocks[column] += _starts(counts)[of]
    if reorder:
        # By shape, then level; those alike stay in the order of networks and blocks.
        keys = ("level", "parts", "columns", "rows")
        blocks = blocks[np.lexsort([blocks[key] for key in keys])]
    return groups, blocks


def _group_table(
    architecture: Architecture, activations: dict[Activation, int], width: int
) -> np.ndarray:
    level, height = _distances(architecture)
    made = np.zeros(len(architecture.groups), _dtype(_GROUP_COLUMNS, "columns", width))
    for row, group in zip(made, architecture.groups, strict=True):
        row["size"], row["role"] = group.size, ROLES.index(group.role)
        row["activation"] = activations[group.activation]
        row["moves"] = any(factor.space in architecture.spaces for factor in group.factors)
    made["level"], made["depth_from_output"] = level, height
    for c in architecture.columns:
        made["columns"][c.group, c.column : c.column + c.width] = _column_kind(c)
    return made


def _block_table(architecture: Architecture) -> np.ndarray:
    level, _ = _distances(architecture)
    first = architecture.node_starts
    rows = [
        (0, b.rows, b.columns, b.parts, first[b.source], first[b.target], b.start,
         level[b.target], _block_kind(b), b.source, b.target, _kernel_size(b))
        for b in architecture.blocks
    ]  # fmt: skip
    return np.array(rows, _dtype((*_BLOCK_COLUMNS, *_ENDS), "kernel_size", KERNEL_AXES))


def _dtype(names: Sequence[str], wide: str, width: int) -> np.dtype:
    """Columns of whole numbers; one of them is ``width`` numbers wide."""
    return np.dtype([*((name, np.int64) for name in names), (wide, np.int64, (width,))])


def _distances(architecture: Architecture) -> tuple[list[int], list[int]]:
    """Longest distance of each group from the inputs and to the outputs, in blocks."""
    level, height = [0] * len(architecture.groups), [0] * len(architecture.groups)
    # Groups stand in the order of computation; parameters in that of the state dict.
    for block in sorted(architecture.blocks, key=lambda block: block.source):
        level[block.target] = max(level[block.target], level[block.source] + 1)
    for block in sorted(architecture.blocks, key=lambda block: -block.target):
        height[block.source] = max(height[block.source], height[block.target] + 1)
    return level, height


def _starts(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))


def _members(graph: np.ndarray, num_graphs: int) -> Members:
    return Members(_tensor(graph), _tensor(np.bincount(graph, minlength=num_graphs)))


def _output_position(node: np.ndarray, num_graphs: int) -> np.ndarray:
    is_output = node["role"] == _OUTPUT
    each = np.bincount(node["graph"][is_output], minlength=num_graphs)
    position = np.cumsum(is_output) - 1 - _starts(each)[node["graph"]]
    return np.where(is_output, position, -1)


def _levels(
    blocks: np.ndarray,
    starts: np.ndarray,
    level_rows: Sequence[np.ndarray],
    node: np.ndarray,
    skipping: set[int],
    activations: Sequence[Activation],
) -> tuple[Level, ...]:
    """Group the blocks by level, neurons counted within their level, or within all before."""
    order = np.argsort(np.concatenate(level_rows))
    first = _starts([len(rows) for rows in level_rows])
    skips = np.array([level in skipping for level in range(len(level_rows))])
    within = blocks.copy()
    before = np.where(skips[blocks["level"]], 0, first[node["level"][blocks["source"]]])
    within["source"] = order[blocks["source"]] - before
    within["target"] = order[blocks["target"]] - first[blocks["level"]]
    runs: dict[int, list[Bucket]] = {}
    for bucket in _runs(within, starts, ("rows", "columns", "parts", "level")):
        runs.setdefault(int(blocks["level"][bucket.first_block]), []).append(bucket)
    return tuple(
        Level(
            _nodes(rows, 1),
            tuple(runs.get(level, ())),
            bool(skips[level]),
            _by_activation(activations, node["activation"][rows]),
            _tensor(outputs) if len(outputs) else None,
        )
        for level, rows in enumerate(level_rows)
        for outputs in [np.flatnonzero(node["role"][rows] == _OUTPUT)]
    )


def _is_range(first: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether runs of these sizes follow one another without a gap."""
    return bool((np.diff(first) == sizes[:-1]).all())


def _runs(blocks: np.ndarray, starts: np.ndarray, keys: Sequence[str]) -> list[Bucket]:
    """Join neighbouring blocks of equal keys."""
    if not len(blocks):
        return []
    change = np.any([np.diff(blocks[key]) != 0 for key in keys], axis=0)
    runs = []
    for first, last in pairwise([0, *(np.flatnonzero(change) + 1).tolist(), len(blocks)]):
        rows, columns, parts = (int(blocks[key][first]) for key in ("rows", "columns", "parts"))
        source, target = (
            (blocks[end][first:last, None] + np.arange(parts) * size).reshape(-1)
            for end, size in (("source", columns), ("target", rows))
        )
        runs.append(
            Bucket(
                int(starts[first]), int(starts[last]), (last - first) * parts, rows, columns,
                _nodes(source, columns), _nodes(target, rows), parts, first,
            )
        )  # fmt: skip
    return runs


def _places(place: np.ndarray) -> tuple[tuple[int, int, Nodes], ...]:
    """Group neurons by their level and their depth from the output."""
    distinct, which = np.unique(place, axis=0, return_inverse=True)
    return tuple(
        (level, height, _nodes(np.flatnonzero(which.reshape(-1) == i), 1))
        for i, (level, height) in enumerate(distinct.tolist())
    )


def _by_activation(
    functions: Sequence[Activation], kinds: np.ndarray
) -> tuple[tuple[Activation, Tensor | None], ...]:
    present = np.unique(kinds)
    if len(present) == 1:
        return ((functions[present[0]], None),)
    return tuple((functions[kind], _tensor(np.flatnonzero(kinds == kind))) for kind in present)


def _nodes(first: np.ndarray, size: int) -> Nodes:
    start = int(first[0]) if len(first) else 0
    if _is_range(first, np.full(len(first), size)):
        return Nodes(len(first), size, start, None)
    rows = (first[:, None] + np.arange(size)).reshape(-1)
    return Nodes(len(first), size, start, _tensor(rows))
