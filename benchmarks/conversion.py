"""How fast networks become graphs and come back: MLPs by the second, large networks at once."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import (
    permutation_spec,
    stacked_to_graphs,
    to_architecture,
    to_graph,
    to_module,
    to_state_dict,
)

KEYS = ("what", "network", "cpu")


class Block(nn.Module):
    """A transformer block as GPT-2 has it: fused query, key and value, and a GELU of 4 widths."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same."""
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Blocks between an embedding and a head that is tied to it."""

    def __init__(self, depth: int, width: int, heads: int, tokens: int = 50257) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``[batch, tokens]`` to logits."""
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self, wide: int, inner: int, out: int, stride: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(wide, inner, 1, bias=False),
                nn.Conv2d(inner, inner, 3, stride, 1, bias=False),
                nn.Conv2d(inner, out, 1, bias=False),
            ]
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (inner, inner, out))
        same = wide == out and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, wide, *]`` to ``[batch, out, *]``."""
        y = torch.relu(self.norms[0](self.convs[0](x)))
        y = torch.relu(self.norms[1](self.convs[1](y)))
        return torch.relu(self.short(x) + self.norms[2](self.convs[2](y)))


def resnet(width: int = 64) -> nn.Module:
    """Return a ResNet-50 of a width: that of the paper has 64, and 25 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3), nn.BatchNorm2d(width), nn.ReLU(),
                               nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    wide = width
    for stage, count in enumerate((3, 4, 6, 3)):
        inner = width * 2**stage
        for i in range(count):
            layers.append(Bottleneck(wide, inner, 4 * inner, 2 if stage and not i else 1))
            wide = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 1000))


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("conversion.py", description=__doc__)
    made.add_argument("--count", type=int, default=2000, help="MLPs of the stack")
    made.add_argument("--width", type=int, default=32, help="of both hidden layers of an MLP")
    made.add_argument("--repeats", type=int, default=20)
    made.add_argument("--depths", type=int, nargs="+", default=[8, 16, 32, 64], help="of blocks")
    made.add_argument("--large", type=int, default=128, help="width of the ResNet-50")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "conversion.csv")
    return made


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are one, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def mlps(count: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """Check the way there and back bit by bit, then time it, per network."""
    module = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                           nn.Linear(width, 1))  # fmt: skip
    shapes = [(width, 2), (width, width), (1, width)]
    weights = [torch.randn(count, *shape) for shape in shapes]
    biases = [torch.randn(count, shape[0]) for shape in shapes]
    graph, state = to_graph(module), module.state_dict()
    stack = stacked_to_graphs(weights, biases, "relu")
    again = [stack.parameters()[f"{i}.{kind}"] for kind in ("weight", "bias") for i in range(3)]
    if not (
        same(to_state_dict(graph), state)
        and same(to_module(graph).state_dict(), state)
        and same(to_state_dict(to_graph(to_module(graph))), state)
        and all(torch.equal(a, b) for a, b in zip(again, [*weights, *biases], strict=True))
    ):
        raise SystemExit("a network did not come back bit by bit. Nothing was timed.")
    made = to_graph(module)
    _ = made.x
    timed: dict[str, tuple[Callable[[], object], int]] = {
        "stacked weights to a stack": (lambda: stacked_to_graphs(weights, biases, "relu"), count),
        "to_graph, one module": (lambda: to_graph(module), 1),
        "to_graph, and its tensors made": (lambda: to_graph(module).x, 1),
        "to_state_dict, one graph": (lambda: to_state_dict(made), 1),
        "to_module, one graph": (lambda: to_module(made), 1),
    }
    rows = []
    for what, (function, networks) in timed.items():
        timing = harness.measure(function, repeats)
        rows.append(
            {
                "what": what, "network": f"2-{width}-{width}-1", "networks": networks,
                "networks_per_s": round(networks / timing.cpu_ms * 1e3, 1), **timing.to_dict(),
            }
        )  # fmt: skip
    return rows


def seconds(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a function gives, and the CPU and wall seconds it takes; once, as it is slow."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = function()
    return found, time.process_time() - cpu, time.perf_counter() - wall


def large(width: int) -> list[dict[str, Any]]:
    """Convert large networks, check that nothing was copied and that all of it comes back."""
    rows = []
    networks: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        f"ResNet-50 of width {width}": (lambda: resnet(width), torch.randn(1, 3, 64, 64)),
        "GPT-2, 12 blocks of 768": (
            lambda: Transformer(12, 768, 12), torch.zeros(1, 8, dtype=torch.long)
        ),
    }  # fmt: skip
    for name, (make, inputs) in networks.items():
        module = make().eval()
        graph, cpu, wall = seconds(lambda m=module, x=inputs: to_graph(m, x))
        state = module.state_dict()
        held = graph.parameters()
        if not same(to_state_dict(graph), dict(state)) or any(
            held[name].data_ptr() != state[name].data_ptr() for name in held
        ):
            raise SystemExit(f"{name} did not come back bit by bit, or was copied.")
        with torch.device("meta"):
            empty, shape = make().eval(), inputs.to("meta")
        on_meta, meta_cpu, _ = seconds(lambda m=empty, x=shape: to_architecture(m, x))
        if on_meta != graph.architecture:
            raise SystemExit(f"{name} has another architecture on the meta device.")
        size = {"parameters": sum(v.numel() for v in held.values()), "networks": 1}
        rows += [
            {"what": "to_graph, traced", "network": name, **size, "networks_per_s": None,
             "cpu_ms": round(cpu * 1e3), "wall_ms": round(wall * 1e3),
             "edges": graph.architecture.num_edges},
            {"what": "to_architecture on the meta device", "network": name, **size,
             "cpu_ms": round(meta_cpu * 1e3)},
        ]  # fmt: skip
    return rows


def depths(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Time the derivation against depth; ``times_linear`` compares with the first depth."""
    rows: list[dict[str, Any]] = []
    tokens = torch.zeros(1, 8, dtype=torch.long, device="meta")
    for depth in (counts[0], *counts):  # the first is a warm-up
        with torch.device("meta"):
            module = Transformer(depth, 64, 4, 100).eval()
        spec, cpu, wall = seconds(lambda m=module: permutation_spec(m, tokens, strict=True))
        if len(spec.spaces) != 1 + 4 * depth:
            raise SystemExit(f"{depth} blocks have {len(spec.spaces)} spaces; nothing was written.")
        per_block = cpu / depth
        rows.append(
            {"what": "permutation_spec against depth", "network": f"{depth} transformer blocks",
             "cpu_ms": round(cpu * 1e3), "wall_ms": round(wall * 1e3), "per_block": per_block}
        )  # fmt: skip
    rows = rows[1:]
    for row in rows:
        row["times_linear"] = round(row["per_block"] / rows[0]["per_block"], 2)
    return [{k: v for k, v in row.items() if k != "per_block"} for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time, write rows and print them."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rows = mlps(arguments.count, arguments.width, arguments.repeats)
    if arguments.large:
        rows += large(arguments.large)
    rows += depths(arguments.depths)
    end = {"command": harness.command_line(made, arguments), **harness.machine()}
    rows = [{**row, **end} for row in rows]
    harness.write_rows(arguments.out, rows, KEYS)
    print(harness.markdown(rows, ("what", "network", "networks_per_s", "cpu_ms", "times_linear")))


if __name__ == "__main__":
    main()
