"""What the commands ``nngraph zoo fit`` and ``nngraph zoo train`` do."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentError, Namespace

from nngraph.cli.common import check_device, values_of_the_user
from nngraph.cli.zoo_words import tell_zoo, this_command
from nngraph.graph import Architecture
from nngraph.zoo import (
    Augmentation,
    ImageSource,
    draw_architectures,
    fit_zoo,
    load_images,
    load_train_and_test,
    suggested_settings,
    train_zoo,
)

__all__ = ["zoo_fit", "zoo_train"]


def zoo_fit(options: Namespace) -> int:
    """Fit a zoo."""
    name, *folders = options.data
    with values_of_the_user():
        source = load_images(name, folders, options.part)
    out = Path(options.out or f"zoos/{name}")
    check_device(options.device)
    with values_of_the_user():
        architectures = _architectures(options, source)
        zoo = fit_zoo(
            out, source,
            architecture=architectures, widths=options.widths,
            w0=None if architectures else options.w0, features=options.features,
            feature_scale=options.feature_scale, count=options.count, views=options.views,
            augmentation=None if options.augment is None else Augmentation(*options.augment),
            steps=options.steps, lr=options.lr, pixels=options.pixels, psnr=options.psnr,
            init=options.init, seed=options.seed, shard_size=options.shard_size,
            splits=options.splits, threads=options.threads, device=options.device,
            progress=not options.quiet, command=this_command(),
        )  # fmt: skip
    return tell_zoo(options, zoo)


def zoo_train(options: Namespace) -> int:
    """Train a zoo of classifiers."""
    name, *folders = options.data
    with values_of_the_user():
        train, test = load_train_and_test(name, folders)
    with values_of_the_user():
        zoo = train_zoo(
            Path(options.out or f"zoos/{options.recipe}-{name}"), train, test,
            recipe=options.recipe, count=options.count,
            steps=None if options.steps is None else tuple(options.steps),
            checkpoints=options.checkpoints, seed=options.seed, shard_runs=options.shard_runs,
            splits=tuple(options.splits), max_test=options.max_test, threads=options.threads,
            progress=not options.quiet, command=this_command(),
        )  # fmt: skip
    return tell_zoo(options, zoo)


def _architectures(options: Namespace, source: ImageSource) -> list[Architecture] | None:
    """Return the architectures that are to be drawn; ``None`` if there is one."""
    if options.architectures == 1:
        return None
    if options.architectures < 1 or options.widths is not None:
        raise ArgumentError(
            None,
            f"--architectures {options.architectures} draws architectures from --depth and "
            "--width; expected at least 1, and no --widths.",
        )
    shape = source.images.shape[1:]
    return draw_architectures(
        options.architectures, shape[-1], depth=tuple(options.depth), width=tuple(options.width),
        w0=suggested_settings(shape)[0] if options.w0 is None else options.w0,
        features=options.features, seed=options.seed,
    )  # fmt: skip
