"""Layers and models index no edges by themselves: that is decided in ``nngraph.kernels`` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nngraph.nn

FILES = sorted(Path(nngraph.nn.__file__).parent.glob("*.py"))
#: What is as long as the edges and says where they end.
INDICES = {"edge_index", "source", "target", "edge_block", "edge_order"}
#: Operations that take an index.
INDEXED = {
    "index_select", "index_add", "index_add_", "index_copy", "index_copy_", "index_put",
    "index_put_", "index_reduce", "gather", "take_along_dim", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "scatter_reduce", "scatter_reduce_", "bincount", "searchsorted", "embedding",
}  # fmt: skip
PACKAGES = {"torch_scatter", "torch_sparse", "torch_geometric.utils", "torch_geometric.nn"}


def offences(source: str) -> Iterator[str]:
    """Places where a layer indexes by edges, or unpacks the ends of edges."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Import):
            names = {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or ""}
        else:
            names = set()
        if names & PACKAGES:
            yield f"line {node.lineno}: imports {', '.join(names & PACKAGES)}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Subscript):
            parts = [node.slice, *[node.value] * _is_name(node.value, "edge_index")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # kernels.gather(topology, ...) is the way that layers shall go.
            if node.func.attr in INDEXED and not _is_name(node.func.value, "kernels"):
                parts = [*node.args, *(k.value for k in node.keywords)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            parts = [node.value] * _is_name(node.value, "edge_index")
        for part in parts:
            if any(map(_is_index, ast.walk(part))):
                yield f"line {node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_index(node: ast.AST) -> bool:
    """Whether it is ``edge_index``, or ``something.source`` of a topology."""
    if isinstance(node, ast.Attribute) and node.attr in INDICES:
        # A block's source and target are numbers of groups.
        return not _is_name(node.value, "block")
    return _is_name(node, "edge_index")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_layer_indexes_edges(file: Path):
    assert list(offences(file.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "y = x[topology.source]",
        "y = x[..., self.topology.target, :]",
        "y = x[edge_index[0]]",
        "u, v = edge_index",
        "y = x.index_select(0, features.topology.edge_block)",
        "y = out.index_add(-2, index=t.target, source=x)",
        "y = torch.gather(x, 0, t.edge_order)",
        "import torch_scatter",
        "from torch_geometric.utils import scatter",
    ],
)
def test_a_layer_that_did_would_be_found(line: str):
    assert len(list(offences(line))) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "y = kernels.gather(topology, x, 'source')",
        "e = update(self.source(x), self.target.weight)",
        "p = permuted[block.source]",
        "y = table[topology.nodes.level]",
        "a, b = layer(x, e, edge_index)",
    ],
)
def test_what_layers_may_do(line: str):
    assert list(offences(line)) == []
