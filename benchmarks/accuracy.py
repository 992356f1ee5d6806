"""Accuracy against CPU seconds: train models on a zoo, one thread, and write down what they reach.

What a model may use is its column; a table has one part per column, and they are never compared
across: a model that may run the networks it reads answers another question than one that may not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
import torch

from nngraph.nn import MODELS, SineNetwork
from nngraph.tasks import TrainSettings, load_run, train
from nngraph.zoo import Zoo

KEYS = ("zoo", "column", "model", "options", "settings", "seed", "cpu_seconds_budget")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("accuracy.py", description=__doc__)
    made.add_argument(
        "--zoo", type=Path, required=True, metavar="ZOO", help="folder of the networks"
    )
    made.add_argument(
        "--model", nargs="+", default=list(MODELS), metavar="MODEL",
        help="models by name, each with options as NAME:JSON, such as 'sine:{\"probes\": 64}'",
    )  # fmt: skip
    made.add_argument(
        "--settings", default="{}", metavar="JSON",
        help="training settings other than their defaults, such as '{\"relabel\": true}'",
    )  # fmt: skip
    made.add_argument("--cpu-seconds", type=float, default=240.0, help="of training, of each model")
    made.add_argument("--seed", nargs="+", type=int, default=[0], help="one run for each")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "accuracy_mnist.csv", help="result file"
    )
    return made


def named(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME`` or ``NAME:JSON``."""
    name, _, options = text.partition(":")
    return name, json.loads(options) if options else {}


def main(argv: Sequence[str] | None = None) -> None:
    """Train every model with every seed, write a row after each, and print the tables."""
    made = parser()
    arguments = made.parse_args(argv)
    further = json.loads(arguments.settings)
    models = [named(text) for text in arguments.model]
    torch.set_num_threads(1)
    zoo = Zoo.open(arguments.zoo)
    recipe = zoo.manifest.recipe
    rows = []
    for seed in arguments.seed:
        for model, options in models:
            settings = TrainSettings(
                str(arguments.zoo), model, options, cpu_seconds=arguments.cpu_seconds, seed=seed,
                **further,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                report = train(settings, Path(folder) / "run")
                probing = how_far_a_probe(Path(folder) / "run", zoo)
            one = argparse.Namespace(**vars(arguments))
            one.model = [f"{model}:{json.dumps(options)}" if options else model]
            one.seed = [seed]
            figures = asdict(report)
            rows.append(
                {
                    "zoo": f"{recipe.get('source')}, {len(zoo)} x {zoo.architecture}",
                    "column": report.column,
                    "model": model,
                    "options": options,
                    "settings": further,
                    "seed": seed,
                    "cpu_seconds_budget": arguments.cpu_seconds,
                    "cpu_seconds": round(report.cpu_seconds, 1),
                    **{name: figures[name] for name in ("steps", "epochs", "parameters")},
                    "val_accuracy": round(report.val["accuracy"], 4),
                    "test_accuracy": round(report.test["accuracy"], 4),
                    "probing_r2": probing,
                    "psnr_db": round(float(zoo.psnr.mean()), 2),
                    "command": harness.command_line(made, one),
                    **harness.machine(),
                }
            )
            # After every run, so that an interruption loses one at most.
            harness.write_rows(arguments.out, rows, KEYS)
    print_table(harness.read_rows(arguments.out))


def how_far_a_probe(run: Path, zoo: Zoo) -> float | None:
    """Return the median R2 of ``SineNetwork.probing``: near 1, the model evaluates the networks."""
    model, _ = load_run(run)
    if not isinstance(model, SineNetwork):
        return None
    return round(float(model.probing(zoo.stack("test")[:100]).median()), 3)


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print a table for each zoo and column."""
    shown = (
        "model", "options", "settings", "seed", "cpu_seconds", "steps", "parameters",
        "val_accuracy", "test_accuracy", "probing_r2",
    )  # fmt: skip
    for zoo, column in dict.fromkeys((row["zoo"], row["column"]) for row in rows):
        part = [row for row in rows if (row["zoo"], row["column"]) == (zoo, column)]
        print(f"\n{column} ({zoo}, {part[0]['psnr_db']} dB)\n")
        print(harness.markdown(part, shown))


if __name__ == "__main__":
    main()
