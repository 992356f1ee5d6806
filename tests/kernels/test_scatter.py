"""The primitives on torch-scatter equal the reference in values and first and second gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from nngraph.errors import MissingDependencyError
from nngraph.graph import Architecture
from nngraph.graph.topology import Topology
from nngraph.kernels import reference, scatter
from nngraph.testing import random_architectures

mlp = Architecture.mlp
TOPOLOGIES = [
    *(pytest.param(Topology.of(a), (3,), id=f"stack-{name}") for name, a in random_architectures()),
    pytest.param(Topology.of(mlp([2, 3, 1])), (), id="single"),
    pytest.param(
        Topology.of_batch([mlp([2, 3, 2]), mlp([2, 2]), mlp([2, 4, 3, 2])]), (), id="ragged"
    ),
]


@pytest.fixture(autouse=True)
def _installed():
    pytest.importorskip("torch_scatter")


def cases(kernel, topology: Topology, lead: tuple[int, ...]) -> list[tuple[Callable, list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        value = torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        return value.requires_grad_()

    x, s, e = draw(topology.num_nodes, 2), draw(topology.num_nodes, 2), draw(topology.num_edges, 2)
    w, start = draw(topology.num_edges), draw(int((topology.node_level == 0).sum()), 2)
    found: list[tuple[Callable, list[Tensor]]] = [
        (lambda e: kernel.pool_blocks(topology, e), [e]),
        (lambda e, s, x: kernel.edge_affine(topology, e, s, x), [e, s, x]),
        (lambda s, x: kernel.edge_affine(topology, None, s, x), [s, x]),
        (lambda w, v: kernel.propagate_level(topology, 1, w, v), [w, start]),
    ]
    for side in ("source", "target"):
        found += [
            (lambda x, side=side: kernel.gather(topology, x, side), [x]),
            (lambda e, side=side: kernel.reduce_sum(topology, e, side), [e]),
            (lambda w, x, side=side: kernel.propagate(topology, w, x, side), [w, x]),
        ]
    return found


@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_equals_the_reference_in_values_and_gradients(topology: Topology, lead: tuple[int, ...]):
    pairs = zip(cases(scatter, topology, lead), cases(reference, topology, lead), strict=True)
    for (function, inputs), (truth, same) in pairs:
        found, expected = function(*inputs), truth(*same)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for one, other in zip(
            torch.autograd.grad(found.square().sum(), inputs),
            torch.autograd.grad(expected.square().sum(), same),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_first_and_second_derivatives():
    for function, inputs in cases(scatter, Topology.of(mlp([1, 2, 1])), (2,)):
        assert gradcheck(lambda *v, f=function: f(*v).square(), inputs)
        assert gradgradcheck(lambda *v, f=function: f(*v).square(), inputs)


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    topology = Topology.of(mlp([2, 3, 1]))
    with pytest.raises(MissingDependencyError, match="pip install --no-build-isolation torch-scat"):
        scatter.gather(topology, torch.ones(topology.num_nodes, 1), "source")
