"""Barriers between networks trained apart, before their neurons are matched and after.

Trains pairs of MLPs on MNIST from different seeds, and tells how far the loss on test images rises
on the straight path between the two: as they are, and after each way of matching. First it checks
that each way finds a relabelling that was planted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import to_graph
from nngraph.alignment import (
    Alignment,
    Loss,
    barrier,
    data_loss,
    distance,
    interpolate,
    match_activations,
    match_sinkhorn,
    match_weights,
    run,
)
from nngraph.graph import NeuralGraph, Symmetry
from nngraph.zoo.images.idx import load_idx_folder

KEYS = ("task", "widths", "activation", "images", "steps", "seeds", "method")
#: Steps of the descent on soft permutations, on the loss midway.
SINKHORN_STEPS = 60
#: Images that activations are compared on, and that a step on soft permutations sees.
SEEN = 2000


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="alignment.py", description=__doc__)
    made.add_argument("--idx", type=Path, required=True, metavar="DIR", help="IDX files of MNIST")
    made.add_argument("--widths", type=int, nargs="+", default=[256, 256], help="hidden layers")
    made.add_argument("--activation", choices=["relu", "tanh"], default="relu")
    made.add_argument("--images", type=int, default=10000, help="to train on")
    made.add_argument("--test-images", type=int, default=10000, help="that losses are taken on")
    made.add_argument("--steps", type=int, default=500, help="of AdamW, 128 images each")
    made.add_argument("--pairs", type=int, default=1, help="pairs of networks")
    made.add_argument("--out", type=Path, default=harness.RESULTS / "alignment.csv")
    return made


def trained(
    images: Tensor, labels: Tensor, widths: Sequence[int], activation: str, steps: int, seed: int
) -> NeuralGraph:
    """Train an MLP; its initial weights and the order of its images follow from the seed."""
    torch.manual_seed(seed)
    function = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    layers: list[nn.Module] = []
    for before, after in pairwise([images.shape[1], *widths]):
        layers += [nn.Linear(before, after), function()]
    module = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,))
        optimizer.zero_grad()
        F.cross_entropy(module(images[batch]), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return to_graph(module)


def ways(
    images: Tensor, labels: Tensor
) -> dict[str, Callable[[NeuralGraph, NeuralGraph], Alignment]]:
    """Return the ways of matching."""

    def midway(a: NeuralGraph, b: NeuralGraph) -> Alignment:
        start = match_weights(a, b).relabelling
        return match_sinkhorn(
            a, b, data_loss(images, labels), start=start, steps=SINKHORN_STEPS, iterations=10
        )

    return {
        "weights": match_weights,
        "activations": lambda a, b: match_activations(a, b, images),
        "sinkhorn on the loss midway": midway,
    }


def check(
    network: NeuralGraph, found: Callable[[NeuralGraph, NeuralGraph], Alignment], loss: Loss
) -> None:
    """Check that a relabelling of the network is undone, as far as the loss shows.

    Neurons that are silent on all images may stand for one another, and a matching by the loss may
    find a better middle than the network itself: so the loss midway must not be above its own.
    """
    other = Symmetry(network.architecture).sample(0).act_on_graph(network)
    middle = interpolate(network, found(network, other).apply(other), 0.5)
    with torch.no_grad():
        if float(loss(middle)) > (1 + 1e-3) * float(loss(network)):
            raise SystemExit("A planted relabelling was not undone. Nothing was measured.")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, match, write a row for each way, and print the table."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    train = load_idx_folder(arguments.idx, "train")
    test = load_idx_folder(arguments.idx, "test")
    images, test_images = (
        source.images[:count].flatten(1).float() / 255
        for source, count in ((train, arguments.images), (test, arguments.test_images))
    )
    labels, test_labels = train.labels[: len(images)], test.labels[: len(test_images)]
    loss = data_loss(test_images, test_labels)
    pairs = [
        tuple(
            trained(images, labels, arguments.widths, arguments.activation, arguments.steps, seed)
            for seed in (2 * number, 2 * number + 1)
        )
        for number in range(arguments.pairs)
    ]
    methods = ways(images[:SEEN], labels[:SEEN])
    for found in methods.values():
        check(pairs[0][0], found, data_loss(images[:SEEN], labels[:SEEN]))
    accuracies = [
        float((run(network, test_images).argmax(-1) == test_labels).double().mean())
        for pair in pairs for network in pair
    ]  # fmt: skip
    rows = []
    for name, found in {"none": None, **methods}.items():
        heights, apart, seconds = [], [], []
        for a, b in pairs:
            start = time.process_time()
            aligned = b if found is None else found(a, b).apply(b)
            seconds.append(time.process_time() - start)
            heights.append(barrier(a, aligned, loss, torch.linspace(0, 1, 11).tolist()).height)
            apart.append(distance(a, aligned))
        height = torch.tensor(heights)
        rows.append(
            {
                "task": "mnist",
                "widths": "-".join(map(str, arguments.widths)),
                "activation": arguments.activation,
                "images": len(images),
                "steps": arguments.steps,
                "seeds": arguments.pairs,
                "method": name,
                "barrier": _figures(float(height.mean())),
                "barrier_worst": _figures(float(height.max())),
                "distance": _figures(sum(apart) / len(apart)),
                "test_accuracy": _figures(sum(accuracies) / len(accuracies)),
                "cpu_s": _figures(sum(seconds) / len(seconds)),
                "command": harness.command_line(made, arguments),
                **harness.machine(),
            }
        )
    harness.write_rows(arguments.out, rows, KEYS)
    shown = [*KEYS, "barrier", "barrier_worst", "distance", "test_accuracy", "cpu_s"]
    print(harness.markdown(harness.read_rows(arguments.out), shown))


def _figures(value: float) -> Any:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
