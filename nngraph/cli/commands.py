"""What each command does: call the library, tell the result, return the exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

from converters import load_graph, save_graph
from nngraph.cli import text
from nngraph.cli.common import tell
from nngraph.cli.comparing import compare_command, models_command
from nngraph.cli.demo import run_demo
from nngraph.cli.inspecting import check_options, convert_module, inspect_module
from nngraph.cli.matching import match_command
from nngraph.cli.modules import is_runnable, read_architecture
from nngraph.cli.networks import (
    activations_of,
    describe_graph,
    describe_zoo,
    is_graph_file,
    read_network,
)
from nngraph.cli.training_commands import eval_command, train_command
from nngraph.cli.zoo_commands import ZOO_RUN
from nngraph.drawing import draw_basis
from nngraph.errors import DataFileError
from nngraph.graph import Architecture, NeuralGraph
from nngraph.validation import at_most, default_architecture, validate
from nngraph.zoo import Zoo

__all__ = ["RUN", "default_threads"]

#: Commands that work on independent parts, and take all cores there are.
SCALES = ("zoo fit", "zoo train")


def default_threads(command: str) -> int:
    """Return how many threads a command computes on: fitting scales, small models do not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if command == "models":  # times are of one thread
        return 1
    return max(1, cores or 1) if command in SCALES else max(1, min(4, cores or 1))


# -- the commands --------------------------------------------------------------------------------


def demo(options: Namespace) -> int:
    """Run the demo."""
    out = options.out or ("out/demo-quick" if options.quick else "out/demo")

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    if options.seed < 0:
        raise ArgumentError(None, f"--seed is {options.seed}; expected at least 0.")
    result = run_demo(
        Path(out), seed=options.seed, quick=options.quick, say=say, progress=not options.quiet
    )
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    return 0 if result["ok"] else 1


def convert(options: Namespace) -> int:
    """Turn a network, or a state dict, into a graph file."""
    file, out = Path(options.file), Path(options.out)
    if is_runnable(options.file):
        return convert_module(options)
    check_options(options)
    if is_graph_file(file):
        raise DataFileError(f"{file} is a graph file already; expected a state dict.")
    if out.exists() and file.exists() and out.samefile(file):
        raise DataFileError(f"{out} is the file that is read; choose another name to write to.")
    graph, assumed = _weights(options, options.allow_nonfinite)
    save_graph(graph, out)
    architecture = graph.architecture
    data = {
        "file": str(file),
        "out": str(out),
        "architecture": str(architecture),
        "activations_assumed": assumed,
        "neurons": architecture.num_nodes,
        "edges": architecture.num_edges,
        "definition": architecture.to_dict(),
    }
    tell(
        options, data,
        lambda: f"{out}: {architecture}, {architecture.num_nodes} neurons, "
        f"{architecture.num_edges} edges{_assumed(assumed)}",
    )  # fmt: skip
    return 0


def _weights(options: Namespace, allow_nonfinite: bool) -> tuple[NeuralGraph, bool]:
    """Read a file of weights, and whether its activations were assumed."""
    file = Path(options.file)
    if options.architecture is None:
        return read_network(file, options.activation, options.w0, allow_nonfinite)
    if options.activation or options.w0:
        raise ArgumentError(None, "--architecture has its own activations; leave --activation out")
    architecture = read_architecture(options.architecture)
    return load_graph(file, architecture, allow_nonfinite=allow_nonfinite), False


def _assumed(assumed: bool) -> str:
    if not assumed:
        return ""
    return "\n  a state dict does not say its activations: ReLU is assumed; see --activation"


