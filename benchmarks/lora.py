"""Reading adapters: in which style of images one was trained, by its factors or by their product.

A population of adapters of one small transformer is trained (`nngraph zoo train --recipe lora`).
Models learn the style from adapters of ranks 2 and 4 that did not see the last class, and are asked
about others of these, about rank 8 and about adapters that saw the last class, as they were trained
and moved: a random matrix of the given condition between the factors of each product, which changes
no adapter's function. `flat` reads the factors in a row, `product` all products B A in a row,
`canonical tokens` is message passing on the balanced form. About ten minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import canonicalise, symmetry_spec
from converters.populations import LowRankPairs
from converters.symmetry import SymmetrySpec
from nngraph.graph import Architecture, NeuralGraphStack, low_rank_pairs, sample_gauges
from nngraph.nn import FlatNetwork, LowRankNetwork, MessagePassingNetwork, mlp
from nngraph.zoo import STYLES, Zoo, load_digits_images, load_train_and_test, train_zoo

KEYS = ("model", "source", "condition", "seed")
Stacks = list[NeuralGraphStack]
#: ranks of which models learn
TRAINED = (2, 4)
AUGMENTED = 10.0


class ProductNetwork(nn.Module):
    """An MLP on all products B A in a row, 0 where an adapter has none."""

    def __init__(self, architectures: Sequence[Architecture], num_outputs: int) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        for own in architectures:
            shapes = {p.name: p.shape for p in own.parameters}
            for pair in low_rank_pairs(own):
                self.sizes[pair.down] = shapes[pair.up][0] * shapes[pair.down][1]
        self.readout = mlp([sum(self.sizes.values()), 256, 256, num_outputs], 0.2)
        self.register_buffer("scale", torch.ones(()))

    def fit_statistics(self, networks: Stacks) -> None:
        """Set the scale of all entries."""
        self.scale = torch.cat([self.rows(stack) for stack in networks]).square().mean().sqrt()

    def rows(self, stack: NeuralGraphStack) -> Tensor:
        """Return the products."""
        values, found = stack.parameters(), {}
        for pair in low_rank_pairs(stack.architecture):
            up, down = pair.factors(values)
            found[pair.down] = (up @ down).flatten(1)
        return torch.cat(
            [found.get(n, torch.zeros(len(stack), size)) for n, size in self.sizes.items()], 1
        )

    def forward(self, networks: Stacks) -> Tensor:
        """Return logits."""
        return torch.cat([self.readout(self.rows(stack) / self.scale) for stack in networks])


def moved(stack: NeuralGraphStack, condition: float, seed: int | None = None) -> NeuralGraphStack:
    """Put random matrices between factors."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    values = sample_gauges(stack.architecture, stack.parameters(), condition, generator)
    return stack.with_parameters(values)


@cache
def derived(architecture: Architecture) -> SymmetrySpec:
    """Derive the symmetry of adapters of an architecture."""
    module = LowRankPairs({p.name: torch.zeros(p.shape) for p in architecture.parameters})
    module.to_empty(device="cpu")
    inputs = tuple(x.new_zeros(x.shape, device="cpu") for x in module.example_inputs())
    return symmetry_spec(module, inputs)


def canonical(stacks: Stacks) -> Stacks:
    """Bring adapters to their canonical form."""
    return [canonicalise(stack, derived(stack.architecture)) for stack in stacks]


def read(zoo: Zoo, chosen: Tensor) -> Stacks:
    """Return chosen adapters with their styles, a stack for each architecture."""
    places: dict[Architecture, list[int]] = {}
    for number in torch.nonzero(chosen).flatten().tolist():
        places.setdefault(zoo.network(number).architecture, []).append(number)
    return [
        NeuralGraphStack.from_parameters(
            architecture,
            {
                name: torch.stack([zoo.network(i).parameters()[name] for i in numbers])
                for name in zoo.network(numbers[0]).parameters()
            },
            zoo.fact("style")[numbers],
        )
        for architecture, numbers in places.items()
    ]


