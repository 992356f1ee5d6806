"""Attention among rows and columns against loops over tokens, and its backends."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from nngraph import kernels
from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.testing import IrregularTopology, random_architectures, structured_architectures

mlp = Architecture.mlp
STRUCTURED = dict(structured_architectures())
NAMED = dict(random_architectures())
TOPOLOGIES = [
    *(pytest.param(Topology.of(a), (2,), id=f"stack-{name}") for name, a in NAMED.items()),
    *(pytest.param(Topology.of(a), (2,), id=f"stack-{name}") for name, a in STRUCTURED.items()),
    pytest.param(Topology.of(mlp([2, 3, 3, 3, 1])), (2, 2), id="two-leading-axes"),
    pytest.param(Topology.of_batch([*STRUCTURED.values(), mlp([2, 3, 1])]), (), id="structured"),
    pytest.param(Topology.of_batch([*NAMED.values(), mlp([2, 3, 1])]), (), id="ragged"),
]
TINY = [
    pytest.param(Topology.of(mlp([2, 2, 1])), (2,), id="stack"),
    pytest.param(Topology.of_batch([mlp([1, 2, 1]), mlp([2, 1])]), (), id="ragged"),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def features(topology: Topology, lead: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return draw(*lead, topology.num_edges, 10), draw(*lead, topology.num_nodes, 10, seed=1)


@pytest.mark.parametrize("backend", ["reference", "dense"])
@pytest.mark.parametrize("widths", [(2, 3, 2, 1), (3, 2), (2, 2, 2, 2)], ids=str)
def test_against_loops_over_tokens(backend: str, widths: tuple[int, ...]):
    """On chains, one network, one head after the other."""
    topology = Topology.of(mlp(widths))
    e, x = features(topology, ())
    found = kernels.row_column_attention(topology, e, x, 2, 2, backend)
    weights = [
        part.reshape(after, before, 10)
        for part, before, after in zip(
            torch.split(e, [a * b for a, b in pairwise(widths)]),
            widths[:-1],
            widths[1:],
            strict=True,
        )
    ]
    biases = torch.split(x, list(widths))
    expected = [torch.zeros(*w.shape[:2], 2, 2, 3, dtype=e.dtype) for w in weights]
    nodes = [torch.zeros(d, 2, 3, dtype=e.dtype) for d in widths]
    for level, d in enumerate(widths):
        tokens = [("node", 0, biases[level])]
        if level > 0:
            tokens += [("column", j, weights[level - 1][:, j]) for j in range(widths[level - 1])]
        if level < len(widths) - 1:
            tokens += [("row", i, weights[level][i]) for i in range(widths[level + 1])]
        for head in range(2):
            for role, place, token in tokens:
                # Two queries, two keys, six values: one, one and three of each head.
                score = [float((token[:, head] * s[:, 2 + head]).sum()) for *_, s in tokens]
                share = torch.tensor(score, dtype=e.dtype).div(math.sqrt(d)).softmax(0)
                values = [s[:, 4:].unflatten(1, (2, 3))[:, head] for *_, s in tokens]
                answer = sum(a * v for a, v in zip(share, values, strict=True))
                if role == "node":
                    nodes[level][:, head] = answer
                elif role == "column":
                    expected[level - 1][:, place, 0, head] = answer
                else:
                    expected[level][place, :, 1, head] = answer
    both = torch.cat([w.flatten(0, 1) for w in expected])
    torch.testing.assert_close(found[0], both[:, 0].flatten(1))
    torch.testing.assert_close(found[1], both[:, 1].flatten(1))
    torch.testing.assert_close(found[2], torch.cat(nodes).flatten(1))


@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_backends_agree_in_values_and_gradients(topology: Topology, lead: tuple[int, ...]):
    e, x = (value.requires_grad_() for value in features(topology, lead))
    results = []
    for backend in ("reference", "dense"):
        out = kernels.row_column_attention(topology, e, x, 2, 2, backend)
        total = sum((part * draw(*part.shape, seed=3)).sum() for part in out)
        results.append([*out, *torch.autograd.grad(total, (e, x))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("backend", ["reference", "dense"])
@pytest.mark.parametrize(("topology", "lead"), TINY)
def test_first_and_second_derivatives(topology: Topology, lead: tuple[int, ...], backend: str):
    e, x = draw(*lead, topology.num_edges, 3), draw(*lead, topology.num_nodes, 3, seed=1)
    inputs = e.requires_grad_(), x.requires_grad_()

    def run(e: Tensor, x: Tensor) -> Tensor:
        out = kernels.row_column_attention(topology, e, x, 1, 1, backend)
        return torch.cat([part.flatten() for part in out])

    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


def test_what_is_refused():
    topology = Topology.of(mlp([2, 3, 1]))
    e, x = features(topology, ())
    with pytest.raises(ValueError, match=r"'scatter' was asked for 'row_column_attention'"):
        kernels.row_column_attention(topology, e, x, 2, backend="scatter")
    for keys, heads in ((2, 4), (4, 4), (5, 1), (0, 1), (2, 0)):
        with pytest.raises(ValueError, match="shared evenly by"):
            kernels.row_column_attention(topology, e, x, keys, heads)
    graph = IrregularTopology.of_edges(torch.tensor([[0, 1], [1, 0]]), 2)
    with pytest.raises(InvalidGraphError, match="irregular"):
        kernels.row_column_attention(graph, draw(2, 3), draw(2, 3), 1)
