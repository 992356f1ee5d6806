"""The commands ``train``, ``eval``, ``models`` and ``compare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from nngraph.cli import text
from nngraph.cli.common import at_least, check_device, tell
from nngraph.cli.options.deriving import mistake, values_of_the_user
from nngraph.cli.options.training import Compare, Eval, Models, Train
from nngraph.cli.relabelled import compare_relabelled
from nngraph.drawing import draw_curves
from nngraph.graph import Architecture
from nngraph.memory import keep_memory
from nngraph.nn import traits_of
from nngraph.ranks import Ranks
from nngraph.tasks import (
    TASKS,
    Predict,
    TrainSettings,
    build_model,
    build_task,
    compare_runs,
    describe_models,
    finite,
    load_run,
    train,
)
from nngraph.validation import default_architecture
from nngraph.zoo import Zoo


def train_model(options: Train) -> int:
    """Train a metanetwork."""
    if options.task not in TASKS:
        raise mistake(
            f"{options.task!r} is no task; expected one of {', '.join(TASKS)}, and the folder of "
            "the run as --run."
        )
    settings = TrainSettings(**{i.name: getattr(options, i.name) for i in fields(TrainSettings)})
    with values_of_the_user():
        check_device(settings.device)
        # What cannot be built is told before anything is written.
        build_model(settings, Zoo.open(settings.zoo))
    zoo = Path(settings.zoo).resolve().name
    run = Path(options.run or f"runs/{zoo}-{settings.task}-{settings.model}")
    if not options.return_memory:
        keep_memory()
    report = train(
        settings, run, progress=not options.quiet, tensorboard=options.tensorboard,
        curves=options.curves,
    )  # fmt: skip
    if not Ranks.of_environment().leads:
        return 0
    data = {"run": str(run), **report.to_dict()}
    lines = {
        "task": report.task,
        "model": f"{report.model}, {report.parameters:,} parameters",
        "access": report.access,
        "training": f"{report.epochs} epochs, {report.steps} steps, "
        f"{text.duration(report.cpu_seconds)} of CPU, {text.duration(report.seconds)}",
        "validation": _measures_words(data["val"], report.score),
        "test": _measures_words(data["test"], report.score),
    }
    words = f"{run}\n{text.pairs(lines)}{_details_words(data['details'])}"
    return tell(options, data, lambda: words)


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
        raise mistake(
            f"--relabel compares answers about whole networks; the task {settings.task!r} of "
            f"{options.run} gives others."
        )
    networks = task.networks(options.split)
    measures = task.evaluate(model, options.split)
    data: dict[str, Any] = {
        "run": options.run, "zoo": str(zoo.path), "split": options.split,
        "networks": sum(len(numbers) for numbers, _ in networks), "task": settings.task,
        "model": settings.model, "access": traits_of(model).access, "score": task.score,
        **measures, "details": task.details(model, options.split),
    }  # fmt: skip
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
            "access": data["access"],
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


def tell_models(options: Models) -> int:
    """Tell the models that there are."""
    at_least(1, batch_size=options.batch_size)
    with values_of_the_user():
        example = default_architecture(options.widths)
    models, size = describe_models(example, options.batch_size), options.batch_size
    data = {
        "example": str(example), "batch_size": size, "threads": torch.get_num_threads(),
        "models": models,
    }  # fmt: skip
    return tell(options, data, lambda: _models_words(example, size, models))


def _models_words(example: Architecture, size: int, models: list[dict[str, Any]]) -> str:
    rows: list[list[str]] = []
    for access in dict.fromkeys(model["access"] for model in models):
        rows.append([access or "do not read the example", "", ""])
        for model in models:
            if model["access"] == access:
                known = access is not None
                size_words = f"{model['parameters']:,}" if known else "-"
                time_words = f"{model['step_ms']:,.1f} ms" if known else "-"
                rows.append([f"  {model['model']}", size_words, time_words])
    told = []
    names = {"is": "about", "respects": "symmetry", "reads": "reads", "does not fit": "unfit"}
    for model in models:
        lines = {name: model[key] for name, key in names.items() if key != "unfit" or model[key]}
        told.append(f"{model['model']}\n{text.pairs(lines)}")
    threads = torch.get_num_threads()
    return (
        "\n\n".join(told)
        + "\n\n"
        + text.table(["with default options", "parameters", "a training step"], rows)
        + f"\n  a step: forward and backward, {size} networks {example}, CPU time on {threads} "
        f"{'thread' if threads == 1 else 'threads'}\n"
        "  models of one access only, what they may use, are compared; options may change it"
    )


def compare(options: Compare) -> int:
    """Compare finished runs."""
    tables = compare_runs(options.runs)
    data: dict[str, Any] = {"tables": [table.to_dict() for table in tables]}
    if options.figure is not None:
        with values_of_the_user():
            data["figure"] = str(draw_curves(options.figure, [t.panel for t in tables]))
    return tell(options, data, lambda: "\n\n".join(map(_table_words, data["tables"])))


def _table_words(table: dict[str, Any]) -> str:
    score = table["score"]
    rows = [
        [
            row["label"],
            str(len(row["seeds"])),
            f"{row['parameters']:,}",
            f"{row['epochs']:.4g}",
            text.duration(row["cpu_seconds"]),
            *(_spread(score, row[split][score]) for split in ("val", "test")),
        ]
        for row in table["rows"]
    ]
    head = ["model", "seeds", "parameters", "epochs", "CPU", f"{score}, validation", "test"]
    title = f"{table['task']} on {table['zoo']}\n{table['access']}"
    return f"{title}\n{text.table(head, rows)}"


def _spread(score: str, found: dict[str, float | None]) -> str:
    mean, deviation = found["mean"], found["deviation"]
    if mean is None:
        return "-"
    if score in text.SHARES:
        tail = "" if deviation is None else f" +- {100 * deviation:.1f}"
        return f"{100 * mean:.1f}{tail} %"
    return text.number(mean) + ("" if deviation is None else f" +- {deviation:.2g}")
