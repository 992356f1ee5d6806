"""The commands ``train`` and ``eval``: call the library, tell the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError

from nngraph.cli import text
from nngraph.cli.common import at_least, check_device, tell
from nngraph.cli.options.deriving import values_of_the_user
from nngraph.cli.options.training import Eval, Train
from nngraph.cli.relabelled import compare_relabelled
from nngraph.nn import traits_of
from nngraph.ranks import Ranks
from nngraph.tasks import (
    TASKS,
    Predict,
    TrainSettings,
    build_model,
    build_task,
    finite,
    load_run,
    train,
)
from nngraph.zoo import Zoo


def train_model(options: Train) -> int:
    """Train a metanetwork."""
    if options.task not in TASKS:
        raise ArgumentError(
            None,
            f"{options.task!r} is no task; expected one of {', '.join(TASKS)}, and the folder of "
            "the run as --run.",
        )
    settings = TrainSettings(**{i.name: getattr(options, i.name) for i in fields(TrainSettings)})
    with values_of_the_user():
        check_device(settings.device)
        # What cannot be built is told before anything is written.
        build_model(settings, Zoo.open(settings.zoo))
    zoo = Path(settings.zoo).resolve().name
    run = Path(options.run or f"runs/{zoo}-{settings.task}-{settings.model}")
    report = train(
        settings, run, progress=not options.quiet, tensorboard=options.tensorboard,
        curves=options.curves,
    )  # fmt: skip
    if not Ranks.of_environment().leads:
        return 0
    data = {"run": str(run), **report.to_dict()}
    return tell(
        options, data,
        lambda: f"{run}\n" + text.pairs(
            {
                "task": report.task,
                "model": f"{report.model}, {report.parameters:,} parameters",
                "column": report.column,
                "training": f"{report.epochs} epochs, {report.steps} steps, "
                f"{text.duration(report.cpu_seconds)} of CPU, {text.duration(report.seconds)}",
                "validation": _measures_words(data["val"], report.score),
                "test": _measures_words(data["test"], report.score),
            }
        ) + _details_words(data["details"]),
    )  # fmt: skip


def _measures_words(measures: Mapping[str, float | None], score: str) -> str:
    """Return measures in words, the score first."""
    ordered = {score: measures[score], **measures}
    return ", ".join(f"{name} {_measure(name, value)}" for name, value in ordered.items())


def _measure(name: str, value: float | None) -> str:
    if name in text.SHARES and value is not None:
        return text.percent(value)
    return text.number(value)


def _details_words(details: Mapping[str, Any]) -> str:
    """Return tables of what a task tells besides numbers."""
    parts = []
    if "confusion" in details:
        names = details["class_names"]
        rows = [
            [name, *(str(count) if count else "." for count in row)]
            for name, row in zip(names, details["confusion"], strict=True)
        ]
        parts.append(text.table(["of class, taken for", *names], rows))
    if "deciles" in details:
        head = ["decile by answer", "networks", "answer", "truth", "absolute error"]
        rows = [
            [
                str(number), str(row["networks"]),
                *(text.number(row[key]) for key in ("answer", "truth", "absolute_error")),
            ]
            for number, row in enumerate(details["deciles"], start=1)
        ]  # fmt: skip
        parts.append(text.table(head, rows))
    return "".join(f"\n\n{part}" for part in parts)


def judge(options: Eval) -> int:
    """Judge a trained metanetwork."""
    at_least(1, batch_size=options.batch_size)
    model, settings = load_run(options.run)
    zoo = Zoo.open(options.zoo or settings.zoo)
    task = build_task(replace(settings, device="cpu", precision="auto"), zoo)
    task.batch_size = options.batch_size
    task.check_answers(model)
    if options.relabel and not isinstance(task, Predict):
        raise ArgumentError(
            None,
            f"--relabel compares answers about whole networks; the task {settings.task!r} of "
            f"{options.run} gives others.",
        )
    networks = task.networks(options.split)
    measures = task.evaluate(model, options.split)
    data: dict[str, Any] = {
        "run": options.run,
        "zoo": str(zoo.path),
        "split": options.split,
        "networks": sum(len(numbers) for numbers, _ in networks),
        "task": settings.task,
        "model": settings.model,
        "column": traits_of(model).access,
        "score": task.score,
        **measures,
        "details": task.details(model, options.split),
    }
    relabelled = None
    if options.relabel:
        assert isinstance(task, Predict)
        relabelled = compare_relabelled(task, model, networks, options.seed)
        data["relabelled"] = relabelled.to_dict()
    data = finite(data)

    def words() -> str:
        lines = {
            "task": settings.task,
            "model": settings.model,
            "column": data["column"],
            "networks": f"{data['networks']} of {zoo.path}, split {options.split}",
            **{name: _measure(name, data[name]) for name in measures},
        }
        if relabelled is not None:
            lines["relabelled"] = (
                f"{text.percent(relabelled.unchanged)} of the answers unchanged, {task.score} "
                f"{_measure(task.score, data['relabelled']['after'])}"
            )
        return f"{options.run}\n{text.pairs(lines)}{_details_words(data['details'])}"

    return tell(options, data, words, code=0 if relabelled is None or relabelled.holds else 1)
