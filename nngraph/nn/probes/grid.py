"""Answers at a square grid of points, read as a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.pointwise import Dropout


def side_of(points: int, inputs: int, option: str = "probes") -> int:
    """Return how many points a square grid has along each axis; refuse what cannot be one.

    ``option`` names what says how many points there are.
    """
    side = math.isqrt(points)
    if inputs != 2 or side * side != points or side < GridReader.least:
        raise ValueError(
            f"{points} points were to be a grid of the {inputs} inputs of the networks; expected a "
            f"square number as {option}, from {GridReader.least**2}, and two inputs."
        )
    return side


def grid_points(side: int, extent: float = 0.95) -> Tensor:
    """Return the points of a grid over ``[-extent, extent]^2``, row by row, ``[side^2, 2]``."""
    axis = torch.linspace(-extent, extent, side)
    return torch.cartesian_prod(axis, axis).flip(-1)


class GridReader(nn.Module):
    r"""A small convolutional network on numbers at the points of a square grid.

    .. math::
        \mathrm{MLP}(c_4 \circ c_3 \circ c_2 \circ c_1)(z), \qquad
        c_k(z) = \sigma(K_k * z + k_k)

    with kernels of 3 x 3; c_2 and c_4 halve the sides and double the channels, ``width`` at first.
    ``planes`` are numbers at each point, n is the ``side`` of the grid.

    Shape:
        ``[networks, planes * n^2]``, plane by plane and row by row -> ``[networks, num_outputs]``.
    """

    #: Least points along each axis.
    least = 4

    def __init__(
        self, planes: int, side: int, num_outputs: int, width: int = 24, hidden: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.shape = planes, side, side
        sizes = [(planes, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1),
                 (2 * width, 4 * width, 2)]  # fmt: skip
        layers: list[nn.Module] = []
        for before, after, stride in sizes:
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.SiLU()]
            side = -(-side // stride)
        # The products of a convolution are a fifth faster so.
        self.maps = nn.Sequential(*layers)
        self.maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.answer = nn.Sequential(
            Dropout(dropout), mlp([4 * width * side * side, hidden, num_outputs], dropout)
        )

    def forward(self, values: Tensor) -> Tensor:
        picture = values.reshape(-1, *self.shape).contiguous(memory_format=torch.channels_last)
        answer: Tensor = self.answer(self.maps(picture).flatten(1))
        return answer
