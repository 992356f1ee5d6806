"""What a training step costs: CPU time and memory of each model, next to its matrix products alone.

The same networks are read as a stack and as a ragged batch; that both give the same answers in
float64 is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nngraph.graph import Activation, Architecture
from nngraph.nn import MODELS, Features, Metanetwork, input_features
from nngraph.testing import random_stack

KEYS = ("model", "options", "layout", "architecture", "batch", "threads", "cpu")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("models.py", description=__doc__)
    made.add_argument(
        "--model", nargs="+", default=list(MODELS), metavar="MODEL",
        help="models by name, each with options as NAME:JSON",
    )  # fmt: skip
    made.add_argument("--width", nargs="+", type=int, default=[32, 64, 128])
    made.add_argument("--batch", type=int, default=64, help="networks per step")
    made.add_argument("--repeats", type=int, default=20)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "models.csv", help="result file"
    )
    return made


def training_step(
    model: Metanetwork, features: Features, labels: torch.Tensor
) -> Callable[[], None]:
    """Return a function that takes one step of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(features), labels).backward()
        optimizer.step()

    return step


def check_agreement(model: Metanetwork, batch: int, architecture: Architecture) -> float:
    """Return the relative difference of a stack's and a ragged batch's answers, in float64.

    Raises:
        SystemExit: if it is more than rounding.
    """
    judged = copy.deepcopy(model).double().eval()
    networks = random_stack(architecture, batch, 0)
    with torch.no_grad():
        one, other = judged(networks), judged(networks.to_batch())
    error = float((one - other).abs().max() / one.abs().max())
    if not error < 1e-9:
        raise SystemExit(
            f"{type(model).__name__} on {architecture}: stacked and ragged answers differ by "
            f"{error:.1e}; expected less than 1e-9. Nothing was timed."
        )
    return error


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and write every model in both layouts, and print the table."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rate = harness.matmul_gflops()
    rows: list[dict[str, Any]] = []
    for text in arguments.model:
        name, _, given = text.partition(":")
        options = json.loads(given) if given else {}
        for width in arguments.width:
            architecture = Architecture.mlp([2, width, width, 1], Activation("sine", w0=30))
            torch.manual_seed(0)
            model = MODELS[name](architecture, 10, **options)
            error = check_agreement(model, min(arguments.batch, 8), architecture)
            networks = random_stack(architecture, arguments.batch, 0, torch.float32)
            labels = torch.arange(arguments.batch) % 10
            model.fit_statistics(networks)
            for layout in ("stacked", "ragged"):
                given_networks = networks if layout == "stacked" else networks.to_batch()
                # The order of edges is part of making a batch and not of a step.
                step = training_step(model, input_features(given_networks), labels)
                timing = harness.measure(step, arguments.repeats)
                with FlopCounterMode(display=False) as counter:
                    step()
                products = counter.get_total_flops() / (rate * 1e6)
                memory = harness.peak_growth_mib(step)
                rows.append(
                    {
                        "model": name,
                        "options": options,
                        "layout": layout,
                        "architecture": str(architecture),
                        "batch": arguments.batch,
                        **timing.to_dict(),
                        "products_ms": float(f"{products:.4g}"),
                        "times_products": float(f"{timing.wall_ms / products:.3g}"),
                        "peak_mib": None if memory is None else round(memory, 1),
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "agreement": float(f"{error:.1e}"),
                        "matmul_gflops": round(rate, 1),
                        "repeats": arguments.repeats,
                        "command": harness.command_line(made, arguments),
                        **harness.machine(),
                    }
                )
    harness.write_rows(arguments.out, rows, KEYS)
    print(
        harness.markdown(
            rows,
            ("model", "layout", "architecture", "cpu_ms", "cpu_ms_q90", "products_ms",
             "times_products", "peak_mib"),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
