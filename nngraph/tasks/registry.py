"""The tasks by name, and how a task and its model are made from settings."""

from __future__ import annotations

import inspect

from torch import nn

from nngraph.settings import TrainSettings
from nngraph.tasks.contrastive import Contrast
from nngraph.tasks.editing import Edit
from nngraph.tasks.matching import MatchNeurons
from nngraph.tasks.prediction import Classify, Predict
from nngraph.tasks.seeding import seeded
from nngraph.tasks.task import Task
from nngraph.zoo import Zoo

#: Name on the command line -> task, made as ``Task(zoo, settings, **task_options)``.
TASKS: dict[str, type[Task]] = {
    "classify": Classify,
    "predict": Predict,
    "edit": Edit,
    "contrast": Contrast,
    "match": MatchNeurons,
}


def build_task(settings: TrainSettings, zoo: Zoo) -> Task:
    """Return the task of the settings on a zoo; raises as :func:`build_model` does."""
    if settings.task not in TASKS:
        raise ValueError(f"task is {settings.task!r}; expected one of {', '.join(TASKS)}.")
    make = TASKS[settings.task]
    try:
        inspect.signature(make).bind(zoo, settings, **settings.task_options)
    except TypeError as error:
        raise ValueError(
            f"the task {settings.task!r} does not take the options {settings.task_options!r}: "
            f"{error}."
        ) from None
    return make(zoo, settings, **settings.task_options)


def build_model(settings: TrainSettings, zoo: Zoo | Task) -> nn.Module:
    """Return the model of the settings with fresh parameters, drawn from the settings' seed.

    Args:
        zoo: the networks, or the task on them.

    Raises:
        ValueError: if there is no such task or model, or it has no such option.
        DataFileError: if the zoo does not have what the task asks for.
    """
    task = zoo if isinstance(zoo, Task) else build_task(settings, zoo)
    with seeded(settings.seed):
        return task.build_model()
