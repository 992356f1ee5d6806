"""SIRENs of image coordinates: their architecture, and where and how well they are judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nngraph.graph import Activation, Architecture


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
