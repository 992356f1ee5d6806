"""How fast populations of classifiers are made: train them, write the zoo, count per second."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import harness
import torch

from nngraph.zoo import (
    RECIPES,
    LabelledImages,
    Recipe,
    classifier_of,
    load_digits_images,
    load_idx_folder,
    train_zoo,
)

CLASSIFIERS = [name for name, recipe in RECIPES.items() if isinstance(recipe, Recipe)]
KEYS = ("source", "recipe", "runs", "steps", "threads", "cpu")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("train.py", description=__doc__)
    made.add_argument(
        "--idx", type=Path, metavar="DIR",
        help="folder with the IDX files of MNIST or Fashion-MNIST; default: scikit-learn's digits",
    )  # fmt: skip
    made.add_argument("--recipe", choices=CLASSIFIERS, default="small-cnn")
    made.add_argument("--count", type=int, default=256, help="runs")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "train.csv", help="result file")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train, check some of what is recorded, write a row and print it."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.idx is None:
        train, test = load_digits_images().divide()
    else:
        train, test = (load_idx_folder(arguments.idx, part) for part in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        zoo = train_zoo(
            Path(folder) / "zoo", train, test, recipe=arguments.recipe, count=arguments.count,
            threads=arguments.threads, progress=False,
        )  # fmt: skip
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        _, judged = LabelledImages.pair(train, test, 2000)
        for number in range(0, len(zoo), max(1, len(zoo) // 8)):
            with torch.no_grad():
                right = classifier_of(zoo, number)(judged.images).argmax(-1) == judged.labels
            found = float(zoo.fact("test_accuracy")[number])
            assert abs(float(right.float().mean()) - found) < 5e-3
        kept = RECIPES[arguments.recipe].checkpoints
        final = zoo.fact("test_accuracy").view(-1, kept)[:, -1]
        row = {
            "source": train.name,
            "recipe": arguments.recipe,
            "runs": arguments.count,
            "networks": len(zoo),
            "architectures": len(zoo.architectures),
            "steps": list(RECIPES[arguments.recipe].steps),
            "runs_per_s": round(arguments.count / wall, 2),
            "wall_s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            # Half an hour on two cores, whatever else the machine was busy with.
            "runs_per_cpu_hour": int(3600 * arguments.count / cpu),
            "final_test_accuracy_q10": round(float(final.quantile(0.1)), 3),
            "final_test_accuracy_median": round(float(final.median()), 3),
            "final_test_accuracy_q90": round(float(final.quantile(0.9)), 3),
            "diverged": int(zoo.fact("diverged").view(-1, kept)[:, -1].sum()),
            "matmul_gflops": round(harness.matmul_gflops(), 1),
            "command": harness.command_line(made, arguments),
            **harness.machine(),
        }
    harness.write_rows(arguments.out, [row], KEYS)
    columns = ("source", "recipe", "runs", "networks", "runs_per_s", "cpu_s", "runs_per_cpu_hour",
               "final_test_accuracy_median")  # fmt: skip
    print(harness.markdown([row], columns))


if __name__ == "__main__":
    main()
