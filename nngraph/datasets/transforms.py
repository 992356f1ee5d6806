"""Transforms of networks: PyG transforms that act on one graph or on a whole stack alike."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    Symmetry,
    canonicalise_neurons,
    chain_layers,
)

_Networks = TypeVar("_Networks", NeuralGraph, NeuralGraphStack)


class Relabel(BaseTransform):  # type: ignore[misc]
    """Relabel the hidden neurons of each network at random: the function does not change.

    Draws from torch's global generator, as PyG's random transforms do.
    """

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with its neurons relabelled, each network by its own draw."""
        symmetry = Symmetry(networks.architecture)
        if isinstance(networks, NeuralGraphStack):
            relabellings = symmetry.sample_stack(len(networks))
            return relabellings.act_on_stack(networks)  # type: ignore[return-value]
        return symmetry.sample().act_on_graph(networks)


class CanonicaliseSines(BaseTransform):  # type: ignore[misc]
    """Bring sine neurons to canonical sign and phase: the function does not change.

    See :func:`nngraph.graph.canonicalise_neurons`. Neurons of other activations stay.
    """

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack in canonical form."""
        values = canonicalise_neurons(networks.architecture, networks.parameters(), ["phase"])
        return networks.with_parameters(values)


class InputMotion(BaseTransform):  # type: ignore[misc]
    r"""Move the image that a network of 2 coordinates represents, exactly, by its first layer.

    A network :math:`f` becomes :math:`f(R x + t)`: :math:`W_1 \to W_1 R`,
    :math:`b_1 \to b_1 + W_1 t`, for a random rotation, scaling and shear R and shift t of each
    network. Draws from torch's global generator.

    Args:
        rotation: largest angle, in degrees.
        shift: largest shift along each axis, in coordinates (the image is 2 wide).
        scale: largest relative change of size along each axis, and largest shear.
        mirror: whether images are mirrored too, left to right (the first input), each with
            probability 1/2.

    Raises:
        ArchitectureError: if a network has not two inputs, or its first layer has no bias.
    """

    def __init__(
        self,
        rotation: float = 15.0,
        shift: float = 0.12,
        scale: float = 0.15,
        mirror: bool = False,
    ) -> None:
        self.rotation = rotation
        self.shift = shift
        self.scale = scale
        self.mirror = mirror

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack whose images are moved, each by its own draw."""
        if (names := moved_layer(networks.architecture)) is None:
            raise ArchitectureError(
                f"the architecture {networks.architecture} cannot be moved: expected a chain of "
                "two inputs, the coordinates, whose first layer has a bias."
            )
        values = dict(networks.parameters())
        weight, bias = (values[name] for name in names)

        def draw(size: float) -> Tensor:
            return (torch.rand(weight.shape[:-2], device=weight.device) * 2 - 1).to(weight) * size

        angle = draw(math.radians(self.rotation))
        wide, high, shear = 1 + draw(self.scale), 1 + draw(self.scale), draw(self.scale)
        rows = [angle.cos() * wide, shear - angle.sin(), angle.sin(), angle.cos() * high]
        motion = torch.stack(rows, dim=-1).reshape(*angle.shape, 2, 2)
        if self.mirror:
            side = draw(1.0).sign()
            motion = motion * torch.stack([side, torch.ones_like(side)], dim=-1).unsqueeze(-1)
        shift = torch.stack([draw(self.shift), draw(self.shift)], dim=-1)
        changed = weight @ motion, bias + (weight @ shift.unsqueeze(-1)).squeeze(-1)
        values.update(zip(names, changed, strict=True))
        return networks.with_parameters(values)


def moved_layer(architecture: Architecture) -> tuple[str, str] | None:
    """Names of the weight and the bias that :class:`InputMotion` changes, of a chain of two inputs.

    ``None`` for networks of other kinds, or without that bias.
    """
    if not architecture.is_chain or architecture.widths[0] != 2:
        return None
    first = chain_layers(architecture)[0]
    return None if first.bias is None else (first.weight, first.bias)
