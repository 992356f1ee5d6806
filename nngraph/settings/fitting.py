"""Settings of fits of networks to images, and of populations of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from nngraph.errors import InvalidGraphError
from nngraph.settings.checks import check_whole

#: Where networks start: each from its own draw, or all of one architecture from the same.
Init = Literal["independent", "shared"]


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
    init: Init = "independent"

    def __post_init__(self) -> None:
        check_whole(self, "steps", "pixels", "seed", least=0)
        check_whole(self, "chunk", "check")
        if not (isinstance(self.lr, (int, float)) and 0 < self.lr < math.inf):
            raise ValueError(f"lr is {self.lr!r}; expected a finite number above 0.")
        if self.psnr is not None and not 0 < self.psnr < 120:
            raise ValueError(f"psnr is {self.psnr!r}; expected dB above 0 and below 120.")
        if self.init not in get_args(Init):
            raise ValueError(f"init is {self.init!r}; expected one of {', '.join(get_args(Init))}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain numbers."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FitZooSettings:
    """Which networks :func:`~nngraph.zoo.fit_zoo` fits to the images of a source, and how.

    What is ``None`` is chosen for the size of the images.

    Args:
        count: the first so many images (default: all)
        views: fits of each image, which differ in their first weights
        augment: move the image of every view after the first at random by at most so much:
            rotation, shift (the image is 2 wide), relative size and shear; 15 0.12 0.15 is a mild
            choice
        widths: layer sizes from the 2 coordinates to the channels (default: 2 32 32 and the
            channels of the images)
        features: ReLU networks on so many Fourier features, which are the first layer, in place of
            SIRENs
        feature_scale: of the Fourier features, in periods over the image (default: 2 for images up
            to 16 pixels wide, else 4)
        architectures: draw so many architectures from depth and width at random, and give each
            network one of them
        depth: fewest and most hidden layers
        width: smallest and largest hidden layer
        w0: frequency of the sines (default: 10 for images up to 16 pixels wide, else 30)
        steps: most optimiser steps (default: 150 for images up to 16 pixels wide, else 300)
        psnr: a network is done as soon as it has reached so many dB
        init: whether each network has first weights of its own, or all the same
        lr: learning rate at the start (default: 0.001; of ReLU networks 0.02, or 0.01 for images up
            to 16 pixels wide)
        pixels: pixels per step, 0 for all of the image (default: 0 for images up to 16 pixels wide,
            else 196)
        chunk: networks that run through a step together (default: what fits the cache of a core, or
            fills a GPU)
        splits: fractions of training, validation and test images; all fits of an image are in one
        shard_size: networks per file
        seed: seed of first weights, order of pixels and splits
        device: what the networks are fitted on

    Raises:
        InvalidGraphError: if a value is out of range.
    """

    count: int | None = None
    views: int = 1
    augment: Annotated[tuple[float, float, float] | None, "DEGREES", "SHIFT", "SCALE"] = None
    widths: Sequence[int] | None = None
    features: int = 0
    feature_scale: float | None = None
    architectures: int = 1
    depth: tuple[int, int] = (1, 3)
    width: tuple[int, int] = (8, 48)
    w0: float | None = None
    steps: int | None = None
    psnr: float | None = None
    init: Init = "independent"
    lr: float | None = None
    pixels: int | None = None
    chunk: int | None = None
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    shard_size: int = 1024
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_whole(self, "views", "shard_size", error=InvalidGraphError)
        if self.architectures < 1 or (self.architectures > 1 and self.widths is not None):
            raise InvalidGraphError(
                f"architectures is {self.architectures}: so many are drawn from depth and width; "
                "expected at least 1, and no widths."
            )

    def fit(self, suggested: FitSettings) -> FitSettings:
        """Return how networks are fitted: as is chosen here, and else as is suggested."""
        named = {item.name: getattr(self, item.name, None) for item in fields(FitSettings)}
        return replace(suggested, **{k: v for k, v in named.items() if v is not None})
