"""How a population of networks is fitted to images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["INITS", "FitSettings"]

#: Where networks start: each from its own draw, or all of one architecture from the same.
INITS = ("independent", "shared")


@dataclass(frozen=True)
class FitSettings:
    r"""How a population is fitted; everything here changes the fitted weights.

    Adam (beta 0.9 and 0.99) on the mean squared error, with a learning rate that falls to 0 along
    half a cosine. Each step sees ``pixels`` pixels of the image: a pass over the image is a random
    partition of its pixels, the same for all networks of a shard.

    The defaults are for 28 x 28 images, 2-32-32-1 and w0 = 30: 36.6 dB on MNIST. There the network
    is also closest to the image *between* its pixels (29.4 dB against a bicubic enlargement);
    longer fits reach 40 to 60 dB on the pixels and lose between them.

    Args:
        steps: optimiser steps, at the most.
        lr: learning rate of the weights and biases at the start.
        pixels: pixels per step; 0, or more than there are, means all of the image.
        seed: seed of everything random: initial weights and the order of the pixels.
        chunk: networks that run through a step together. It is a matter of speed, but the last bits
            of a product may depend on it, so it is part of the settings.
        psnr: if given, a network is done as soon as it represents its whole image this well, in dB;
            it is looked every ``check`` steps.
        check: steps between two looks.
        init: ``"independent"`` first weights for each network, or ``"shared"`` ones, the same for
            all networks of one architecture, which keeps the networks' neurons aligned.

    Raises:
        ValueError: if a number is out of range.
    """

    steps: int = 300
    lr: float = 1e-3
    pixels: int = 196
    seed: int = 0
    chunk: int = 32
    psnr: float | None = None
    check: int = 25
    init: str = "independent"

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("pixels", 0), ("seed", 0), ("chunk", 1), ("check", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}.")
        if not (isinstance(self.lr, (int, float)) and 0 < self.lr < math.inf):
            raise ValueError(f"lr is {self.lr!r}; expected a finite number above 0.")
        if self.psnr is not None and not 0 < self.psnr < 120:
            raise ValueError(f"psnr is {self.psnr!r}; expected dB above 0 and below 120.")
        if self.init not in INITS:
            raise ValueError(f"init is {self.init!r}; expected one of {', '.join(INITS)}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain numbers."""
        return asdict(self)
