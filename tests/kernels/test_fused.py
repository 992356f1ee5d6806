"""The fused edge update against the plain one, in values, gradients and second gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import layer_norm, silu

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


def draw(topology: Topology, lead: tuple[int, ...], channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (topology.num_edges, channels, topology.num_nodes, topology.num_nodes)
    shapes = [(*(lead if i != 1 else ()), size, channels) for i, size in enumerate(sizes)]
    shapes.append((*lead, len(topology.blocks.size), channels))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


@pytest.mark.parametrize("tile", [1, 50, 10**6])
@pytest.mark.parametrize(("topology", "lead"), TOPOLOGIES)
def test_it_is_the_plain_update(
    topology: Topology, lead: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiles, "TILE", tile)
    inputs = draw(topology, lead)
    for count, normalise, recompute in itertools.product((4, 5), (True, False), (True, False)):
        given = inputs[:count]
        found, expected = (
            kernels.edge_update(
                topology, *given, normalise=normalise, recompute=recompute, backend=backend
            )
            for backend in ("dense", "reference")
        )
        seeds = [torch.randn_like(value) for value in expected]
        # What a loss reads may be all that is returned, or any one of it.
        for read in ([0, 1, 2, 3], [0], [1], [2], [3]):
            gradients = [
                torch.autograd.grad(
                    [out[i] for i in read], given, [seeds[i] for i in read], retain_graph=True
                )
                for out in (found, expected)
            ]
            torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-10, atol=1e-12)


def test_it_is_what_it_says():
    topology = Topology.of(mlp([2, 2, 1]))
    e, weight, source, target, block = (value.detach() for value in draw(topology, ()))
    found = kernels.edge_update(topology, e, weight, source, target, block)
    made = []
    for edge, (j, i) in enumerate([(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4)]):
        own = weight @ layer_norm(e[edge], (3,))
        made.append(e[edge] + silu(own + source[j] + target[i] + block[edge // 4]))
    zero = torch.zeros(3, dtype=torch.float64)
    incoming = [zero, zero, made[0] + made[1], made[2] + made[3], made[4] + made[5]]
    outgoing = [made[0] + made[2], made[1] + made[3], 2 * made[4], 2 * made[5], zero]
    expected = (
        torch.stack(made), torch.stack(incoming) / 2, torch.stack(outgoing) / 2,
        torch.stack([sum(made[:4]) / 4, sum(made[4:]) / 2]),
    )  # fmt: skip
    torch.testing.assert_close(tuple(found), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recompute", [True, False])
def test_first_and_second_derivatives(recompute: bool):
    topology = Topology.of(mlp([1, 2, 1]))
    inputs = [torch.randn_like(v).requires_grad_() for v in draw(topology, (2,), 2)]

    def update(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(kernels.edge_update(topology, *values, recompute=recompute))

    assert gradcheck(update, inputs)
    assert gradgradcheck(update, inputs)


def test_only_what_is_asked_for_has_a_gradient():
    topology = Topology.of(mlp([2, 3, 1]))
    e, weight, source, target, _ = draw(topology, (2,))
    out = kernels.edge_update(topology, e.detach(), weight, source.detach(), target)
    out.edges.sum().backward()
    assert weight.grad is not None
    assert e.grad is None
    # Second derivatives too, where some inputs are constants.
    (first,) = torch.autograd.grad(
        kernels.edge_update(topology, e.detach(), weight, source, target).edges.square().sum(),
        [weight], create_graph=True,
    )  # fmt: skip
    (second,) = torch.autograd.grad(first.square().sum(), [target])
    assert bool(second.abs().sum() > 0)


def test_channels_shifted_by_a_constant_are_normalised_all_the_same():
    topology = Topology.of(mlp([2, 3, 1]))
    inputs = [value.detach().float() for value in draw(topology, (2,), 8)[:4]]
    plain = kernels.edge_update(topology, *inputs, backend="reference").edges
    inputs[0] = inputs[0] + 100
    moved = kernels.edge_update(topology, *inputs).edges - 100
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-4)


def test_recomputing_keeps_less():
    topology = Topology.of(mlp([2, 16, 16, 1]))

    def kept(recompute: bool) -> int:
        sizes: list[int] = []

        def pack(value: Tensor) -> Tensor:
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            kernels.edge_update(topology, *draw(topology, (2,))[:4], recompute=recompute)
        return sum(sizes)

    edges = 2 * topology.num_edges * 3
    assert kept(recompute=False) - kept(recompute=True) >= 2 * edges


def test_autocast_takes_the_plain_form():
    topology = Topology.of(mlp([2, 3, 1]))
    inputs = [value.detach().float() for value in draw(topology, (2,), 8)[:4]]
    with torch.autocast("cpu", torch.bfloat16):
        found = kernels.edge_update(topology, *inputs)
        expected = kernels.edge_update(topology, *inputs, backend="reference")
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-2, atol=1e-2)


def test_a_name_that_is_unknown_is_refused():
    topology = Topology.of(mlp([2, 3, 1]))
    with pytest.raises(ValueError, match="backend is 'dens'"):
        kernels.edge_update(topology, *draw(topology, ())[:4], backend="dens")


def test_compiled_whole_without_a_break():
    topology = Topology.of(mlp([2, 3, 1]))
    inputs = [value.detach() for value in draw(topology, (2,))]

    def update(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(kernels.edge_update(topology, *values))

    compiled = torch.compile(update, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), update(*inputs), rtol=1e-10, atol=1e-12)


def test_transforms_of_torch_func():
    topology = Topology.of(mlp([2, 3, 1]))
    inputs = draw(topology, (2,))

    def loss(e: Tensor) -> Tensor:
        return sum(v.square().sum() for v in kernels.edge_update(topology, e, *inputs[1:]))

    (expected,) = torch.autograd.grad(loss(inputs[0]), [inputs[0]])
    torch.testing.assert_close(torch.func.grad(loss)(inputs[0]), expected)
