"""Make a zoo: fit networks to the images of a source, shard by shard, and resume where it ended."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.files import TEMPORARY
from nngraph.graph import Architecture
from nngraph.zoo.fit import FitSettings, fit_images
from nngraph.zoo.manifest import MANIFEST, Manifest, Shard
from nngraph.zoo.shards import expected_tensors, read_shard, write_shard
from nngraph.zoo.siren import sine_scales, siren_architecture
from nngraph.zoo.sources import ImageSource
from nngraph.zoo.storage import Zoo

__all__ = ["fit_zoo", "split_of_images", "suggested_settings"]


def suggested_settings(image_shape: Sequence[int]) -> tuple[float, FitSettings]:
    """Return w0 and fit settings for 2-32-32-C networks on images of ``(H, W, ...)``.

    The frequency w0 fits the pixel grid: at w0 = 30 a network oscillates freely between the pixels
    of an 8 x 8 image (11 dB there, against 26 dB at w0 = 10). Small images need no subsampling.
    """
    if max(image_shape[:2]) <= 16:
        return 10.0, FitSettings(steps=150, pixels=0, chunk=64)
    return 30.0, FitSettings()


def split_of_images(count: int, splits: Sequence[float], seed: int) -> Tensor:
    """Assign each of ``count`` images to a split at random: ``[count]``, 0 train, 1 val, 2 test.

    Args:
        splits: fractions of train, validation and test images; they sum to 1.

    Raises:
        InvalidGraphError: if they are not three fractions that sum to 1.
    """
    fractions = [float(fraction) for fraction in splits]
    inside = all(0 <= fraction <= 1 for fraction in fractions)
    if len(fractions) != 3 or not inside or abs(sum(fractions) - 1) > 1e-6:
        raise InvalidGraphError(
            f"splits are {list(splits)!r}; expected fractions of train, validation and test images "
            "that sum to 1, such as (0.8, 0.1, 0.1)."
        )
    first = round(count * fractions[0])
    second = round(count * (fractions[0] + fractions[1]))
    order = torch.from_numpy(np.random.default_rng([seed, count]).permutation(count))
    split = torch.zeros(count, dtype=torch.int64)
    split[order[first:second]] = 1
    split[order[second:]] = 2
    return split


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
    wanted = _plan(source, architecture, settings, views, shard_size, splits)
    split = split_of_images(len(source), splits, seed)
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        manifest = _start_or_continue(path, wanted)
        _fit_missing(
            path, manifest, source, settings, split,
            torch.get_num_threads() if threads is None else threads, progress,
        )  # fmt: skip
    return Zoo.open(path)


def _fit_missing(
    path: Path,
    manifest: Manifest,
    source: ImageSource,
    settings: FitSettings,
    split: Tensor,
    threads: int,
    progress: bool,
) -> None:
    starts = manifest.starts
    done = sum(shard.count for shard in manifest.shards if shard.done)
    total, error = 0, 0.0
    with tqdm(
        total=starts[-1],
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

        for index, shard in enumerate(manifest.shards):
            if shard.done:
                continue
            numbers = torch.arange(starts[index], starts[index + 1])
            image = numbers % len(source)
            result = fit_images(
                manifest.architecture,
                source.targets(image),
                settings,
                stream=index,
                threads=threads,
                on_chunk=show,
            )
            tensors = {
                **result.parameters,
                "network.label": source.labels[image].to(torch.int64),
                "network.image": image,
                "network.view": numbers // len(source),
                "network.split": split[image],
                "network.psnr": result.psnr,
            }
            # The shard first: a manifest never names a shard that is not there.
            digest = write_shard(path / shard.file, tensors)
            manifest = manifest.with_done(index, digest, _versions())
            manifest.write(path)


def _plan(
    source: ImageSource,
    architecture: Architecture,
    settings: FitSettings,
    views: int,
    shard_size: int,
    splits: Sequence[float],
) -> Manifest:
    """Return the manifest of the zoo to be made, all of its shards missing."""
    sine_scales(architecture)
    expected_tensors(architecture, 1)
    count, channels = len(source), source.images.shape[-1]
    if architecture.widths[-1] != channels:
        raise InvalidGraphError(
            f"{architecture} has {architecture.widths[-1]} outputs but an image of {source.name!r} "
            f"has {channels} channels; expected as many."
        )
    recipe: dict[str, Any] = {
        "source": source.name,
        "source_sha256": source.fingerprint(),
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
    return Manifest(architecture, source.class_names, (height, width, channels), recipe, shards)


def _start_or_continue(path: Path, wanted: Manifest) -> Manifest:
    """Return the manifest to work on, after checking that what is there belongs to it."""
    for leftover in path.glob(f"{TEMPORARY}*"):
        # Of a process that was killed while writing; this one holds the lock.
        leftover.unlink(missing_ok=True)
    if not (path / MANIFEST).exists():
        if others := sorted(entry.name for entry in path.iterdir()):
            raise DataFileError(
                f"{path} has no {MANIFEST} but holds {others[0]!r}; expected an empty folder or a "
                "zoo. Choose another folder."
            )
        wanted.write(path)
        return wanted
    found = Manifest.read(path)
    if difference := _difference(found, wanted):
        raise DataFileError(
            f"{path / MANIFEST} was made with other settings: {difference}. Use the same settings "
            "to continue it, or another folder."
        )
    for index, shard in enumerate(found.shards):
        file = path / shard.file
        if shard.sha256 is None:
            continue
        if file.exists() or file.is_symlink():
            read_shard(file, found.architecture, shard.count, shard.sha256)
        else:
            shards = list(found.shards)
            shards[index] = Shard(shard.file, shard.count)
            found = replace(found, shards=tuple(shards))
    return found


def _difference(found: Manifest, wanted: Manifest) -> str | None:
    """Name the first setting in which two zoos differ, with both values."""

    def flat(manifest: Manifest) -> dict[str, Any]:
        recipe = dict(manifest.recipe)
        fit = recipe.pop("fit", None)
        values = {"architecture": str(manifest.architecture), **recipe}
        values.update(fit if isinstance(fit, dict) else {"fit": fit})
        return values

    theirs, ours = flat(found), flat(wanted)
    for name in [*ours, *theirs]:
        if theirs.get(name) != ours.get(name):
            return f"{name} is {theirs.get(name)!r:.100} there and {ours.get(name)!r:.100} here"
    if found.architecture != wanted.architecture:
        return "the architectures differ in names or groups"
    if [(s.file, s.count) for s in found.shards] != [(s.file, s.count) for s in wanted.shards]:
        return "the shards differ in names or sizes"
    if (found.class_names, found.image_shape) != (wanted.class_names, wanted.image_shape):
        return "class names or image shape differ"
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep a second process from fitting into the folder, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes would write the same bits, atomically
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataFileError(
                f"{path} is being fitted by another process; wait for it, or stop it."
            ) from None
        yield
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidGraphError(f"{name} is {value!r}; expected an integer of at least 1.")
