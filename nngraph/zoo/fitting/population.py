"""Make a zoo: fit networks to the images of a source, shard by shard, and resume where it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.settings import FitSettings, FitZooSettings
from nngraph.zoo.fitting.fit import fit_images
from nngraph.zoo.fitting.inits import (
    fitted_layers,
    fourier_architecture,
    fourier_features,
    siren_architecture,
)
from nngraph.zoo.images.augment import Augmentation
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.store.facts import SPLITS, Fact
from nngraph.zoo.store.manifest import Manifest, Origin
from nngraph.zoo.store.shards import Shard, ShardLayout, jobs_of
from nngraph.zoo.store.splits import policy_of, split_of_images
from nngraph.zoo.store.writing import write_with_bar
from nngraph.zoo.store.zoo import Zoo


def draw_architectures(
    count: int, channels: int, *, depth: tuple[int, int] = (1, 3), width: tuple[int, int] = (8, 48),
    w0: float | tuple[float, float] = 30.0, features: int = 0, seed: int = 0,
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


def suggested_settings(
    image_shape: Sequence[int], features: int = 0, device: str = "cpu"
) -> tuple[float, FitSettings]:
    """Return w0 and fit settings for 2-32-32-C networks on images of ``(H, W, ...)``.

    The frequency w0 fits the pixel grid: at w0 = 30 a network oscillates freely between the pixels
    of an 8 x 8 image (11 dB there, against 26 dB at w0 = 10). ReLU networks on Fourier features
    take larger steps. Networks run together as fits the cache of a core, or fills a GPU.
    """
    small = max(image_shape[:2]) <= 16
    w0, fit = (10.0, FitSettings(steps=150, pixels=0, chunk=64)) if small else (30.0, FitSettings())
    if features:
        fit = replace(fit, lr=0.01 if small else 0.02)
    return w0, fit if torch.device(device).type == "cpu" else replace(fit, chunk=4096)


def fit_zoo(
    path: str | Path, source: ImageSource, settings: FitZooSettings | None = None, *,
    architecture: Architecture | Sequence[Architecture] | None = None, threads: int | None = None,
    progress: bool = True, command: str | None = None, **options: Any,
) -> Zoo:
    """Fit networks to the images of a source and store them as a zoo.

    There is a network for every view of every image. Shards are there, whole, as soon as they are
    finished: the same call after an interruption makes the missing ones, with the same bits (on the
    same machine and torch). Under ``torchrun`` the ranks share the shards.

    Args:
        path: folder of the zoo; made if it is not there.
        settings: which networks are fitted, and how.
        architecture: of the networks, or several, of which each network gets one at random; in
            place of what the settings say of architectures.
        threads: cores that are used; default as many as torch uses. The result is the same.
        progress: whether a progress bar on stderr shows the loss and the PSNR.
        command: the command line that this is part of, for the record.
        options: settings by name, in place of those of ``settings``.

    Raises:
        ArchitectureError: if an architecture is not a SIREN or a ReLU network on 2 coordinates.
        InvalidGraphError: if a setting is out of range or does not fit the source.
        DataFileError: if the folder holds something else, a zoo made with other settings, or a
            damaged shard, or if another process is fitting into it. Nothing is changed then.

    Example:
        >>> zoo = fit_zoo("zoos/digits", load_digits_images(), views=4)  # doctest: +SKIP
        >>> zoo.info()["facts"]["psnr"]["mean"]  # doctest: +SKIP
        42.4
    """
    path, settings = Path(path), replace(settings or FitZooSettings(), **options)
    shape = source.images.shape[1:]
    w0, fit = suggested_settings(shape, settings.features, settings.device)
    if settings.features and settings.feature_scale is None:
        # Of 1, 2, 3 at 8 x 8 and 2, 4, 6 at 28 x 28 pixels the one with the most dB.
        settings = replace(settings, feature_scale=2.0 if max(shape[:2]) <= 16 else 4.0)
    if architecture is None:
        architecture = _architectures(settings, w0, shape[-1])
    elif settings.widths is not None or settings.w0 is not None:
        raise InvalidGraphError("an architecture is given; widths and w0 are then part of it.")
    images = source if settings.count is None else source.take(settings.count)
    kinds = [architecture] if isinstance(architecture, Architecture) else list(architecture)
    threads = torch.get_num_threads() if threads is None else threads
    _write(path, images, kinds, settings, settings.fit(fit), threads, progress, command)
    return Zoo.open(path)


def _write(
    path: Path, source: ImageSource, architectures: Sequence[Architecture],
    settings: FitZooSettings, fit: FitSettings, threads: int, progress: bool, command: str | None,
) -> None:  # fmt: skip
    """Fit a network to every view of every image, its architecture drawn at random."""
    count, (height, width, channels) = len(source), source.images.shape[1:]
    facts = (
        Fact("label", "int64", source.class_names), Fact("image"), Fact("view"), Fact("steps"),
        Fact("psnr", "float32"), Fact("split", "int64", SPLITS),
    )  # fmt: skip
    fixed = []
    for architecture in architectures:
        given = _fixed(architecture, settings.feature_scale, fit.seed)
        fitted_layers(architecture, given)
        if architecture.widths[-1] != channels:
            raise InvalidGraphError(
                f"{architecture} has {architecture.widths[-1]} outputs but an image of "
                f"{source.name!r} has {channels} channels; expected as many."
            )
        ShardLayout(architecture, facts)
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
    # Fit n is view n // count of image n % count.
    kinds = torch.zeros(count * settings.views, dtype=torch.int64)
    if len(architectures) > 1:
        drawn = np.random.default_rng([fit.seed, 0x4B])
        kinds = torch.from_numpy(drawn.integers(len(architectures), size=len(kinds)))
    jobs = jobs_of(kinds, settings.shard_size)
    manifest = Manifest(
        tuple(architectures), facts, "image", "label",
        (Origin(source.fingerprint(), recipe, (height, width, channels), command),),
        tuple(Shard.numbered(i, len(fits), kind) for i, (kind, fits) in enumerate(jobs)),
        policy=policy_of(settings.splits, fit.seed),
    )  # fmt: skip
    split = split_of_images(count, settings.splits, fit.seed)
    total, error = 0, 0.0

    def make(index: int, show: Callable[..., None]) -> dict[str, Tensor]:
        def tell(done: int, psnr: Tensor) -> None:
            nonlocal total, error
            total += done
            error += float((10 ** (-psnr / 10)).sum())
            show(done, loss=f"{error / total:.2e}", psnr=f"{float(psnr.mean()):.1f} dB")

        kind, numbers = jobs[index]
        image, view = numbers % count, numbers // count
        targets = source.targets(image)
        if augmentation is not None:
            targets = augmentation.apply(targets, image, view, fit.seed)
        result = fit_images(
            architectures[kind], targets, fit, stream=index, threads=threads,
            device=settings.device, fixed=fixed[kind], start=kind, on_chunk=tell,
        )  # fmt: skip
        told = {
            "label": source.labels[image].to(torch.int64), "image": image, "view": view,
            "steps": result.steps, "psnr": result.psnr, "split": split[image],
        }  # fmt: skip
        return {**result.parameters, **{fact.key: told[fact.name] for fact in facts}}

    write_with_bar(path, manifest, make, desc="fit", unit="net", shown=progress)


def _fixed(architecture: Architecture, scale: float | None, seed: int) -> dict[str, Tensor]:
    """Return the Fourier features of a network that has some: a sine layer before ReLU layers."""
    names = [group.activation.name for group in architecture.groups[1:-1]]
    if names[:2] != ["sine", "relu"] or scale is None:
        return {}
    return fourier_features(architecture, scale, seed)


def _architectures(settings: FitZooSettings, w0: float, channels: int) -> list[Architecture]:
    """Return the architectures that settings name, with a suggested w0."""
    if settings.architectures > 1:
        return draw_architectures(
            settings.architectures, channels, depth=settings.depth, width=settings.width,
            w0=w0 if settings.w0 is None else settings.w0, features=settings.features,
            seed=settings.seed,
        )  # fmt: skip
    sizes = (2, 32, 32, channels) if settings.widths is None else settings.widths
    if not settings.features:
        return [siren_architecture(sizes, w0 if settings.w0 is None else settings.w0)]
    if settings.w0 is not None:
        raise InvalidGraphError("ReLU networks on Fourier features have no w0; leave it out.")
    return [fourier_architecture(sizes, settings.features)]
