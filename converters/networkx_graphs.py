"""Neural graphs to networkx graphs and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from converters.state_dicts import refuse_batch
from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import DTYPES, STRUCTURE, Architecture, NeuralGraph, check_readable

if TYPE_CHECKING:
    import networkx

_FORMAT = "nngraph.networkx"
_VERSION = 1
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def _key(column: str) -> str:
    """The name of the node attribute that is a column, which those of every node may not take."""
    return f"parameter:{column}" if column in ("group", "role", "position") else column


def to_networkx(graph: NeuralGraph) -> networkx.DiGraph:
    """Turn a neural graph into a networkx ``DiGraph``; :func:`from_networkx` gives it back exactly.

    Nodes are 0 .. N-1 with ``group``, ``role``, ``position`` and their parameters by column, such
    as ``bias`` (absent where the network has none). Edges carry ``weight``, the name of their
    ``parameter``, and ``features`` if there are channels beside the weight, such as the taps of a
    kernel. Numbers are Python floats, which hold all of torch's exactly. The architecture is in the
    graph's attributes as JSON, buffers of whole numbers as ``integers``, other attributes as such.

    Raises:
        InvalidGraphError: if two blocks of edges join the same groups, or the graph is a batch.
    """
    import networkx as nx

    refuse_batch(graph)
    check_readable(graph)
    architecture = graph.architecture
    pairs = [(block.source, block.target) for block in architecture.blocks]
    if len(set(pairs)) < len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise InvalidGraphError(
            f"the architecture {architecture} has several blocks from "
            f"{architecture.groups[twice[0]].name!r} to {architecture.groups[twice[1]].name!r}, "
            "such as the parts of a large kernel, or a weight beside a residual; a DiGraph holds "
            "one edge from a neuron to another. Keep such a graph as it is, or in a file with "
            "save_graph."
        )
    assert graph.x is not None
    assert graph.edge_attr is not None
    out = nx.DiGraph(
        format=_FORMAT, version=_VERSION, architecture=architecture.to_json(),
        dtype=str(graph.x.dtype).removeprefix("torch."), attributes=graph.further_attributes(),
    )
    if architecture.integers:
        out.graph["integers"] = graph.integers.tolist()
    features, masks = graph.x.tolist(), STRUCTURE["x_mask"](architecture).tolist()
    for g, group in enumerate(architecture.groups):
        for position in range(group.size):
            node = architecture.node_starts[g] + position
            columns = zip(architecture.column_names, features[node], masks[node], strict=True)
            out.add_node(
                node, group=group.name, role=group.role, position=position,
                **{_key(name): value for name, value, there in columns if there},
            )
    values = graph.edge_attr.tolist()
    sources, targets = STRUCTURE["edge_index"](architecture).tolist()
    for block in architecture.blocks:
        for edge in range(block.start, block.stop):
            weight, *others = values[edge]
            more = {"features": tuple(others)} if others else {}
            out.add_edge(
                sources[edge], targets[edge], weight=weight, parameter=block.parameter.name, **more
            )
    return out


def from_networkx(graph: networkx.DiGraph) -> NeuralGraph:
    """Turn what :func:`to_networkx` made back into a neural graph, with weights as they are now.

    Raises:
        InvalidGraphError: if the graph was not made by :func:`to_networkx`, or has since lost or
            gained neurons or edges, or a number is missing.
        ArchitectureError: if its architecture is malformed.
    """
    kept = graph.graph
    if kept.get("format") != _FORMAT or kept.get("version") != _VERSION:
        raise InvalidGraphError(
            f"the networkx graph has format {kept.get('format')!r}, version "
            f"{kept.get('version')!r}; expected one made by to_networkx, {_FORMAT!r} version "
            f"{_VERSION}."
        )
    if not isinstance(kept.get("architecture"), str):
        raise ArchitectureError("the networkx graph has no architecture; expected its JSON.")
    architecture = Architecture.from_json(kept["architecture"])
    dtype = _DTYPES.get(kept.get("dtype", ""))
    if dtype is None:
        raise InvalidGraphError(
            f"the networkx graph has dtype {kept.get('dtype')!r}; expected one of "
            f"{', '.join(_DTYPES)}."
        )
    # Counted before anything of the described size is made.
    for what, found, expected in (
        ("nodes", graph.number_of_nodes(), architecture.num_nodes),
        ("edges", graph.number_of_edges(), architecture.num_edges),
    ):
        if found != expected:
            raise InvalidGraphError(
                f"the networkx graph has {found} {what}; the architecture {architecture} "
                f"expects {expected}."
            )
    columns = [[0.0] * len(architecture.column_names) for _ in range(architecture.num_nodes)]
    for column in architecture.columns:
        key = _key(architecture.column_names[column.column])
        for node in range(column.start, column.stop):
            columns[node][column.column] = _number(graph.nodes.get(node, {}), key, f"node {node}")
    edges = []
    for source, target in zip(*STRUCTURE["edge_index"](architecture).tolist(), strict=True):
        where = f"edge {source} -> {target}"
        values: dict[str, Any] = graph.get_edge_data(source, target, default={})
        others = values.get("features", ())
        edges.append([_number(values, "weight", where), *others])
    if len({len(features) for features in edges}) > 1:
        raise InvalidGraphError("edges of the networkx graph have different numbers of features.")
    out = NeuralGraph()
    out.architecture = architecture
    out.x = torch.tensor(columns, dtype=torch.float64).to(dtype)
    features = torch.tensor(edges, dtype=torch.float64).reshape(len(edges), -1 if edges else 1)
    out.edge_attr = features.to(dtype)
    for name, derive in STRUCTURE.items():
        out[name] = derive(architecture)
    if architecture.integers:
        count, numbers = sum(p.numel for p in architecture.integers), kept.get("integers")
        if not isinstance(numbers, list) or len(numbers) != count or not all(
            isinstance(v, int) and abs(v) < 2**63 for v in numbers
        ):
            raise InvalidGraphError(
                f"the networkx graph has integers {str(numbers)[:80]}; the architecture expects a "
                f"list of {count} whole numbers."
            )
        out.integers = torch.tensor(numbers, dtype=torch.long)
    for name, value in kept.get("attributes", {}).items():
        out[name] = value
    return out


def _number(values: dict[str, Any], name: str, where: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidGraphError(
            f"{where} of the networkx graph has {name} {value!r}; expected a number."
        )
    return float(value)
