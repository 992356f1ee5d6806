"""Width transfer: a model trained on narrow networks reads wide ones, option by option.

SIRENs of one width are fitted to the 8 x 8 digits of scikit-learn, and message passing learns to
name the digit. It is then asked about digits that it has not seen, as SIRENs of this and of larger
widths, with means in place of sums, scales that know the fan-in, and a layer-wise read-out, each
added to those before. A few minutes of one core; `--figure` draws the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from torch.nn import functional as F

from nngraph.datasets import CanonicaliseSines, InputMotion
from nngraph.graph import NeuralGraphStack
from nngraph.nn import MessagePassingNetwork
from nngraph.zoo import FitSettings, load_digits_images, siren_architecture
from nngraph.zoo.fitting.fit import fit_images

KEYS = ("options", "width", "trained_width", "epochs")
#: Sums and a scale per tensor alone, and what is added to them, in turn.
OPTIONS: dict[str, dict[str, Any]] = {
    "sums": {"pooling": "sum"},
    "+ means": {},
    "+ fan-in": {"encoder": {"fan_in": True}},
    "+ layer-wise": {"encoder": {"fan_in": True}, "readout": {"layerwise": True}},
}
#: The model knows no symmetry of sines.
CANONICAL = CanonicaliseSines()


def fitted(width: int, part: slice, steps: int, seed: int) -> tuple[NeuralGraphStack, float]:
    """Fit networks to a part of the digits; also their mean PSNR in dB."""
    source = load_digits_images()
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[part]
    architecture = siren_architecture([2, width, width, 1], w0=10.0)
    found = fit_images(architecture, source.targets(order), FitSettings(steps=steps, seed=seed))
    stack = NeuralGraphStack.from_parameters(
        architecture, found.parameters, y=source.labels[order]
    )
    return CANONICAL(stack), float(found.psnr.mean())


def trained(
    networks: NeuralGraphStack, options: dict[str, Any], epochs: int, seed: int
) -> MessagePassingNetwork:
    """Train a small model to name the digit."""
    torch.manual_seed(seed)
    model = MessagePassingNetwork(
        networks.architecture, 10, channels=48, messages=32, edge_channels=6, hidden=96,
        dropout=0.2, **options,
    )  # fmt: skip
    model.fit_statistics(networks)
    steps = epochs * max(len(networks) // 64, 1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    motion, labels = InputMotion(), networks.y
    assert labels is not None
    for _ in range(steps):
        rows = torch.randperm(len(networks))[:64]
        optimizer.zero_grad()
        F.cross_entropy(model(CANONICAL(motion(networks[rows]))), labels[rows]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: MessagePassingNetwork, networks: NeuralGraphStack) -> float:
    """Return the share of networks whose digit the model names."""
    return float((model(networks).argmax(-1) == networks.y).double().mean())


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy over the width of the networks, one line per set of options."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for options in dict.fromkeys(row["options"] for row in rows):
        own = [row for row in rows if row["options"] == options]
        widths = [row["width"] for row in own]
        axes.plot(widths, [float(row["accuracy"]) for row in own], "o-", label=options)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set(xlabel="width of the networks that are read", ylabel="test accuracy", ylim=(0, 1))
    axes.set_title(f"trained on width {rows[0]['trained_width']}", fontsize="medium")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("width_transfer.py", description=__doc__)
    made.add_argument("--widths", nargs="+", type=int, default=[16, 32, 64], help="first: trained")
    made.add_argument("--count", type=int, default=1397, help="of networks to train on")
    made.add_argument("--fit-steps", type=int, default=200)
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "width_transfer.csv")
    made.add_argument("--figure", type=Path, help="PNG")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the rows."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    first, steps = arguments.widths[0], arguments.fit_steps
    networks, _ = fitted(first, slice(arguments.count), steps, arguments.seed)
    tests = {
        width: fitted(width, slice(1397, 1797), steps, arguments.seed + 1 + i)
        for i, width in enumerate(arguments.widths)
    }
    rows = []
    for name, options in OPTIONS.items():
        model = trained(networks, options, arguments.epochs, arguments.seed)
        rows += [
            {
                "options": name,
                "width": width,
                "trained_width": first,
                "epochs": arguments.epochs,
                "accuracy": f"{accuracy(model, stack):.4f}",
                "psnr_db": f"{psnr:.1f}",
                "networks": len(stack),
                "command": harness.command_line(made, arguments),
                **harness.machine(),
            }
            for width, (stack, psnr) in tests.items()
        ]
    print(harness.markdown(rows, ("options", "width", "accuracy", "psnr_db")))
    harness.write_rows(arguments.out, rows, KEYS)
    if arguments.figure is not None:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
