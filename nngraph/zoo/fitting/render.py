"""Networks back to the images that they represent."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack, forward
from nngraph.zoo.fitting.siren import pixel_coordinates


def render(
    networks: NeuralGraphStack | Mapping[str, Tensor],
    height: int,
    width: int,
    architecture: Architecture | None = None,
) -> Tensor:
    """Evaluate networks of image coordinates at the centres of ``height`` x ``width`` pixels.

    Any size gives the whole image; only the sampling differs.

    Args:
        networks: a stack, or stacked parameters ``[B, *shape]`` with their ``architecture``.

    Returns:
        Images ``[B, height, width, C]`` as the networks have them, not clamped to [0, 1].

    Raises:
        ArchitectureError: if the networks are not MLPs of 2 coordinates, or none is given.
    """
    if isinstance(networks, NeuralGraphStack):
        architecture = networks.architecture
    if architecture is None:
        raise ArchitectureError("stacked parameters have no architecture; pass the one they fit.")
    if architecture.widths[0] != 2:
        raise ArchitectureError(f"networks of {architecture} are not images; expected 2 inputs.")
    if not isinstance(networks, NeuralGraphStack):
        networks = NeuralGraphStack.from_parameters(architecture, networks)
    values = forward(networks, pixel_coordinates(height, width).to(networks.x))
    return values.reshape(len(networks), height, width, -1)
