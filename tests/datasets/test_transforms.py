from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nngraph.datasets import CanonicaliseSines, InputMotion, Relabel
from nngraph.errors import ArchitectureError
from nngraph.graph import Activation, Architecture, NeuralGraph, NeuralGraphStack, forward
from nngraph.testing import random_stack

SIREN = Architecture.mlp([2, 6, 5, 2], Activation("sine", w0=10.1))
POINTS = torch.linspace(-1, 1, 26, dtype=torch.float64).view(13, 2).sin()
MAKERS: dict[str, Callable[[], object]] = {
    "relabel": Relabel,
    "canonicalise": CanonicaliseSines,
    "motion": InputMotion,
}


def stack(architecture: Architecture = SIREN, count: int = 4) -> NeuralGraphStack:
    networks = random_stack(architecture, count, 0)
    networks.y = torch.arange(count)
    return networks


@pytest.mark.parametrize("maker", [Relabel, CanonicaliseSines])
def test_the_function_stays(maker: type):
    networks = stack()
    found = maker()(networks)
    torch.testing.assert_close(
        forward(found, POINTS), forward(networks, POINTS), rtol=0, atol=1e-12
    )
    assert not torch.equal(found.edge_attr, networks.edge_attr)
    graph = networks[1]
    torch.testing.assert_close(
        forward(maker()(graph), POINTS), forward(graph, POINTS), rtol=0, atol=1e-12
    )


def test_each_network_is_relabelled_by_its_own_draw():
    networks = stack()
    networks.edge_attr[:] = networks.edge_attr[:1].clone()
    networks.x[:] = networks.x[:1].clone()
    found = Relabel()(networks)
    assert len(torch.unique(found.edge_attr[..., 0], dim=0)) == 4
    torch.manual_seed(3)
    one = Relabel()(networks)
    torch.manual_seed(3)
    assert torch.equal(Relabel()(networks).edge_attr, one.edge_attr)


def motion_of(before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Find R and t in W R and b + W t from the weights alone."""
    weight = before["0.weight"]
    motion = torch.linalg.lstsq(weight, after["0.weight"]).solution
    shift = torch.linalg.lstsq(
        weight, (after["0.bias"] - before["0.bias"]).unsqueeze(-1)
    ).solution.squeeze(-1)
    return motion, shift


def test_the_image_moves_exactly():
    networks = stack(count=16)
    moved = InputMotion(rotation=20, shift=0.2, scale=0.1)(networks)
    motion, shift = motion_of(networks.parameters(), moved.parameters())
    there = (motion.unsqueeze(1) @ POINTS.unsqueeze(-1)).squeeze(-1) + shift.unsqueeze(1)
    torch.testing.assert_close(
        forward(moved, POINTS), forward(networks, there), rtol=0, atol=1e-10
    )
    # Within what was asked for, and every network by its own draw.
    assert float(shift.abs().max()) <= 0.2
    assert float(shift.abs().max()) > 0.1
    angle = torch.atan2(motion[:, 1, 0], motion[:, 0, 0])
    assert float(angle.abs().max()) <= math.radians(20) / 0.9
    assert len(torch.unique(angle)) == 16
    assert float((torch.linalg.det(motion) - 1).abs().max()) < 0.35


def test_half_of_the_images_are_mirrored():
    networks = stack(count=64)
    moved = InputMotion(0.0, 0.0, 0.0, mirror=True)(networks)
    motion, _ = motion_of(networks.parameters(), moved.parameters())
    side = motion[:, 0, 0].round().to(torch.int64)
    assert set(side.tolist()) == {-1, 1}
    assert 16 < int((side == 1).sum()) < 48
    expected = torch.diag_embed(torch.stack([side, torch.ones_like(side)], dim=-1)).double()
    torch.testing.assert_close(motion, expected, rtol=0, atol=1e-10)
    there = POINTS * torch.tensor([-1.0, 1.0], dtype=POINTS.dtype)
    drawn = torch.where(
        (side == 1)[:, None, None], forward(networks, POINTS), forward(networks, there)
    )
    torch.testing.assert_close(forward(moved, POINTS), drawn, rtol=0, atol=1e-10)


def test_no_motion_is_none():
    networks = stack()
    moved = InputMotion(0.0, 0.0, 0.0)(networks)
    torch.testing.assert_close(moved.edge_attr, networks.edge_attr, rtol=0, atol=1e-15)
    torch.testing.assert_close(moved.x, networks.x, rtol=0, atol=1e-15)


def test_one_graph_moves_as_a_stack_of_one():
    networks = stack(count=1)
    torch.manual_seed(5)
    moved = InputMotion()(networks)
    torch.manual_seed(5)
    graph = InputMotion()(networks[0])
    torch.testing.assert_close(graph.edge_attr, moved.edge_attr[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(graph.x, moved.x[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", MAKERS)
def test_labels_stay_and_the_given_networks_too(name: str):
    networks = stack()
    before = networks.x.clone(), networks.edge_attr.clone()
    found = MAKERS[name]()(networks)  # type: ignore[operator]
    assert torch.equal(networks.x, before[0])
    assert torch.equal(networks.edge_attr, before[1])
    assert torch.equal(found.y, networks.y)
    assert found.architecture == networks.architecture
    graph = networks[2]
    graph.note = "kept"
    changed = MAKERS[name]()(graph)  # type: ignore[operator]
    assert isinstance(changed, NeuralGraph)
    assert (int(changed.y), changed.note) == (2, "kept")
    assert changed.validate()


def test_canonical_forms_forget_the_labels_of_neurons():
    networks = stack()
    both = CanonicaliseSines()(networks)
    moved = CanonicaliseSines()(Relabel()(networks))
    for layer in ("0.bias", "1.bias"):
        one, other = (n.parameters()[layer].sort(-1)[0] for n in (both, moved))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(Architecture.mlp([3, 4, 1]), id="three inputs"),
        pytest.param(Architecture.mlp([2, 4, 1], bias=[False, True]), id="no bias"),
    ],
)
def test_what_cannot_move_is_refused(architecture: Architecture):
    with pytest.raises(ArchitectureError, match="cannot be moved"):
        InputMotion()(random_stack(architecture, 2, 0))
