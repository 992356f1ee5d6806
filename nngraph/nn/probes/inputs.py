"""The learned inputs of probes: free, or made by a deep linear generator."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

#: Images up to this wide are made by the first map of a generator at once.
_SMALL = 4


class LearnedInputs(nn.Module):
    """P inputs, every number of them learned: ``-> [P, *shape]``.

    Args:
        count: P.
        shape: of one input: ``(d_0,)`` coordinates, or ``(C, H, W)`` of an image.
        spread: coordinates start uniform in ``[-spread, spread]``; images start normal.
    """

    #: Factor of the learning rate.
    rate = 1.0

    def __init__(self, count: int, shape: tuple[int, ...], spread: float = 0.9) -> None:
        super().__init__()
        self.shape = shape
        points = torch.empty(math.prod(shape), count)
        self.points = nn.Parameter(
            points.uniform_(-spread, spread) if len(shape) == 1 else points.normal_()
        )

    def forward(self) -> Tensor:
        return self.points.T.reshape(-1, *self.shape)


class GeneratedInputs(nn.Module):
    r"""P inputs that one deep linear generator makes of P learned latents: ``-> [P, *shape]``.

    .. math:: u_p = G_k \cdots G_2 G_1 z_p

    Without activations between its maps the generator can make no more than one linear map could;
    what it does is to share and to bias: all probes lie in one space of few dimensions, which the
    product of maps keeps simple. For images the maps are transposed convolutions, so that
    neighbouring pixels are made alike; for coordinates they are matrices.

    Args:
        count: P.
        shape, spread: as of :class:`LearnedInputs`.
        latent: numbers that a probe is made of.
        width: channels that the last map reads; those before read twice as many, and so on.

    Source:
        Kahana et al., "Deep Linear Probe Generators for Weight Space Learning", ICLR 2025.
    """

    def __init__(
        self,
        count: int,
        shape: tuple[int, ...],
        spread: float = 0.9,
        latent: int = 32,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.latents = nn.Parameter(torch.randn(count, latent))
        image = len(shape) == 3
        self.maps = _image_maps(shape, latent, width) if image else nn.Sequential(
            _linear(latent, 4 * width), _linear(4 * width, 2 * width),
            _linear(2 * width, math.prod(shape)),
        )  # fmt: skip
        # The deviation of the uniform distribution that free coordinates start from.
        self.scale = 1.0 if image else spread / 3**0.5

    def forward(self) -> Tensor:
        made: Tensor = self.maps(self.latents)
        if len(self.shape) == 3:
            made = made[..., : self.shape[1], : self.shape[2]]
        return self.scale * made.reshape(-1, *self.shape)


def _image_maps(shape: tuple[int, ...], latent: int, width: int) -> nn.Sequential:
    """Make a small image with many channels, and double its sides until it is large enough."""
    channels, *size = shape
    doublings = max(0, math.ceil(math.log2(max(size) / _SMALL)))
    first = [math.ceil(n / 2**doublings) for n in size]
    widths = [width * 2**i for i in reversed(range(doublings))] + [channels]
    maps: list[nn.Module] = [
        _linear(latent, widths[0] * math.prod(first)),
        nn.Unflatten(1, (widths[0], *first)),
    ]
    for before, after in pairwise(widths):
        map = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        _keep_deviation(map, 4 * before)  # a pixel hears of 2 x 2 of the smaller image
        maps.append(map)
    return nn.Sequential(*maps)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    map = nn.Linear(inputs, outputs)
    _keep_deviation(map, inputs)
    return map


def _keep_deviation(map: nn.Linear | nn.ConvTranspose2d, fan_in: int) -> None:
    """Start with weights that keep the deviation of what is mapped; torch's own make it vanish."""
    nn.init.normal_(map.weight, 0, fan_in**-0.5)
    assert map.bias is not None
    nn.init.zeros_(map.bias)
