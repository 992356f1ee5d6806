"""What only the backend on torch-scatter does; that it agrees is in ``test_kernels``."""

from __future__ import annotations

import sys

import pytest
import torch

from nngraph import kernels
from nngraph.errors import MissingDependencyError
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    topology = Topology.of(Architecture.mlp([2, 3, 1]))
    x, e = torch.ones(topology.num_nodes, 1), torch.ones(topology.num_edges, 1)
    weight = torch.ones(len(topology.blocks.size), 1, 1)
    for ask in (
        lambda: kernels.gather(topology, x, "source", "scatter"),
        lambda: kernels.reduce(topology, e, "target", "max", "scatter"),
        lambda: kernels.reduce(topology, e[:, :0], "target", "max", "scatter"),
        lambda: kernels.propagate(topology, e[:, 0], x, backend="scatter"),
        lambda: kernels.multiply_blocks(topology, e, weight, "scatter"),
    ):
        with pytest.raises(MissingDependencyError, match="--no-build-isolation torch-scatter"):
            ask()
