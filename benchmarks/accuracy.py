"""What models reach on a zoo: the same CPU seconds or the same epochs, one thread, several seeds.

A table has one part for each access, what a model may use; these are never compared
across: a model that may run the networks it reads answers another question than one that may not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from devices import Device

from nngraph.nn import MODELS, SymmetricNetwork, plane_wave_r2
from nngraph.tasks import TASKS, Report, TrainSettings, load_run, train
from nngraph.zoo import Zoo

#: What a run is, but for its seed; its budget is in one of the last two.
RUN = (
    "zoo", "task", "access", "model", "options", "settings", "cpu_seconds_budget", "epochs_given",
)  # fmt: skip
KEYS = (*RUN, "seed")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("accuracy.py", description=__doc__)
    made.add_argument(
        "--zoo", type=Path, required=True, metavar="ZOO", help="folder of the networks"
    )
    made.add_argument(
        "--task", default="classify", metavar="TASK", type=harness.name_of(TASKS),
        help=f"one of {', '.join(TASKS)}, with options as NAME:JSON",
    )  # fmt: skip
    made.add_argument(
        "--model", nargs="+", default=list(MODELS), metavar="MODEL", type=harness.name_of(MODELS),
        help="models by name, each with options as NAME:JSON, such as 'symmetric:{\"probes\": 64}'",
    )  # fmt: skip
    made.add_argument(
        "--settings", default="{}", metavar="JSON",
        help="training settings other than their defaults, such as '{\"relabel\": true}'",
    )  # fmt: skip
    made.add_argument("--cpu-seconds", type=float, default=240.0, help="of training, of each model")
    made.add_argument("--epochs", type=int, help="of training, in place of seconds")
    made.add_argument("--seed", nargs="+", type=int, default=[0], help="one run for each")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "accuracy.csv", help="result file"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train every model with every seed, write a row after each, and print the tables."""
    made = parser()
    arguments = made.parse_args(argv)
    further = json.loads(arguments.settings)
    task, task_options = harness.named(arguments.task)
    torch.set_num_threads(1)
    zoo = Zoo.open(arguments.zoo)
    for seed in arguments.seed:
        for text in arguments.model:
            model, options = harness.named(text)
            settings = TrainSettings(
                str(arguments.zoo), model, options, task, task_options, seed=seed,
                cpu_seconds=None if arguments.epochs else arguments.cpu_seconds,
                epochs=arguments.epochs or 1, **further,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                report = train(settings, Path(folder) / "run", progress=False)
                probing_r2 = how_far_a_probe(Path(folder) / "run", zoo)
            one = argparse.Namespace(**vars(arguments))
            one.model, one.seed = [text], [seed]
            row = {
                "zoo": described(zoo),
                "task": arguments.task,
                "access": report.access,
                "model": model,
                "options": options,
                "settings": further,
                "seed": seed,
                "cpu_seconds_budget": settings.cpu_seconds,
                "epochs_given": arguments.epochs,
                **figures(report),
                "probing_r2": probing_r2,
                "device": Device(settings.device).model,
                "command": harness.command_line(made, one),
                **harness.machine(),
            }
            # After every run, so that an interruption loses one at most.
            harness.write_rows(arguments.out, [row], KEYS)
    print_table(harness.read_rows(arguments.out))


def described(zoo: Zoo) -> str:
    """Return what a zoo is made of, in a few words."""
    recipe = zoo.manifest.origins[0].recipe
    kinds = zoo.architectures
    what = str(kinds[0]) if len(kinds) == 1 else f"networks of {len(kinds)} architectures"
    made = recipe["recipe"]["name"] if "recipe" in recipe else recipe.get("source")
    return f"{made}, {len(zoo)} x {what}"


def figures(report: Report) -> dict[str, Any]:
    """Return what is kept of a report."""
    further = {name: value for name, value in report.test.items() if name != report.score}
    return {
        "cpu_seconds": round(report.cpu_seconds, 1),
        "seconds": round(report.seconds, 1),
        "steps": report.steps,
        "epochs": report.epochs,
        "parameters": report.parameters,
        "score": report.score,
        "val": round(report.val[report.score], 4),
        "test": round(report.test[report.score], 4),
        "test_further": {name: round(value, 4) for name, value in sorted(further.items())},
    }


def how_far_a_probe(run: Path, zoo: Zoo) -> float | None:
    """Return the median R2 of ``nngraph.nn.plane_wave_r2``: near 1, the model evaluates the
    networks."""
    model, _ = load_run(run)
    architecture = zoo.architectures[0]
    sines = all(g.activation.name == "sine" for g in architecture.groups[1:-1])
    if not isinstance(model, SymmetricNetwork) or not sines or architecture.widths[0] != 2:
        return None
    return round(float(plane_wave_r2(model, zoo.stack("test")[:100]).median()), 3)


def mean_and_deviation(values: Sequence[str]) -> str:
    """Return the mean over seeds, and their sample deviation where there are several."""
    numbers = [float(value) for value in values]
    mean = statistics.mean(numbers)
    return f"{mean:.4f} ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else f"{mean:.4f}"


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print a table for each zoo, task, budget and access; runs of several seeds are one row."""
    parts: dict[tuple[str, ...], dict[tuple[str, ...], list[dict[str, str]]]] = {}
    for row in rows:
        budget = row["cpu_seconds_budget"], row["epochs_given"]
        part = parts.setdefault((row["zoo"], row["task"], *budget, row["access"]), {})
        part.setdefault(tuple(row[name] for name in RUN), []).append(row)
    for (zoo, task, seconds, epochs, access), runs in parts.items():
        budget = f"{seconds} CPU seconds" if seconds else f"{epochs} epochs"
        print(f"\n{access}: {task}, {zoo}, {budget}\n")
        table = [
            {
                **same[0],
                "seeds": len(same),
                **{key: mean_and_deviation([row[key] for row in same]) for key in ("val", "test")},
            }
            for same in runs.values()
        ]
        table.sort(key=lambda row: str(row["test"]), reverse=True)
        shown = ("model", "options", "settings", "seeds", "cpu_seconds", "steps", "parameters",
                 "score", "val", "test", "probing_r2")  # fmt: skip
        print(harness.markdown(table, shown))


if __name__ == "__main__":
    main()
