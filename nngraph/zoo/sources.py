"""Images that populations of networks are fitted to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError, optional_package


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labelled images.

    Args:
        name: of the data set; recorded in the zoos made from it.
        images: ``[n, H, W, C]``, ``uint8`` in 0..255 or floating-point in [0, 1].
        labels: class of each image, ``[n]``, integers from 0.
        class_names: name of each class.

    Raises:
        InvalidGraphError: if a shape, a dtype or a value does not fit.

    Example:
        >>> images = torch.zeros(2, 8, 8, 1)
        >>> source = ImageSource("blank", images, torch.tensor([0, 1]), ("first", "second"))
        >>> source.targets().shape
        torch.Size([2, 8, 8, 1])
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dim() != 4 or 0 in images.shape:
            raise InvalidGraphError(
                f"images of {self.name!r} have shape {tuple(images.shape)}; "
                "expected (n, H, W, C), none of them 0."
            )
        if images.dtype != torch.uint8:
            if not images.dtype.is_floating_point:
                raise InvalidGraphError(
                    f"images of {self.name!r} have dtype {images.dtype}; "
                    "expected uint8 in 0..255 or floating point in [0, 1]."
                )
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):
                raise InvalidGraphError(
                    f"images of {self.name!r} range from {low:g} to {high:g}; expected [0, 1]."
                )
        if tuple(labels.shape) != (len(images),) or labels.dtype.is_floating_point:
            raise InvalidGraphError(
                f"labels of {self.name!r} are {labels.dtype} of shape {tuple(labels.shape)}; "
                f"expected integers of shape ({len(images)},), one per image."
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.class_names):
            raise InvalidGraphError(
                f"labels of {self.name!r} range from {int(labels.min())} to {int(labels.max())}; "
                f"expected 0 to {len(self.class_names) - 1} for its class names."
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, count: int) -> ImageSource:
        """Return the first ``count`` images; an InvalidGraphError if there are fewer, or none."""
        if not 1 <= count <= len(self):
            raise InvalidGraphError(
                f"{count} images of {self.name!r} are asked for; expected 1 to {len(self)}."
            )
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def divide(self, test: float = 0.2) -> tuple[ImageSource, ImageSource]:
        """Divide at random, the same way every time, with a share of the images for testing.

        Raises:
            InvalidGraphError: if one of the two would have no images.
        """
        count = round(len(self) * test)
        if not 0 < count < len(self):
            raise InvalidGraphError(
                f"{len(self)} images of {self.name!r} cannot be divided with a share of {test} for "
                "testing; expected at least one image on either side."
            )
        order = torch.from_numpy(np.random.default_rng(0xD1).permutation(len(self)))
        parts = {"train": order[count:], "test": order[:count]}
        train, held_out = (
            replace(
                self, name=f"{self.name}-{name}", images=self.images[rows], labels=self.labels[rows]
            )
            for name, rows in parts.items()
        )
        return train, held_out

    def targets(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return these images as float32 in [0, 1], ``[n, H, W, C]``."""
        images = self.images[indices]
        if images.dtype == torch.uint8:
            return images.to(torch.float32).div_(255)
        return images.to(torch.float32)

    def fingerprint(self) -> str:
        """Return the SHA-256 of shapes, images (as float32) and labels, in hexadecimal."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for start in range(0, len(self), 4096):
            digest.update(self.targets(slice(start, start + 4096)).contiguous().numpy().tobytes())
        digest.update(self.labels.to(torch.int64).contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_digits_images() -> ImageSource:
    """Return the 1,797 handwritten digits of 8 x 8 pixels that ship inside scikit-learn.

    Float32 ``[1797, 8, 8, 1]`` in [0, 1]; a MissingDependencyError without scikit-learn.
    """
    install = "'nngraph[demo]' (or pip install scikit-learn)."
    with optional_package("the digits images are part of scikit-learn", install):
        from sklearn.datasets import load_digits
    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32).div_(16).unsqueeze(-1)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    return ImageSource("digits", images, labels, tuple(map(str, digits.target_names)))
