"""Accuracy of a pruned residual network, beside that of Torch-Pruning with the same kind of scores.

Trains a network shaped like ResNet-20 on MNIST, makes it smaller to a share of its floating-point
operations by the norm of all weights that count a channel, in one order over all layers, and trains
what is left on for the same few steps. Of nngraph's networks it is checked that channels removed
and channels masked are one function. Torch-Pruning is installed for this alone.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from converters import permutation_spec
from nngraph.pruning import first_order_scores, load_pruned, prune, save_pruned
from nngraph.zoo.images.idx import load_idx_folder

KEYS = ("width", "seed", "method")
BATCH = 128


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="pruning.py", description=__doc__)
    made.add_argument("--idx", type=Path, required=True, metavar="DIR", help="IDX files of MNIST")
    made.add_argument("--width", type=int, default=8, help="channels of the first stage")
    made.add_argument("--flops", type=float, default=0.5, help="share that may stay")
    made.add_argument("--images", type=int, default=6000, help="to train on")
    made.add_argument("--steps", type=int, default=80, help="of AdamW, 128 images each")
    made.add_argument("--more-steps", type=int, default=30, help="after neurons were removed")
    made.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "pruning.csv")
    return made


class Block(nn.Module):
    """Two convolutions with batch norm, and a skip connection."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        stride = 1 if narrow == wide else 2
        self.one = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(wide), nn.BatchNorm2d(wide)
        self.skip = nn.Sequential() if stride == 1 else nn.Sequential(
            nn.Conv2d(narrow, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the next block."""
        inner = self.norm_two(self.two(self.norm_one(self.one(x)).relu()))
        return (inner + self.skip(x)).relu()


def network(width: int) -> nn.Module:
    """Return a network shaped like ResNet-20: three stages of three blocks."""
    widths = [width, *(width * 2**stage for stage in range(3) for _ in range(3))]
    blocks = [Block(*pair) for pair in itertools.pairwise(widths)]
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10),
    )  # fmt: skip


def images(folder: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return images of half the side, so that a run takes minutes, and their classes."""
    source = load_idx_folder(folder, split)
    pixels = torch.as_tensor(source.images[:count]).movedim(-1, 1).float() / 255
    return F.avg_pool2d(pixels, 2), torch.as_tensor(source.labels[:count]).long()


def train(module: nn.Module, data: tuple[Tensor, Tensor], steps: int, seed: int) -> None:
    """Train a network in place."""
    optimiser = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, max(steps, 2))
    generator = torch.Generator().manual_seed(seed)
    module.train()
    for _ in range(steps):
        index = torch.randint(len(data[0]), (BATCH,), generator=generator)
        optimiser.zero_grad()
        F.cross_entropy(module(data[0][index]), data[1][index]).backward()
        optimiser.step()
        schedule.step()
    module.eval()


@torch.no_grad()
def accuracy(module: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the share of images whose class it tells."""
    told = torch.cat([module(part).argmax(1) for part in data[0].split(1000)])
    return round(float((told == data[1]).double().mean()), 4)


def flops_of(module: nn.Module, image: Tensor) -> int:
    """Return the floating-point operations of a forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(image)
    return int(counter.get_total_flops())


def by_nngraph(
    module: nn.Module, data: tuple[Tensor, Tensor], share: float, importance: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a smaller copy, by norm or by importance on data."""
    image = data[0][:1]
    spec = permutation_spec(module, image)
    scores: Any = "norm"
    if importance:
        batches = list(zip(data[0][:2000].split(BATCH), data[1][:2000].split(BATCH), strict=True))
        scores = first_order_scores(
            spec, module, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches
        )
    pruned = prune(module, image, flops=share, scores=scores, spec=spec)
    smaller = copy.deepcopy(module)
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(pruned, Path(folder) / "pruned.safetensors")
        load_pruned(smaller, Path(folder) / "pruned.safetensors", image)
    return smaller, {"law_error": pruned.error}


def by_torch_pruning(
    module: nn.Module, data: tuple[Tensor, Tensor], share: float
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a smaller copy by Torch-Pruning's group norm, in steps until the share is met."""
    import torch_pruning

    smaller, image = copy.deepcopy(module), data[0][:1]
    pruner = torch_pruning.pruner.BasePruner(
        smaller, image, torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True, pruning_ratio=0.95, max_pruning_ratio=0.95, iterative_steps=200,
        ignored_layers=[layer for layer in smaller.modules() if isinstance(layer, nn.Linear)],
    )  # fmt: skip
    budget = share * flops_of(module, image)
    for _ in range(200):
        if flops_of(smaller, image) <= budget:
            break
        pruner.step()
    return smaller, {}


#: How channels are removed.
METHODS: dict[str, Callable[..., tuple[nn.Module, dict[str, Any]]]] = {
    "nngraph, norm": partial(by_nngraph, importance=False),
    "nngraph, importance": partial(by_nngraph, importance=True),
    "Torch-Pruning, norm": by_torch_pruning,
}


def judge(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Train, prune in every way, and train on; return the rows."""
    torch.manual_seed(seed)
    data = images(arguments.idx, "train", arguments.images)
    test = images(arguments.idx, "test", 10000)
    module = network(arguments.width)
    train(module, data, arguments.steps, seed)
    whole = flops_of(module, data[0][:1])
    rows = []
    for method, smaller_by in METHODS.items():
        smaller, more = smaller_by(module, data, arguments.flops)
        before = accuracy(smaller, test)
        train(smaller, data, arguments.more_steps, seed)
        if "law_error" in more:
            more["law_error"] = float(f"{more['law_error']:.1e}")
        rows.append({
            "width": arguments.width, "seed": seed, "method": method, "flops": arguments.flops,
            "images": arguments.images, "steps": arguments.steps,
            "more_steps": arguments.more_steps, "whole_accuracy": accuracy(module, test),
            "pruned_accuracy": before, "accuracy": accuracy(smaller, test),
            "flops_share": round(flops_of(smaller, data[0][:1]) / whole, 3),
            "parameters_share": round(
                sum(p.numel() for p in smaller.parameters())
                / sum(p.numel() for p in module.parameters()), 3
            ),
            **more,
        })  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all seeds, write the rows and print them."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    facts = harness.machine() | {"command": harness.command_line(made, arguments)}
    for seed in arguments.seed:
        rows = judge(arguments, seed)
        harness.write_rows(arguments.out, [row | facts for row in rows], KEYS)
        print(harness.markdown(rows, [*KEYS, *list(rows[0])[7:]]), flush=True)


if __name__ == "__main__":
    main()
