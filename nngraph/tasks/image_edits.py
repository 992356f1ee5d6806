"""Edits of images: what the images that edited networks represent are held against."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import max_pool2d


def dilate(images: Tensor) -> Tensor:
    """Give every pixel the largest value of its 3 x 3 neighbours, channel by channel.

    What is outside the image does not count. ``[B, H, W, C] -> [B, H, W, C]``, as in all edits.
    """
    return max_pool2d(images.movedim(-1, 1), 3, 1, 1).movedim(1, -1)


def erode(images: Tensor) -> Tensor:
    """Give every pixel the smallest value of its 3 x 3 neighbours, channel by channel."""
    return -dilate(-images)


def raise_contrast(images: Tensor, gain: float = 2.0) -> Tensor:
    r"""Stretch values about each channel's mean: :math:`\mathrm{clip}(m + g (v - m), 0, 1)`."""
    mean = images.mean((1, 2), keepdim=True)
    return (mean + gain * (images - mean)).clamp(0, 1)


#: Name in the options of the task "edit" -> edit of images ``[B, H, W, C]`` in [0, 1].
EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "dilate": dilate,
    "erode": erode,
    "contrast": raise_contrast,
}
