"""What a training step costs: CPU time and memory of each model, next to its matrix products alone.

The same networks are read as a stack and as a ragged batch; that both give the same answers in
float64 is checked before anything is timed. A ragged batch of one architecture is read as a stack;
`mixed` rows are of networks of several architectures in one batch, next to the same networks one
architecture at a time.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# First, since it sets what torch reads when it is imported.
import harness
import torch
from products import Products
from torch.nn import functional as F

from nngraph.graph import Activation, Architecture, NeuralGraphStack, to_batch
from nngraph.nn import MODELS, Features, Metanetwork, input_features
from nngraph.testing import random_stack

KEYS = ("model", "options", "layout", "architecture", "batch", "threads", "cpu")
#: Node and edge states of 64 channels and four rounds, the size of public models of the kind.
LARGE = (
    'message-passing:{"channels": 64, "messages": 64, "edge_channels": 64, "rounds": 4}',
    'message-passing:{"channels": 64, "messages": 64, "edge_channels": 64, "rounds": 4, '
    '"checkpoint": true}',
)
#: Edges of a step at the most, unless --edges says otherwise: fewer networks where they are large.
MAX_EDGES = 2**17
#: Hidden widths of the networks of a mixed batch.
MIXED = ((24, 24), (24, 40), (32, 32), (40, 24), (48, 32), (32, 32, 32), (24, 32, 24), (64,))
SINE = Activation("sine", w0=30)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("models.py", description=__doc__)
    made.add_argument(
        "--model", nargs="+", default=[*MODELS, *LARGE], metavar="MODEL",
        type=harness.name_of(MODELS),
        help="models by name, each with options as NAME:JSON",
    )  # fmt: skip
    made.add_argument("--width", nargs="+", type=int, default=[32, 64, 128])
    made.add_argument("--depth", nargs="+", type=int, default=[3], help="affine maps per network")
    made.add_argument("--batch", type=int, default=64, help="networks per step, at the most")
    made.add_argument(
        "--edges", type=int, default=None,
        help="weights per step; their number gives that of networks in place of --batch",
    )  # fmt: skip
    made.add_argument(
        "--layout", nargs="+", choices=("stacked", "ragged", "mixed"),
        default=["stacked", "ragged"],
    )  # fmt: skip
    made.add_argument("--repeats", type=int, default=20)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "models.csv", help="result file"
    )
    return made


def training_step(model: Metanetwork, batches: Sequence[Features]) -> Callable[[], None]:
    """Return a function that takes one step of AdamW on all networks of some batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with torch.no_grad():
        labels = [torch.arange(len(model(features))) % 10 for features in batches]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for features, own in zip(batches, labels, strict=True):
            F.cross_entropy(model(features), own).backward()
        optimizer.step()

    return step


def check_agreement(model: Metanetwork, stacks: Sequence[NeuralGraphStack]) -> float:
    """Return the relative difference of stacks' and a ragged batch's answers, in float64.

    Raises:
        SystemExit: if it is more than rounding.
    """
    judged = copy.deepcopy(model).double().eval()
    stacks = [random_stack(stack.architecture, min(len(stack), 8), 0) for stack in stacks]
    with torch.no_grad():
        one = torch.cat([judged(stack) for stack in stacks])
        other = judged(to_batch([graph for stack in stacks for graph in stack]))
    error = float((one - other).abs().max() / one.abs().max())
    if not error < 1e-9:
        raise SystemExit(
            f"{type(model).__name__} on {stacks[0].architecture}: stacked and ragged answers "
            f"differ by {error:.1e}; expected less than 1e-9. Nothing was timed."
        )
    return error


def measured(
    model: Metanetwork, batches: Sequence[Features], networks: int, edges: int, repeats: int
) -> dict[str, Any]:
    """Time a step on some batches in turns with its products alone, and weigh it."""
    step = training_step(model, batches)
    step()
    products = Products.of(step)
    timing, alone = harness.measure_together([step, products.alone()], repeats)
    return {
        **timing.to_dict(),
        "networks_per_s": _digits(networks / timing.cpu_ms * 1e3),
        "us_per_edge": _digits(timing.cpu_ms * 1e3 / edges),
        "products_ms": _digits(alone.cpu_ms),
        "times_products": _digits(timing.cpu_ms / alone.cpu_ms),
        "gflops": _digits(products.operations / 1e9),
        "peak_mib": round(harness.peak_growth_mib(step), 1),
    }


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def _networks(architecture: Architecture, batch: int, edges: int | None) -> NeuralGraphStack:
    if edges is None:
        batch = min(batch, max(1, MAX_EDGES // architecture.num_edges))
    else:
        batch = max(1, edges // architecture.num_edges)
    return random_stack(architecture, batch, 0, torch.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and write every model in every layout, and print the table."""
    made = parser()
    arguments = made.parse_args(argv)
    harness.keep_memory()
    torch.set_num_threads(arguments.threads)
    rate = harness.matmul_gflops()
    rows: list[dict[str, Any]] = []

    def add(
        text: str,
        stacks: Sequence[NeuralGraphStack],
        layouts: Sequence[str],
        architecture: str,
    ) -> None:
        name, options = harness.named(text)
        torch.manual_seed(0)
        kinds = [stack.architecture for stack in stacks]
        model = MODELS[name](kinds if len(kinds) > 1 else kinds[0], 10, **options)
        error = check_agreement(model, stacks)
        graphs = to_batch([graph for stack in stacks for graph in stack])
        model.fit_statistics(graphs)
        sizes = len(graphs), sum(len(stack) * stack.architecture.num_edges for stack in stacks)
        for layout in layouts:
            # The order of edges is part of making a batch and not of a step.
            given_networks = stacks if layout in ("stacked", "apart") else [graphs]
            batches = [input_features(networks) for networks in given_networks]
            rows.append(
                {
                    "model": name,
                    "options": options,
                    "layout": layout,
                    "architecture": architecture,
                    "batch": sizes[0],
                    "edges": sizes[1],
                    **measured(model, batches, *sizes, arguments.repeats),
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "agreement": float(f"{error:.1e}"),
                    "matmul_gflops": round(rate, 1),
                    "repeats": arguments.repeats,
                    "command": harness.command_line(made, arguments),
                    **harness.machine(),
                }
            )
            harness.write_rows(arguments.out, rows[-1:], KEYS)

    plain = [layout for layout in arguments.layout if layout != "mixed"]
    for text in arguments.model:
        for width in arguments.width if plain else ():
            for depth in arguments.depth:
                architecture = Architecture.mlp([2, *[width] * (depth - 1), 1], SINE)
                stack = _networks(architecture, arguments.batch, arguments.edges)
                add(text, [stack], plain, str(architecture))
        if "mixed" in arguments.layout:
            each = max(1, arguments.batch // len(MIXED))
            kinds = [Architecture.mlp([2, *hidden, 1], SINE) for hidden in MIXED]
            stacks = [_networks(kind, each, None) for kind in kinds]
            add(text, stacks, ("mixed", "apart"), f"{len(MIXED)} MLPs")
    columns = (
        "model", "layout", "architecture", "batch", "cpu_ms", "cpu_ms_q90", "networks_per_s",
        "us_per_edge", "products_ms", "times_products", "peak_mib",
    )  # fmt: skip
    print(harness.markdown(rows, columns))


if __name__ == "__main__":
    main()