def trained(
    model: nn.Module, stacks: Stacks, epochs: int, seed: int, augment: bool = False
) -> nn.Module:
    """Train a model to name the style."""
    torch.manual_seed(seed)
    model.fit_statistics(stacks)
    order = torch.tensor([i for i, own in enumerate(stacks) for _ in range(len(own) // 32 or 1)])
    steps = epochs * len(order)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for place in order[torch.randperm(len(order))].tolist():
            stack = stacks[place]
            batch = stack[torch.randperm(len(stack))[:32]]
            given = moved(batch, AUGMENTED) if augment else batch
            optimiser.zero_grad()
            F.cross_entropy(model([given]), batch.y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, stacks: Stacks) -> float:
    """Return the share of adapters whose style a model names."""
    right = [(model([stack]).argmax(-1) == stack.y).float() for stack in stacks]
    return float(torch.cat(right).mean()) if right else math.nan


def models(architectures: Sequence[Architecture]) -> dict[str, Callable[[], nn.Module]]:
    """Return the models by name."""
    styles = len(STYLES)
    return {
        "low-rank": lambda: LowRankNetwork(architectures, styles),
        "canonical tokens": lambda: MessagePassingNetwork(
            architectures, styles, channels=32, messages=24, edge_channels=4, hidden=64,
        ),
        "flat": lambda: FlatNetwork(architectures, styles, hidden=256),
        "flat, random GL": lambda: FlatNetwork(architectures, styles, hidden=256),
        "product": lambda: ProductNetwork(architectures, styles),
    }  # fmt: skip


def population(path: Path, arguments: argparse.Namespace) -> Zoo:
    """Train the adapters."""
    if arguments.idx is None:
        whole = load_digits_images()
        seen, judged = whole.take(1400), whole
    else:
        seen, judged = load_train_and_test("mnist", [str(arguments.idx)])
    steps = None if arguments.steps is None else tuple(arguments.steps)
    return train_zoo(
        path, seen, judged, recipe="lora", count=arguments.count, steps=steps, max_test=1000,
        seed=arguments.seed, threads=1, progress=False, splits=(0.7, 0.0, 0.3),
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("lora.py", description=__doc__)
    made.add_argument("--idx", type=Path, metavar="DIR", help="IDX files; default: digits of 8 x 8")
    made.add_argument("--count", type=int, default=600, help="adapters")
    made.add_argument("--steps", type=int, nargs=2, help="fewest and most of an adapter")
    made.add_argument("--epochs", type=int, default=40)
    made.add_argument("--condition", type=float, default=100.0, help="of what moves adapters")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "lora.csv")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the rows."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        zoo = population(Path(folder) / "zoo", arguments)
        last = zoo.fact("classes") >> 9 & 1 == 1
        known = torch.isin(zoo.fact("rank"), torch.tensor(TRAINED))
        test = zoo.split == 2
        sets = {
            "train": read(zoo, known & ~last & ~test), "test": read(zoo, known & ~last & test),
            "new_rank": read(zoo, ~known & ~last), "new_data": read(zoo, known & last),
        }  # fmt: skip
        told = float(zoo.fact("test_accuracy").mean())
        source, architectures = zoo.manifest.recipe["source"], zoo.architectures
    for name in ("test", "new_rank", "new_data"):
        sets[f"{name}_moved"] = [moved(s, arguments.condition, 1) for s in sets[name]]
    rows = []
    for name, build in models(architectures).items():
        given = {k: canonical(s) for k, s in sets.items()} if name == "canonical tokens" else sets
        torch.manual_seed(arguments.seed)
        start = time.process_time()
        model = trained(
            build(), given["train"], arguments.epochs, arguments.seed, name == "flat, random GL"
        )
        seconds = time.process_time() - start
        found = {k: f"{accuracy(model, s):.4f}" for k, s in given.items() if k != "train"}
        rows.append({
            "model": name, "source": source, "condition": arguments.condition,
            "seed": arguments.seed, **found, "train_cpu_s": f"{seconds:.1f}",
            "adapters": arguments.count, "trained_on": sum(map(len, sets["train"])),
            "epochs": arguments.epochs, "adapter_accuracy": f"{told:.4f}",
            "command": harness.command_line(made, arguments), **harness.machine(),
        })  # fmt: skip
        print(rows[-1]["model"], found, flush=True)
    columns: tuple[str, ...] = ("model", *(k for k in sets if k != "train"))
    print(harness.markdown(rows, columns))
    harness.write_rows(arguments.out, rows, KEYS)


if __name__ == "__main__":
    main()
