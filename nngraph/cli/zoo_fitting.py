"""What the commands ``nngraph zoo fit`` and ``nngraph zoo train`` do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from jsonargparse import Namespace

from nngraph.cli.common import check_device, values_of_the_user
from nngraph.cli.zoo_words import tell_zoo, this_command
from nngraph.zoo import (
    FitZooSettings,
    TrainZooSettings,
    fit_zoo,
    load_images,
    load_train_and_test,
    train_zoo,
)

__all__ = ["zoo_fit", "zoo_train"]

_Settings = TypeVar("_Settings", FitZooSettings, TrainZooSettings)


def zoo_fit(options: Namespace) -> int:
    """Fit a zoo."""
    name, *folders = options.data
    with values_of_the_user():
        source = load_images(name, folders, options.part)
    out = Path(options.out or f"zoos/{name}")
    check_device(options.device)
    with values_of_the_user():
        zoo = fit_zoo(
            out, source, _settings(FitZooSettings, options), threads=options.threads,
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
            _settings(TrainZooSettings, options), threads=options.threads,
            progress=not options.quiet, command=this_command(),
        )  # fmt: skip
    return tell_zoo(options, zoo)


def _settings(kind: type[_Settings], options: Namespace) -> _Settings:
    names = [item.name for item in fields(kind) if item.name in options]
    return kind(**{name: options[name] for name in names})
