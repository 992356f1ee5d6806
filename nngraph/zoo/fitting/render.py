"""Pixels of images that networks represent: where they are, what a network says, how well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack, forward


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


def pixel_coordinates(height: int, width: int) -> Tensor:
    r"""Return float32 ``[height * width, 2]``: each pixel's centre, row by row.

    Column 0 is x, from left to right, column 1 is y, from top to bottom; the image fills
    :math:`[-1, 1]^2`, so that pixel j of a row of W has :math:`x = (2j + 1)/W - 1`.
    """
    x = (2 * torch.arange(width, dtype=torch.float32) + 1) / width - 1
    y = (2 * torch.arange(height, dtype=torch.float32) + 1) / height - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)


def psnr_of(squared_error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of mean squared errors, for a peak of 1."""
    return -10 * torch.log10(squared_error.clamp_min(1e-12))
