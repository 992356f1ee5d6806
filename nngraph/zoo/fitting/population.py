"""Make a zoo: fit networks to the images of a source, shard by shard, and resume where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.progress import progress_bar
from nngraph.ranks import Ranks
from nngraph.zoo.fitting.fit import fit_images
from nngraph.zoo.fitting.inits import fourier_architecture
from nngraph.zoo.fitting.plan import FitPlan, plan_fit
from nngraph.zoo.fitting.settings import FitSettings
from nngraph.zoo.fitting.siren import siren_architecture
from nngraph.zoo.images.augment import Augmentation
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.store.manifest import Manifest
from nngraph.zoo.store.writing import write_zoo
from nngraph.zoo.store.zoo import Zoo

__all__ = ["fit_zoo", "suggested_feature_scale", "suggested_relu_lr", "suggested_settings"]


def suggested_settings(image_shape: Sequence[int]) -> tuple[float, FitSettings]:
    """Return w0 and fit settings for 2-32-32-C networks on images of ``(H, W, ...)``.

    The frequency w0 fits the pixel grid: at w0 = 30 a network oscillates freely between the pixels
    of an 8 x 8 image (11 dB there, against 26 dB at w0 = 10). Small images need no subsampling.
    """
    if max(image_shape[:2]) <= 16:
        return 10.0, FitSettings(steps=150, pixels=0, chunk=64)
    return 30.0, FitSettings()


def suggested_relu_lr(image_shape: Sequence[int]) -> float:
    """Return a learning rate for ReLU networks on Fourier features, for images of ``(H, W, ...)``.

    Their steps are larger than a SIREN's, whose layers are multiplied by a frequency.
    """
    return 0.01 if max(image_shape[:2]) <= 16 else 0.02


def suggested_feature_scale(image_shape: Sequence[int]) -> float:
    """Return the scale of Fourier features for images of ``(H, W, ...)``.

    Of 1, 2, 3 at 8 x 8 and 2, 4, 6 at 28 x 28 pixels the one with the most dB on digits and MNIST.
    """
    return 2.0 if max(image_shape[:2]) <= 16 else 4.0


def fit_zoo(
    path: str | Path,
    source: ImageSource,
    *,
    architecture: Architecture | Sequence[Architecture] | None = None,
    widths: Sequence[int] | None = None,
    w0: float | None = None,
    features: int = 0,
    feature_scale: float | None = None,
    count: int | None = None,
    views: int = 1,
    augmentation: Augmentation | None = None,
    steps: int | None = None,
    lr: float | None = None,
    pixels: int | None = None,
    chunk: int | None = None,
    psnr: float | None = None,
    init: str = "independent",
    seed: int = 0,
    shard_size: int = 1024,
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
    command: str | None = None,
) -> Zoo:
    """Fit networks to the images of a source and store them as a zoo.

    There is a network for every view of every image. Shards are fitted one after the other and are
    there, whole, as soon as they are finished: the same call after an interruption makes the
    missing ones, with the same bits (on the same machine and torch). Under ``torchrun`` the ranks
    share the shards. Arguments that are ``None`` take what :func:`suggested_settings` says for the
    size of the images.

    Args:
        path: folder of the zoo; made if it is not there.
        architecture: of the networks, or several, of which each network gets one at random; or
            ``widths`` (default 2-32-32-C) and ``w0``.
        features: if above 0, ReLU networks on so many Fourier features in place of SIRENs.
        feature_scale: of the Fourier features, in periods over the image.
        count: the first so many images; default all.
        views: fits of each image, which differ in their first weights.
        augmentation: how the images of views after the first are moved; default not at all.
        steps, lr, pixels, chunk, psnr, init, seed: see :class:`FitSettings`; ``seed`` also draws
            the splits.
        shard_size: networks per file.
        splits: fractions of train, validation and test images. All fits of an image are in one.
        threads: networks are fitted on so many cores; default as many as torch uses. The result
            does not depend on it.
        device: a torch device that the networks are fitted on.
        progress: whether a progress bar on stderr shows the loss and the PSNR.
        command: the command line that this is part of, for the record.

    Raises:
        ArchitectureError: if an architecture is not a SIREN or a ReLU network on 2 coordinates.
        InvalidGraphError: if an argument does not fit the source.
        DataFileError: if the folder holds something else, a zoo made with other settings, or a
            damaged shard, or if another process is fitting into it. Nothing is changed then.

    Example:
        >>> zoo = fit_zoo("zoos/digits", load_digits_images(), views=4)  # doctest: +SKIP
        >>> zoo.info()["facts"]["psnr"]["mean"]  # doctest: +SKIP
        42.4
    """
    path = Path(path)
    shape = source.images.shape[1:]
    suggested_w0, suggested = suggested_settings(shape)
    suggested_lr = suggested_relu_lr(shape) if features else suggested.lr
    settings = FitSettings(
        steps=suggested.steps if steps is None else steps,
        lr=suggested_lr if lr is None else lr,
        pixels=suggested.pixels if pixels is None else pixels,
        chunk=_suggested_chunk(suggested, device) if chunk is None else chunk,
        seed=seed,
        psnr=psnr,
        init=init,
    )
    if architecture is None:
        sizes = (2, 32, 32, shape[-1]) if widths is None else tuple(widths)
        if features and w0 is not None:
            raise InvalidGraphError("ReLU networks on Fourier features have no w0; leave it out.")
        architecture = (
            fourier_architecture(sizes, features)
            if features
            else siren_architecture(sizes, suggested_w0 if w0 is None else w0)
        )
    elif widths is not None or w0 is not None:
        raise InvalidGraphError("an architecture is given; widths and w0 are then part of it.")
    if features and feature_scale is None:
        feature_scale = suggested_feature_scale(shape)
    _at_least_one(views=views, shard_size=shard_size)
    plan = plan_fit(
        source.take(len(source) if count is None else count),
        [architecture] if isinstance(architecture, Architecture) else list(architecture),
        settings,
        views=views,
        shard_size=shard_size,
        splits=splits,
        augmentation=augmentation,
        feature_scale=feature_scale,
        command=command,
    )
    threads = torch.get_num_threads() if threads is None else threads
    _write(path, plan, threads, device, progress)
    return Zoo.open(path)


def _write(path: Path, plan: FitPlan, threads: int, device: str, progress: bool) -> None:
    ranks = Ranks.of_environment()
    bar = progress_bar(unit="net", desc="fit", shown=progress and ranks.leads)
    total, error = 0, 0.0

    def begin(manifest: Manifest) -> None:
        bar.reset(total=manifest.starts[-1])
        bar.update(sum(shard.count for shard in manifest.shards if shard.done))

    def show(count: int, psnr: Tensor) -> None:
        nonlocal total, error
        total += count
        error += float((10 ** (-psnr / 10)).sum())
        bar.set_postfix(
            loss=f"{error / total:.2e}", psnr=f"{float(psnr.mean()):.1f} dB", refresh=False
        )
        bar.update(count * ranks.world)

    def make(index: int) -> dict[str, Tensor]:
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
            on_chunk=show,
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

    with bar:
        write_zoo(path, plan.manifest, make, ranks=ranks, begin=begin)


def _suggested_chunk(suggested: FitSettings, device: str) -> int:
    """Return how many networks run together: what fits the cache of a core, or fills a GPU."""
    return suggested.chunk if torch.device(device).type == "cpu" else 4096


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidGraphError(f"{name} is {value!r}; expected an integer of at least 1.")