def inspect(options: Namespace) -> int:
    """Describe a network or a zoo."""
    path = Path(options.file)
    assumed = False
    if is_runnable(options.file):
        return inspect_module(options)
    check_options(options)
    if path.is_dir():
        if options.activation or options.w0 or options.architecture:
            raise ArgumentError(
                None, f"{path} is a folder; --activation, --w0 and --architecture are for files."
            )
        data = describe_zoo(Zoo.open(path, partial=True))
        data = {"path": str(path), "kind": "zoo", **data}
    else:
        kind = "graph" if is_graph_file(path) else "state dict"
        graph, assumed = _weights(options, allow_nonfinite=True)
        data = {
            "path": str(path), "kind": kind, "activations_assumed": assumed,
            **describe_graph(graph),
        }  # fmt: skip
    tell(options, data, lambda: _description_words(data) + _assumed(assumed))
    return 0


def _description_words(data: dict[str, Any]) -> str:
    symmetry = data["symmetry"]
    factors = " x ".join(f"S_{size}" for size in symmetry["spaces"].values())
    order = symmetry["order"]
    about = f"{order:,}" if order is not None else f"about 10^{symmetry['log10_order']:.1f}"
    group = f"{factors}: {about} relabellings" if factors else "trivial: no hidden neurons"
    if symmetry["sine_neurons"]:
        group += f"; besides, sign and phase of {symmetry['sine_neurons']} sine neurons"
    lines = {"kind": data["kind"], "architecture": data["architecture"]}
    if "networks" in data:
        lines["networks"] = f"{data['networks']}, statistics over {data['networks_in_statistics']}"
    lines |= {
        "size": f"{data['neurons']:,} neurons, {data['edges']:,} edges, "
        f"{data['parameters']:,} parameters, {data['dtype']}",
        "layers": ", ".join(
            f"{g['name']} {g['size']}"
            + ("" if g["activation"] == "identity" else f" {g['activation']}")
            for g in data["groups"]
        ),
        "symmetry": group,
    }
    rows = [
        [
            tensor["name"],
            " x ".join(map(str, tensor["shape"])),
            *(text.number(tensor[key]) for key in ("mean", "std", "min", "max")),
            str(tensor["zeros"]),
            str(tensor["nonfinite"]),
        ]
        for tensor in data["tensors"]
    ]
    head = ("tensor", "shape", "mean", "std", "min", "max", "zeros", "nonfinite")
    return f"{data['path']}\n{text.pairs(lines)}\n\n{text.table(head, rows)}"


def validate_command(options: Namespace) -> int:
    """Hold the library against the basis and the symmetry on an architecture."""
    architecture = _architecture(options.network, options.activation, options.w0)
    if options.seed < 0:
        raise ArgumentError(None, f"--seed is {options.seed}; expected at least 0.")
    result = validate(architecture, seed=options.seed)
    data = result.to_dict()
    if options.figure is not None:
        data["figure"] = str(draw_basis(at_most(architecture, 3), options.figure))
    drawn = "" if options.figure is None else f"\nthe basis, drawn: {options.figure}"
    tell(options, data, lambda: f"{result}{drawn}")
    return 0 if result.passed else 1


def _architecture(words: list[str], activation: list[str] | None, w0: float | None) -> Architecture:
    """Return the architecture that is named by layer sizes, a file or a zoo."""
    if all(word.isdecimal() for word in words):
        if activation is None and w0 is None:
            return default_architecture([int(word) for word in words])
        functions = activations_of(activation, w0)
        return Architecture.mlp(
            [int(word) for word in words], functions[0] if len(functions) == 1 else functions
        )
    if len(words) > 1:
        raise ArgumentError(
            None,
            f"{' '.join(words)!r} is no list of layer sizes; expected whole numbers, or one file.",
        )
    path = Path(words[0])
    if path.is_dir():
        return Zoo.open(path, partial=True).architecture
    return read_network(path, activation, w0, allow_nonfinite=True)[0].architecture


#: Command, with its action -> what it does.
RUN: dict[str, Callable[[Namespace], int]] = {
    "demo": demo,
    **ZOO_RUN,
    "convert": convert,
    "inspect": inspect,
    "validate": validate_command,
    "train": train_command,
    "eval": eval_command,
    "match": match_command,
    "models": models_command,
    "compare": compare_command,
}
