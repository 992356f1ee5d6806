"""Activations at the start: do features keep their size through stacks of equivariant layers?

Normal features pass through 2 to 32 layers with fresh weights; the root mean square that comes out
of node and edge features is told, over several draws. It should stay near 1 at any depth of the
stack and of the networks that are read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import harness
import torch

from nngraph.graph import Architecture
from nngraph.nn import EquivariantLinear
from nngraph.testing import random_features

KEYS = ("widths", "function", "stack_depth")
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh}


def sizes_after(
    architecture: Architecture, function: str, depths: list[int], channels: int, draws: int
) -> dict[int, tuple[float, float]]:
    """Return the root mean square of node and edge features after each number of layers."""
    held = torch.zeros(architecture.num_nodes, dtype=torch.bool)
    for column in architecture.columns:
        held[column.start : column.stop] = True
    layer = EquivariantLinear(architecture, channels, channels)
    gain = torch.nn.init.calculate_gain(function)
    total = {depth: torch.zeros(2) for depth in depths}
    with torch.no_grad():
        for draw in range(draws):
            torch.manual_seed(draw)
            x, e = random_features(architecture, 2, channels, channels, draw, torch.float32)
            for depth in range(1, max(depths) + 1):
                layer.reset_parameters(gain)
                x, e = layer(FUNCTIONS[function](x), FUNCTIONS[function](e))
                if depth in total:
                    total[depth] += torch.stack([x[:, held].square().mean(), e.square().mean()])
    return {
        depth: (float(power[0] / draws) ** 0.5, float(power[1] / draws) ** 0.5)
        for depth, power in total.items()
    }


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("initialisation.py", description=__doc__)
    made.add_argument("--stack", nargs="+", type=int, default=[2, 4, 8, 16, 32], metavar="DEPTH")
    made.add_argument("--layers", nargs="+", type=int, default=[2, 3, 8, 32], help="of networks")
    made.add_argument("--width", type=int, default=8)
    made.add_argument("--channels", type=int, default=24)
    made.add_argument("--draws", type=int, default=8)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "initialisation.csv")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the rows."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for layers in arguments.layers:
        architecture = Architecture.mlp([2, *[arguments.width] * (layers - 1), 1])
        for function in FUNCTIONS:
            found = sizes_after(
                architecture, function, arguments.stack, arguments.channels, arguments.draws
            )
            rows += [
                {
                    "widths": "-".join(map(str, architecture.widths)),
                    "network_layers": layers,
                    "function": function,
                    "stack_depth": depth,
                    "rms_nodes": f"{nodes:.3g}",
                    "rms_edges": f"{edges:.3g}",
                    "draws": arguments.draws,
                    "command": harness.command_line(made, arguments),
                    **harness.machine(),
                }
                for depth, (nodes, edges) in found.items()
            ]
    shown = ("network_layers", "function", "stack_depth", "rms_nodes", "rms_edges")
    print(harness.markdown(rows, shown))
    harness.write_rows(arguments.out, rows, KEYS)


if __name__ == "__main__":
    main()
