"""Make a zoo: fit networks to the images of a source, shard by shard, and resume where it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.settings import FitSettings, FitZooSettings
from nngraph.zoo.fitting.fit import fit_images
from nngraph.zoo.fitting.inits import fourier_architecture
from nngraph.zoo.fitting.plan import FitPlan, draw_architectures, plan_fit
from nngraph.zoo.fitting.siren import siren_architecture
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.store.writing import write_with_bar
from nngraph.zoo.store.zoo import Zoo


def suggested_settings(
    image_shape: Sequence[int], features: int = 0, device: str = "cpu"
) -> tuple[float, FitSettings]:
    """Return w0 and fit settings for 2-32-32-C networks on images of ``(H, W, ...)``.

    The frequency w0 fits the pixel grid: at w0 = 30 a network oscillates freely between the pixels
    of an 8 x 8 image (11 dB there, against 26 dB at w0 = 10). Small images need no subsampling.
    ReLU networks on Fourier features take larger steps than SIRENs, whose layers are multiplied by
    a frequency. Networks run together as fits the cache of a core, or fills a GPU.
    """
    small = max(image_shape[:2]) <= 16
    w0, fit = (10.0, FitSettings(steps=150, pixels=0, chunk=64)) if small else (30.0, FitSettings())
    if features:
        fit = replace(fit, lr=0.01 if small else 0.02)
    return w0, fit if torch.device(device).type == "cpu" else replace(fit, chunk=4096)


def _feature_scale(image_shape: Sequence[int]) -> float:
    """Return the scale of Fourier features for images of ``(H, W, ...)``.

    Of 1, 2, 3 at 8 x 8 and 2, 4, 6 at 28 x 28 pixels the one with the most dB on digits and MNIST.
    """
    return 2.0 if max(image_shape[:2]) <= 16 else 4.0


def fit_zoo(
    path: str | Path,
    source: ImageSource,
    settings: FitZooSettings | None = None,
    *,
    architecture: Architecture | Sequence[Architecture] | None = None,
    threads: int | None = None,
    progress: bool = True,
    command: str | None = None,
    **options: Any,
) -> Zoo:
    """Fit networks to the images of a source and store them as a zoo.

    There is a network for every view of every image. Shards are fitted one after the other and are
    there, whole, as soon as they are finished: the same call after an interruption makes the
    missing ones, with the same bits (on the same machine and torch). Under ``torchrun`` the ranks
    share the shards.

    Args:
        path: folder of the zoo; made if it is not there.
        settings: which networks are fitted, and how.
        architecture: of the networks, or several, of which each network gets one at random; in
            place of what the settings say of architectures.
        threads: networks are fitted on so many cores; default as many as torch uses. The result
            does not depend on it.
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
        settings = replace(settings, feature_scale=_feature_scale(shape))
    if architecture is None:
        architecture = _architectures(settings, w0, shape[-1])
    elif settings.widths is not None or settings.w0 is not None:
        raise InvalidGraphError("an architecture is given; widths and w0 are then part of it.")
    images = source if settings.count is None else source.take(settings.count)
    kinds = [architecture] if isinstance(architecture, Architecture) else list(architecture)
    plan = plan_fit(images, kinds, settings, settings.fit(fit), command)
    threads = torch.get_num_threads() if threads is None else threads
    _write(path, plan, threads, settings.device, progress)
    return Zoo.open(path)


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


def _write(path: Path, plan: FitPlan, threads: int, device: str, progress: bool) -> None:
    total, error = 0, 0.0

    def make(index: int, show: Callable[..., None]) -> dict[str, Tensor]:
        def tell(count: int, psnr: Tensor) -> None:
            nonlocal total, error
            total += count
            error += float((10 ** (-psnr / 10)).sum())
            show(count, loss=f"{error / total:.2e}", psnr=f"{float(psnr.mean()):.1f} dB")

        kind = plan.manifest.shards[index].architecture
        numbers = plan.jobs[index]
        image, view = numbers % len(plan.source), numbers // len(plan.source)
        result = fit_images(
            plan.manifest.architectures[kind],
            plan.targets(image, view),
            plan.settings,
            stream=index,
            threads=threads,
            device=device,
            fixed=plan.fixed[kind],
            start=kind,
            on_chunk=tell,
        )
        told = {
            "label": plan.source.labels[image].to(torch.int64),
            "image": image,
            "view": view,
            "steps": result.steps,
            "psnr": result.psnr,
            "split": plan.split[image],
        }
        facts = {fact.key: told[fact.name] for fact in plan.manifest.facts}
        return {**result.parameters, **facts}

    write_with_bar(path, plan.manifest, make, desc="fit", unit="net", shown=progress)
