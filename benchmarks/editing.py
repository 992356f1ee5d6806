"""Edits of networks of images: train editors on a zoo, one thread, and write down their errors.

The mean squared error of the edited network's image against the edited image that the network was
fitted to, at every pixel, for images in [0, 1]; beside it that of leaving the network as it is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import harness
import torch
from devices import Device

from nngraph.nn import MODELS
from nngraph.tasks import TrainSettings, train
from nngraph.zoo import Zoo

KEYS = (
    "zoo", "access", "edit", "expansion", "model", "options", "task_options", "batch_size", "ema",
    "learning_rate", "targets", "cpu_seconds_budget", "device", "seed",
)  # fmt: skip
#: How the output is made larger than one network of the given size: options of the task "edit".
EXPANSIONS = {
    "none": {},
    "copies": {"copies": 4},
    "added neurons": {"added": 128},
}
#: What is said of the whole network comes from a pass that starts as its picture.
OPTIONS = {"channels": 128, "messages": 64, "edge_channels": 0, "rounds": 0}
CONTEXT = {
    "context": "symmetric",
    "context_options": {
        "num_outputs": 256, "dropout": 0.0, "start": "grid", "functions": ["sine"],
        "channels": [144], "messages": 144,
    },
    "readout": {"hidden": 256, "scale": 0.1},
    "pixels": 196,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("editing.py", description=__doc__)
    made.add_argument(
        "--zoo", type=Path, required=True, metavar="ZOO", help="folder of the networks"
    )
    made.add_argument(
        "--data", type=Path, metavar="DATA",
        help="folder of the images that they were fitted to; default what they draw themselves",
    )  # fmt: skip
    made.add_argument("--edit", default="dilate", help="dilate, erode or contrast")
    made.add_argument(
        "--expansion", nargs="+", default=list(EXPANSIONS), choices=list(EXPANSIONS),
        help="one run for each",
    )  # fmt: skip
    made.add_argument(
        "--model", default="message-passing", choices=list(MODELS),
        help="what gives neurons their states",
    )  # fmt: skip
    made.add_argument(
        "--options", default=json.dumps(OPTIONS), metavar="JSON", help="of that model"
    )
    made.add_argument(
        "--task-options", default=json.dumps(CONTEXT), metavar="JSON",
        help="of the task, besides edit, data and those of the expansion",
    )  # fmt: skip
    made.add_argument("--cpu-seconds", type=float, default=360.0, help="of training, of each run")
    made.add_argument("--learning-rate", type=float, default=1.5e-3, help="at its highest")
    made.add_argument("--ema", type=float, help="decay of an average of the parameters")
    made.add_argument("--batch-size", type=int, default=64, help="networks per step")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--seed", nargs="+", type=int, default=[0], help="one run for each")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "editing.csv", help="result file"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Train with every expansion and seed, write a row after each, and print the table."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    zoo = Zoo.open(arguments.zoo)
    name = f"{zoo.manifest.recipe.get('source')}, {len(zoo)} x {zoo.architecture}"
    for seed in arguments.seed:
        for expansion in arguments.expansion:
            task_options = {
                **EXPANSIONS[expansion], **json.loads(arguments.task_options),
                "edit": arguments.edit, "data": arguments.data and str(arguments.data),
            }  # fmt: skip
            settings = TrainSettings(
                str(arguments.zoo), arguments.model, json.loads(arguments.options), "edit",
                task_options, cpu_seconds=arguments.cpu_seconds, seed=seed,
                learning_rate=arguments.learning_rate, ema=arguments.ema,
                batch_size=arguments.batch_size, device=arguments.device,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                report = train(settings, Path(folder) / "run")
            one = argparse.Namespace(**vars(arguments))
            one.expansion, one.seed = [expansion], [seed]
            said = {key: value for key, value in task_options.items() if key != "data"}
            row = {
                "zoo": name,
                "access": report.access,
                "edit": arguments.edit,
                "expansion": expansion,
                "model": arguments.model,
                "options": settings.options,
                "task_options": said,
                "seed": seed,
                "cpu_seconds_budget": arguments.cpu_seconds,
                "batch_size": arguments.batch_size,
                "ema": arguments.ema,
                "learning_rate": arguments.learning_rate,
                "cpu_seconds": round(report.cpu_seconds, 1),
                "device": Device(arguments.device).model,
                "steps": report.steps,
                "parameters": report.parameters,
                "val_mse_e2": _hundredths(report.val["mse"]),
                "test_mse_e2": _hundredths(report.test["mse"]),
                "unedited_mse_e2": _hundredths(report.test["mse_unedited"]),
                "targets": "drawn" if arguments.data is None else "originals",
                "zoo_psnr_db": round(float(zoo.psnr.mean()), 2),
                "command": harness.command_line(made, one),
                **harness.machine(),
            }
            # After every run, so that an interruption loses one at most.
            harness.write_rows(arguments.out, [row], KEYS)
    shown = ("access", "expansion", "seed", "cpu_seconds", "steps", "parameters", "test_mse_e2",
             "unedited_mse_e2")  # fmt: skip
    print(harness.markdown(harness.read_rows(arguments.out), shown))


def _hundredths(error: float | None) -> float | None:
    return None if error is None else round(100 * error, 3)


if __name__ == "__main__":
    main()
