"""SIRENs of image coordinates: architecture, first weights, and where they are evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Activation, Architecture

__all__ = [
    "initial_parameters",
    "pixel_coordinates",
    "psnr_of",
    "sine_scales",
    "siren_architecture",
]


def siren_architecture(widths: Sequence[int], w0: float = 30.0) -> Architecture:
    """Describe a SIREN of these widths, coordinates first: sine hidden layers, a linear output."""
    return Architecture.mlp(widths, Activation("sine", w0=w0))


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


def initial_parameters(
    architecture: Architecture, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    r"""Draw ``count`` independent SIRENs as Sitzmann et al. do.

    Weights of the first layer are uniform in :math:`\pm 1/d`, of the others in
    :math:`\pm\sqrt{6/d}/w_0` with d the layer's inputs; biases in :math:`\pm 1/\sqrt{d}`.

    Returns:
        Every parameter by its name, float32 ``[count, *shape]``.

    Raises:
        ArchitectureError: if the architecture is not a SIREN on 2 coordinates.
    """
    parameters: dict[str, Tensor] = {}
    scales = sine_scales(architecture)
    for i, block in enumerate(architecture.blocks):
        inputs = block.shape[1]
        w0 = scales[min(i, len(scales) - 2)]
        bounds = (1 / inputs if i == 0 else math.sqrt(6 / inputs) / w0, 1 / math.sqrt(inputs))
        bias = architecture.columns[i].parameter
        for parameter, bound in zip((block.parameter, bias), bounds, strict=True):
            shape = (count, *parameter.shape)
            value = torch.rand(shape, generator=generator, dtype=torch.float32)
            parameters[parameter.name] = value.mul_(2 * bound).sub_(bound)
    return parameters


def sine_scales(architecture: Architecture) -> list[float]:
    """Return w0 of each layer, 1 for the linear output, after checking that this is a SIREN."""
    what = f"the architecture {architecture} is not a SIREN on 2 coordinates"
    if not architecture.is_chain or architecture.widths[0] != 2:
        raise ArchitectureError(f"{what}: expected a chain of layers with 2 inputs.")
    if len(architecture.columns) != len(architecture.blocks):
        raise ArchitectureError(f"{what}: expected a bias in every layer.")
    scales = []
    for group in architecture.groups[1:-1]:
        if group.activation.name != "sine" or not group.activation["w0"] > 0:
            raise ArchitectureError(
                f"{what}: group {group.name!r} has the activation {group.activation}; expected "
                "sine with w0 above 0. Make one with siren_architecture."
            )
        scales.append(group.activation["w0"])
    last = architecture.groups[-1].activation
    if not scales or last.name != "identity":
        raise ArchitectureError(
            f"{what}: expected at least one sine layer and a linear output; the output has {last}."
        )
    return [*scales, 1.0]
