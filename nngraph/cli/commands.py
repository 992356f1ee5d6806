"""The functions of the commands: each takes its options and returns the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from nngraph.cli import comparing, demo, inspecting, matching, training, validating, zoos

__all__ = ["RUN", "default_threads"]

#: Command, with its action -> what does it.
RUN: dict[str, Callable[[Any], int]] = {
    "demo": demo.demo,
    "zoo fit": zoos.fit,
    "zoo train": zoos.train,
    "zoo info": zoos.info,
    "zoo verify": zoos.verify,
    "zoo merge": zoos.merge,
    "zoo filter": zoos.keep,
    "zoo export": zoos.export,
    "zoo import": zoos.take_in,
    "zoo show": zoos.show,
    "convert": inspecting.convert,
    "inspect": inspecting.inspect,
    "validate": validating.prove,
    "train": training.train_model,
    "eval": training.judge,
    "match": matching.match,
    "models": comparing.tell_models,
    "compare": comparing.compare,
}


def default_threads(options: Any) -> int:
    """Return how many threads a command computes on: fitting scales, small models do not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(getattr(options, "most_threads", 4) or cores or 1, cores or 1))
