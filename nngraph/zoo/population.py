"""Make a zoo: fit networks to the images of a source, shard by shard, and resume where it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.zoo.facts import SPLITS, Fact
from nngraph.zoo.fit import FitSettings, fit_images
from nngraph.zoo.manifest import Manifest, Origin
from nngraph.zoo.ranks import Ranks
from nngraph.zoo.shards import Shard
from nngraph.zoo.siren import sine_scales, siren_architecture
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.splits import policy_of, split_of_images
from nngraph.zoo.storage import Zoo
from nngraph.zoo.writing import continue_or_begin, finish_shard, fold_receipts, locked

__all__ = ["fit_zoo", "suggested_settings"]


def suggested_settings(image_shape: Sequence[int]) -> tuple[float, FitSettings]:
    """Return w0 and fit settings for 2-32-32-C networks on images of ``(H, W, ...)``.

    The frequency w0 fits the pixel grid: at w0 = 30 a network oscillates freely between the pixels
    of an 8 x 8 image (11 dB there, against 26 dB at w0 = 10). Small images need no subsampling.
    """
    if max(image_shape[:2]) <= 16:
        return 10.0, FitSettings(steps=150, pixels=0, chunk=64)
    return 30.0, FitSettings()


def fit_zoo(
    path: str | Path,
    source: ImageSource,
    *,
    architecture: Architecture | None = None,
    widths: Sequence[int] | None = None,
    w0: float | None = None,
    count: int | None = None,
    views: int = 1,
    steps: int | None = None,
    lr: float | None = None,
    pixels: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
    shard_size: int = 1024,
    splits: Sequence[float] = (0.8, 0.1, 0.1),
    threads: int | None = None,
    progress: bool = True,
    command: str | None = None,
) -> Zoo:
    """Fit SIRENs to the images of a source and store them as a zoo.

    Network n is fit ``n // count`` of image ``n % count``. Shards are fitted one after the other
    and are there, whole, as soon as they are finished: the same call after an interruption makes
    the missing ones, with the same bits (on the same machine and torch). Arguments that are
    ``None`` take what :func:`suggested_settings` says for the size of the images.

    Args:
        path: folder of the zoo; made if it is not there.
        architecture: of the networks; or ``widths`` (default 2-32-32-C) and ``w0``.
        count: the first so many images; default all.
        views: independent fits of each image.
        steps, lr, pixels, chunk, seed: see :class:`FitSettings`; ``seed`` also draws the splits.
        shard_size: networks per file.
        splits: fractions of train, validation and test images. All fits of an image are in one.
        threads: networks are fitted on so many cores; default as many as torch uses. The result
            does not depend on it.
        progress: whether a progress bar on stderr shows the loss and the PSNR.
        command: the command line that this is part of, for the record.

    Raises:
        ArchitectureError: if the architecture is not a SIREN on 2 coordinates.
        InvalidGraphError: if an argument does not fit the source.
        DataFileError: if the folder holds something else, a zoo made with other settings, or a
            damaged shard, or if another process is fitting into it. Nothing is changed then.

    Example:
        >>> zoo = fit_zoo("zoos/digits", load_digits_images(), views=4)  # doctest: +SKIP
        >>> zoo.info()["psnr_db"]["mean"]  # doctest: +SKIP
        42.4
    """
    path = Path(path)
    suggested_w0, suggested = suggested_settings(source.images.shape[1:])
    settings = FitSettings(
        steps=suggested.steps if steps is None else steps,
        lr=suggested.lr if lr is None else lr,
        pixels=suggested.pixels if pixels is None else pixels,
        chunk=suggested.chunk if chunk is None else chunk,
        seed=seed,
    )
    if architecture is None:
        channels = source.images.shape[-1]
        architecture = siren_architecture(
            (2, 32, 32, channels) if widths is None else tuple(widths),
            suggested_w0 if w0 is None else w0,
        )
    elif widths is not None or w0 is not None:
        raise InvalidGraphError("an architecture is given; widths and w0 are then part of it.")
    source = source.take(len(source) if count is None else count)
    _at_least_one(views=views, shard_size=shard_size)
    wanted = _plan(source, architecture, settings, views, shard_size, splits, command)
    split = split_of_images(len(source), splits, seed)
    ranks = Ranks.of_environment()
    if ranks.leads:
        path.mkdir(parents=True, exist_ok=True)
    with locked(path) if ranks.leads else contextlib.nullcontext():
        manifest = ranks.first_alone(lambda: continue_or_begin(path, wanted))
        _fit_missing(
            path, manifest, source, settings, split, ranks,
            torch.get_num_threads() if threads is None else threads, progress and ranks.leads,
        )  # fmt: skip
        ranks.wait()
        ranks.first_alone(lambda: bool(fold_receipts(path)))
    return Zoo.open(path)


def _fit_missing(
    path: Path,
    manifest: Manifest,
    source: ImageSource,
    settings: FitSettings,
    split: Tensor,
    ranks: Ranks,
    threads: int,
    progress: bool,
) -> None:
    starts = manifest.starts
    missing = [index for index, shard in enumerate(manifest.shards) if not shard.done]
    mine = [missing[i] for i in ranks.share(len(missing))]
    done = sum(shard.count for shard in manifest.shards if shard.done)
    total, error = 0, 0.0
    with tqdm(
        total=done + sum(manifest.shards[index].count for index in mine),
        initial=done,
        unit="net",
        desc="fit",
        mininterval=0.5,
        disable=not progress,
    ) as bar:

        def show(count: int, psnr: Tensor) -> None:
            nonlocal total, error
            total += count
            error += float((10 ** (-psnr / 10)).sum())
            bar.set_postfix(
                loss=f"{error / total:.2e}", psnr=f"{float(psnr.mean()):.1f} dB", refresh=False
            )
            bar.update(count)

        for index in mine:
            numbers = torch.arange(starts[index], starts[index + 1])
            image = numbers % len(source)
            result = fit_images(
                manifest.architectures[0],
                source.targets(image),
                settings,
                stream=index,
                threads=threads,
                on_chunk=show,
            )
            told = {
                "label": source.labels[image].to(torch.int64),
                "image": image,
                "view": numbers // len(source),
                "psnr": result.psnr,
                "split": split[image],
            }
            facts = {fact.key: told[fact.name] for fact in manifest.facts}
            finish_shard(path, manifest, index, {**result.parameters, **facts})


def _plan(
    source: ImageSource,
    architecture: Architecture,
    settings: FitSettings,
    views: int,
    shard_size: int,
    splits: Sequence[float],
    command: str | None,
) -> Manifest:
    """Return the manifest of the zoo to be made, all of its shards missing."""
    sine_scales(architecture)
    count, channels = len(source), source.images.shape[-1]
    if architecture.widths[-1] != channels:
        raise InvalidGraphError(
            f"{architecture} has {architecture.widths[-1]} outputs but an image of {source.name!r} "
            f"has {channels} channels; expected as many."
        )
    recipe: dict[str, Any] = {
        "source": source.name,
        "count": count,
        "views": views,
        "splits": [float(fraction) for fraction in splits],
        "shard_size": shard_size,
        "fit": settings.to_dict(),
    }
    total = count * views
    shards = tuple(
        Shard(f"shard-{i:05d}.safetensors", min(shard_size, total - start))
        for i, start in enumerate(range(0, total, shard_size))
    )
    height, width = source.images.shape[1:3]
    origin = Origin(source.fingerprint(), recipe, (height, width, channels), command)
    facts = (
        Fact("label", "int64", source.class_names),
        Fact("image"),
        Fact("view"),
        Fact("psnr", "float32"),
        Fact("split", "int64", SPLITS),
    )
    return Manifest(
        (architecture,), facts, "image", "label", (origin,), shards,
        policy=policy_of(splits, settings.seed),
    )  # fmt: skip


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidGraphError(f"{name} is {value!r}; expected an integer of at least 1.")
