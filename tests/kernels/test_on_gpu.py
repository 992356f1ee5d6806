"""Every primitive and backend on a GPU against the plain one on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from test_kernels import (
    BACKENDS,
    COMPILED,
    NAMED,
    TINY,
    TOPOLOGIES,
    cases,
    close,
    draw,
    everything,
)  # fmt: skip
from test_kernels import TestIrregular as Irregular
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from nngraph import kernels
from nngraph.graph.topology.topology import Topology
from nngraph.testing import assert_as_precise


def moved(tensors: Sequence[Tensor], device: str) -> list[Tensor]:
    return [value.detach().to(device).requires_grad_() for value in tensors]


def derivatives(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Values, first and second derivatives, on the CPU."""
    out = function(*inputs)
    seed = draw(*out.shape, seed=5).to(out.device)
    first = torch.autograd.grad((out.square() * seed).sum(), inputs, create_graph=True)
    total = torch.stack([slope.square().sum() for slope in first]).sum()
    second = torch.autograd.grad(total, inputs, materialize_grads=True)
    return [value.detach().cpu() for value in (out, *first, *second)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_values_and_derivatives_are_those_of_the_cpu(
    topology: Topology, lead: tuple[int, ...], backend: str, gpu: str
):
    there = cases(topology.to(gpu), lead, backend)
    here = cases(topology, lead, "reference")
    for (ours, _), (plain, inputs) in zip(there, here, strict=True):
        given = moved(inputs, gpu)
        assert ours(*given).is_cuda
        found, expected = derivatives(ours, given), derivatives(plain, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("topology", "lead"), TINY)
def test_first_and_second_derivatives(
    topology: Topology, lead: tuple[int, ...], backend: str, gpu: str
):
    # Sums by atomic additions are not the same to the last bit.
    rounding = {"nondet_tol": 1e-12}
    for function, inputs in cases(topology.to(gpu), lead, backend):
        given = moved(inputs, gpu)
        assert gradcheck(lambda *v, f=function: f(*v).square(), given, **rounding)
        assert gradgradcheck(lambda *v, f=function: f(*v).square(), given, **rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_fused_update_errs_no_more_than_twice_as_much_as_the_plain_one(
    dtype: torch.dtype, gpu: str
):
    """In values and gradients; that in Triton is held in test_triton.py."""
    topology = Topology.of(NAMED["depth-six"]).to(gpu)
    edges, nodes, blocks = topology.num_edges, topology.num_nodes, len(topology.blocks.size)
    shapes = [(3, edges, 8), (8, 8), (3, nodes, 8), (3, nodes, 8), (3, blocks, 8)]
    given = [draw(*shape, seed=i).to(gpu, dtype) for i, shape in enumerate(shapes)]

    def update(backend: str, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(kernels.edge_update(topology, *given, backend=backend))

    assert_as_precise(partial(update, "dense"), partial(update, "reference"), given)


@pytest.mark.parametrize("backend", ["reference", "scatter"])
def test_irregular_graphs(backend: str, gpu: str):
    graph = Irregular.GRAPH
    e, x = draw(6, 2), draw(6, 2, seed=1)

    def answers(t: Topology, e: Tensor, x: Tensor, backend: str) -> list[Tensor]:
        made = [kernels.edge_affine(t, e, x, x, backend)]
        made += [kernels.reduce(t, e, "target", op, backend) for op in ("sum", "max", "std")]
        made.append(kernels.softmax(t, e, "source", backend))
        made.append(kernels.propagate(t, e[:, 0], x, "target", backend))
        graph = t.nodes.graph.index
        made.append(kernels.broadcast(kernels.pool(x, graph), graph))
        return [value.cpu() for value in made]

    there = graph.to(gpu)
    for found, expected in zip(
        answers(there, e.to(gpu), x.to(gpu), backend), answers(graph, e, x, "reference"),
        strict=True,
    ):  # fmt: skip
        close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", COMPILED)
def test_compiled_to_machine_code(layout: str, backend: str, gpu: str):
    topology, lead, _ = COMPILED[layout]
    there = topology.to(gpu)
    inputs = moved(
        [draw(*lead, topology.num_edges, 2), draw(*lead, topology.num_nodes, 2, seed=1)], gpu
    )
    pairs = []
    for function in (torch.compile(everything, fullgraph=True), everything):
        out = function(there, *inputs, backend)
        pairs.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    torch.testing.assert_close(*pairs, rtol=1e-10, atol=1e-10)
