"""Functions of edges and of their ends, and several reductions at once, against the plain forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from nngraph import kernels
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.kernels.tiled import tiles
from nngraph.testing import random_architectures, structured_architectures

mlp = Architecture.mlp
SMALL, STRUCTURED = dict(random_architectures()), dict(structured_architectures())
TOPOLOGIES = [
    pytest.param(Topology.of(mlp([2, 4, 4, 4, 3])), (3,), id="stack"),
    pytest.param(Topology.of(mlp([2, 3, 1])), (), id="single"),
    pytest.param(Topology.of(mlp([2, 3, 1])), (2, 2), id="two-leading-axes"),
    pytest.param(Topology.of(mlp([2, 3, 1])), (0,), id="no-networks"),
    pytest.param(Topology.of_batch([*SMALL.values()] * 2), (), id="ragged"),
    pytest.param(Topology.of_batch([*STRUCTURED.values()]), (), id="ragged-structured"),
    *(pytest.param(Topology.of(a), (2,), id=f"stack-{n}") for n, a in STRUCTURED.items()),
]
PLACES = ("target", "edge", "source")
OPS = ("mean", "std", "max", "sum", "min")


def draw(topology: Topology, lead: tuple[int, ...]) -> list[Tensor]:
    """e of 2 channels, s and t of 3, and a matrix from 2 to 3."""
    generator = torch.Generator().manual_seed(0)
    sizes = (*lead, topology.num_edges, 2), *[(*lead, topology.num_nodes, 3)] * 2, (3, 2)
    return [
        torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in sizes
    ]


def function(e: Tensor, source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    total = torch.tanh(e @ weight.mT + source) * target
    return total[..., :2], total.sum(-1, keepdim=True), source.sin() * total


@pytest.mark.parametrize("tile", [1, 50, 10**6])
@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_it_is_the_plain_map(
    topology: Topology, lead: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiles, "TILE", tile)
    e, source, target, weight = draw(topology, lead)
    inputs = (e, source, target, weight)
    found, expected = (
        kernels.map_edges(
            topology, function, e, source, target, [weight], PLACES, backend=backend
        )
        for backend in ("dense", "reference")
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    seeds = [torch.randn_like(value) for value in expected]
    # What a loss reads may be all that is returned, or any one of it.
    for read in ([0, 1, 2], [0], [1], [2]):
        gradients = [
            torch.autograd.grad(
                [out[i] for i in read], inputs, [seeds[i] for i in read], retain_graph=True,
                materialize_grads=True,
            )
            for out in (found, expected)
        ]  # fmt: skip
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


def test_it_is_what_it_says():
    topology = Topology.of(mlp([2, 2, 1]))
    e, source, target, weight = draw(topology, ())
    found = kernels.map_edges(topology, function, e, source, target, [weight], PLACES)
    expected = [torch.zeros(5, 2), torch.zeros(6, 1), torch.zeros(5, 3)]
    for edge, (j, i) in enumerate([(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4)]):
        made = function(e[edge], source[j], target[i], weight)
        for value, total, at in zip(made, expected, (i, edge, j), strict=True):
            total[at] += value.detach()
    torch.testing.assert_close(list(found), [v.double() for v in expected], rtol=1e-5, atol=1e-5)


def test_first_and_second_derivatives():
    topology = Topology.of(mlp([1, 2, 1]))
    inputs = draw(topology, ())

    def run(e: Tensor, source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return kernels.map_edges(topology, function, e, source, target, [weight], PLACES)

    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


def test_only_what_is_asked_for_has_a_gradient_and_little_is_kept():
    topology = Topology.of(mlp([2, 6, 6, 1]))
    e, source, target, weight = draw(topology, (2,))
    sizes = []

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        (found,) = kernels.map_edges(
            topology, lambda *given: function(*given)[:1], e.detach(), source, target.detach(),
            [weight], ["target"],
        )  # fmt: skip
    assert sum(sizes) <= sum(value.numel() for value in (e, source, target, weight))
    found.sum().backward()
    assert source.grad is not None
    assert weight.grad is not None
    assert e.grad is None


def test_an_unknown_place_is_refused():
    topology = Topology.of(mlp([2, 3, 1]))
    e, source, target, weight = draw(topology, ())
    with pytest.raises(ValueError, match="to has 'block'; expected 'edge'"):
        kernels.map_edges(topology, function, e, source, target, [weight], ["block"])  # type: ignore[list-item]


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_several_reductions_are_those_of_each(
    topology: Topology, lead: tuple[int, ...], side: kernels.End
):
    e = draw(topology, lead)[0]
    e.data[..., 1::3, :] = 0.5  # of several largest values
    found = kernels.aggregate(topology, e, side, OPS)
    expected = torch.cat([kernels.reduce(topology, e, side, op) for op in OPS], dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    seed = torch.randn_like(found)
    gradients = [torch.autograd.grad(out, e, seed)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)
    for backend in ("reference", "scatter"):
        other = kernels.aggregate(topology, e, side, OPS, backend)
        torch.testing.assert_close(other, expected, rtol=1e-11, atol=1e-12)
    alone = kernels.aggregate(topology, e, side, ["min"])
    assert torch.equal(alone, kernels.reduce(topology, e, side, "min"))


def test_derivatives_of_several_reductions():
    topology = Topology.of(mlp([2, 2, 1]))
    e = draw(topology, ())[0]

    def run(e: Tensor) -> Tensor:
        return kernels.aggregate(topology, e, "target", OPS).square()

    assert gradcheck(run, e)
    assert gradgradcheck(run, e)


def test_what_is_no_reduction_is_refused():
    topology = Topology.of(mlp([2, 3, 1]))
    e = draw(topology, ())[0]
    with pytest.raises(ValueError, match="op is 'median'"):
        kernels.aggregate(topology, e, "target", ["mean", "median"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="side is 'both'"):
        kernels.aggregate(topology, e, "both")  # type: ignore[arg-type]
