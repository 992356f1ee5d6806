"""Views of an image: the image itself, and the image moved at random."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    r"""How the images of later views are moved; view 0 is the image itself.

    The moved image at x is the image at :math:`R x + t`, bilinear between pixels and 0 outside,
    for a random rotation, scaling and shear R and shift t. They follow from the seed, the view and
    the image's number alone.

    Args:
        rotation: largest angle, in degrees.
        shift: largest shift along each axis, in coordinates (the image is 2 wide).
        scale: largest relative change of size along each axis, and largest shear.

    Raises:
        ValueError: if a number is negative or not finite.
    """

    rotation: float = 15.0
    shift: float = 0.12
    scale: float = 0.15

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; expected a finite number from 0.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain numbers."""
        return asdict(self)

    def motions(self, image: Tensor, view: Tensor, seed: int) -> Tensor:
        """Return R and t of each pair of image and view, ``[n, 2, 3]`` float32."""
        found = torch.eye(2, 3).repeat(len(image), 1, 1)
        for number in torch.unique(view).tolist():
            if not number:
                continue
            here = view == number
            # A row of numbers per image, drawn in one go: the same whichever images are asked for.
            generator = np.random.default_rng([seed, number, 0xA6])
            rows = generator.uniform(-1, 1, size=(int(image[here].max()) + 1, 6))
            angle, wide, high, shear, x, y = torch.from_numpy(rows[image[here].numpy()]).T
            angle = angle * math.radians(self.rotation)
            wide, high = 1 + wide * self.scale, 1 + high * self.scale
            rotation = [
                angle.cos() * wide, shear * self.scale - angle.sin(), x * self.shift,
                angle.sin(), angle.cos() * high, y * self.shift,
            ]  # fmt: skip
            found[here] = torch.stack(rotation, dim=-1).reshape(-1, 2, 3).to(torch.float32)
        return found

    def apply(self, targets: Tensor, image: Tensor, view: Tensor, seed: int) -> Tensor:
        """Return images ``[n, H, W, C]`` as their views show them; those of view 0 bit for bit."""
        moved = targets.clone()
        here = view > 0
        if not bool(here.any()):
            return moved
        pixels = targets[here].permute(0, 3, 1, 2)
        motions = self.motions(image[here], view[here], seed)
        grid = F.affine_grid(motions, list(pixels.shape), align_corners=False)
        found = F.grid_sample(pixels, grid, align_corners=False)
        moved[here] = found.clamp_(0, 1).permute(0, 2, 3, 1)
        return moved
