"""The plan of a population of fits: which network is fitted to which view of which image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.settings import FitSettings, FitZooSettings
from nngraph.zoo.fitting.inits import fitted_layers, fourier_architecture, fourier_features
from nngraph.zoo.fitting.siren import siren_architecture
from nngraph.zoo.images.augment import Augmentation
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.store.facts import SPLITS, Fact
from nngraph.zoo.store.manifest import Manifest, Origin
from nngraph.zoo.store.shards import Layout, Shard
from nngraph.zoo.store.splits import policy_of, split_of_images


@dataclass(frozen=True)
class FitPlan:
    """A zoo to be made.

    Args:
        manifest: of the zoo, all of its shards missing.
        jobs: of each shard the numbers of its fits: fit n is view ``n // count`` of image
            ``n % count``.
        fixed: of each architecture the parameters that are not fitted.
        split: of each image.
    """

    manifest: Manifest
    source: ImageSource
    settings: FitSettings
    augmentation: Augmentation | None
    jobs: tuple[Tensor, ...]
    fixed: tuple[dict[str, Tensor], ...]
    split: Tensor

    def targets(self, image: Tensor, view: Tensor) -> Tensor:
        """Return the images of fits, ``[n, H, W, C]``."""
        targets = self.source.targets(image)
        if self.augmentation is None:
            return targets
        return self.augmentation.apply(targets, image, view, self.settings.seed)


def draw_architectures(
    count: int,
    channels: int,
    *,
    depth: tuple[int, int] = (1, 3),
    width: tuple[int, int] = (8, 48),
    w0: float | tuple[float, float] = 30.0,
    features: int = 0,
    seed: int = 0,
) -> list[Architecture]:
    """Draw different architectures of networks of image coordinates at random.

    Args:
        count: how many; fewer if the range has not so many.
        channels: outputs.
        depth: fewest and most hidden layers.
        width: smallest and largest hidden layer; each layer is drawn by itself, in steps of 4.
        w0: frequency of SIRENs, or a range of whole numbers.
        features: number of Fourier features, of ReLU networks in place of SIRENs.

    Raises:
        InvalidGraphError: if a range is empty.
    """
    low, high = (w0, w0) if isinstance(w0, (int, float)) else w0
    for name, (least, most) in (("depth", depth), ("width", width), ("w0", (low, high))):
        if not 0 < least <= most:
            raise InvalidGraphError(f"{name} ranges from {least} to {most}; expected 1 or more.")
    generator = np.random.default_rng([seed, 0xA2])
    found: dict[Architecture, None] = {}
    for _ in range(100 * count):
        layers = int(generator.integers(depth[0], depth[1] + 1))
        steps = generator.integers(0, (width[1] - width[0]) // 4 + 1, size=layers)
        widths = (2, *(int(width[0] + 4 * step) for step in steps), channels)
        if features:
            found[fourier_architecture(widths, features)] = None
        else:
            frequency = low if low == high else float(generator.integers(int(low), int(high) + 1))
            found[siren_architecture(widths, frequency)] = None
        if len(found) == count:
            break
    return list(found)


def plan_fit(
    source: ImageSource,
    architectures: Sequence[Architecture],
    settings: FitZooSettings,
    fit: FitSettings,
    command: str | None = None,
) -> FitPlan:
    """Plan a zoo: a network for every view of every image, its architecture drawn at random.

    Raises:
        ArchitectureError: if an architecture is not a network of 2 coordinates that can be fitted.
        InvalidGraphError: if it does not fit the images, or the splits are no fractions.
    """
    count, channels = len(source), source.images.shape[-1]
    fixed = []
    for architecture in architectures:
        given = _fixed(architecture, settings.feature_scale, fit.seed)
        fitted_layers(architecture, given)
        if architecture.widths[-1] != channels:
            raise InvalidGraphError(
                f"{architecture} has {architecture.widths[-1]} outputs but an image of "
                f"{source.name!r} has {channels} channels; expected as many."
            )
        fixed.append(given)
    augmentation = None if settings.augment is None else Augmentation(*settings.augment)
    recipe: dict[str, Any] = {
        "source": source.name,
        "count": count,
        "views": settings.views,
        "splits": [float(fraction) for fraction in settings.splits],
        "shard_size": settings.shard_size,
        "feature_scale": settings.feature_scale,
        "augmentation": None if augmentation is None else augmentation.to_dict(),
        "fit": fit.to_dict(),
    }
    jobs, kinds = _jobs(count * settings.views, len(architectures), settings.shard_size, fit.seed)
    height, width = source.images.shape[1:3]
    facts = (
        Fact("label", "int64", source.class_names),
        Fact("image"),
        Fact("view"),
        Fact("steps"),
        Fact("psnr", "float32"),
        Fact("split", "int64", SPLITS),
    )
    manifest = Manifest(
        architectures=tuple(architectures),
        facts=facts,
        group="image",
        target="label",
        origins=(Origin(source.fingerprint(), recipe, (height, width, channels), command),),
        shards=tuple(
            Shard.numbered(i, len(numbers), kind)
            for i, (numbers, kind) in enumerate(zip(jobs, kinds, strict=True))
        ),
        policy=policy_of(settings.splits, fit.seed),
    )
    for architecture in architectures:
        Layout(architecture, facts)
    split = split_of_images(count, settings.splits, fit.seed)
    return FitPlan(manifest, source, fit, augmentation, jobs, tuple(fixed), split)


def _fixed(architecture: Architecture, scale: float | None, seed: int) -> dict[str, Tensor]:
    """Return the Fourier features of a network that has some: a sine layer before ReLU layers."""
    names = [group.activation.name for group in architecture.groups[1:-1]]
    if names[:2] != ["sine", "relu"] or scale is None:
        return {}
    return fourier_features(architecture, scale, seed)


def _jobs(total: int, kinds: int, size: int, seed: int) -> tuple[tuple[Tensor, ...], list[int]]:
    """Return which fits are in which shard, and the architecture of each shard."""
    drawn = torch.zeros(total, dtype=torch.int64)
    if kinds > 1:
        drawn = torch.from_numpy(np.random.default_rng([seed, 0x4B]).integers(kinds, size=total))
    jobs: list[Tensor] = []
    of: list[int] = []
    for kind in range(kinds):
        parts = torch.split(torch.nonzero(drawn == kind).squeeze(1), size)
        parts = tuple(part for part in parts if len(part))
        jobs += parts
        of += [kind] * len(parts)
    return tuple(jobs), of
