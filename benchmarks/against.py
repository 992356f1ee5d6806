"""How fast this checkout is beside another commit of it: the same calls by turns, in one run.

Each commit runs in a process of its own, with the calls of this file. The processes take turns,
call by call, so that what else the machine does slows both. The ratio is of CPU seconds; over 1
means that this checkout is slower.
"""

from __future__ import annotations

import argparse
import atexit
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import conversion
import harness
import models
import torch
from reading import zoo_of
from torch import nn

from converters import permutation_spec, stacked_to_graphs, to_graph, to_module, to_state_dict
from nngraph.datasets import NeuralGraphDataset, ZooStream
from nngraph.graph import Architecture, to_batch
from nngraph.nn import MODELS, input_features
from nngraph.testing import random_stack

KEYS = ("group", "what", "beside", "cpu")
#: CPU seconds that one turn takes at least.
TURN = 0.05


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("against.py", description=__doc__)
    made.add_argument("beside", metavar="COMMIT", help="commit to compare with")
    made.add_argument("--group", nargs="+", choices=[*GROUPS], default=[*GROUPS])
    made.add_argument("--repeats", type=int, default=11, help="turns of each, per call")
    made.add_argument("--out", type=Path, default=harness.RESULTS / "against.csv")
    made.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return made


# -- what is timed ---------------------------------------------------------------------------------


def training() -> dict[str, Callable[[], Callable[[], object]]]:
    """Steps of every model on small networks, which are the most sensitive to Python."""

    def made(name: str, layout: str) -> Callable[[], object]:
        stack = random_stack(Architecture.mlp([2, 32, 32, 1], models.SINE), 32, 0, torch.float32)
        torch.manual_seed(0)
        model = MODELS[name](stack.architecture, 10)
        networks = stack if layout == "stacked" else to_batch(list(stack))
        model.fit_statistics(networks)
        return models.training_step(model, [input_features(networks)])

    return {
        f"{name}, {layout}": lambda n=name, k=layout: made(n, k)
        for name in MODELS for layout in ("stacked", "ragged")
    }


def converting() -> dict[str, Callable[[], Callable[[], object]]]:
    """Networks to graphs and back."""
    module = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                           nn.Linear(32, 1))  # fmt: skip
    weights = [torch.randn(500, *shape) for shape in [(32, 2), (32, 32), (1, 32)]]
    biases = [torch.randn(500, n) for n in (32, 32, 1)]
    graph = to_graph(module)
    blocks = conversion.Transformer(4, 64, 4, 100).eval()
    tokens = torch.zeros(1, 8, dtype=torch.long)
    return {
        "stacked weights to a stack": lambda: lambda: stacked_to_graphs(weights, biases, "relu"),
        "to_graph, an MLP": lambda: lambda: to_graph(module),
        "to_graph, an MLP, and its tensors made": lambda: lambda: to_graph(module).x,
        "to_state_dict": lambda: lambda: to_state_dict(graph),
        "to_module": lambda: lambda: to_module(graph),
        "an architecture to plain data": lambda: lambda: graph.architecture.to_dict(),
        "permutation_spec, 4 transformer blocks": lambda: lambda: permutation_spec(blocks, tokens),
        "to_graph, 4 transformer blocks": lambda: lambda: to_graph(blocks, tokens),
    }


def reading() -> dict[str, Callable[[], Callable[[], object]]]:
    """Networks of a zoo on disk."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    zoo = zoo_of(Path(folder.name), 2000, 32)
    dataset = NeuralGraphDataset(zoo, in_memory=False)
    numbers = torch.randperm(len(zoo), generator=torch.Generator().manual_seed(1))[:100].tolist()

    def each(function: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [function(number) for number in numbers]

    return {
        "networks at random": lambda: each(zoo.network),
        "networks at random, tensors made": lambda: each(lambda i: zoo.network(i).x),
        "graphs of the data set on disk": lambda: each(dataset.get),
        "an epoch of the stream": lambda: lambda: sum(
            len(batch) for batch in ZooStream(zoo, None, batch_size=256)
        ),
    }


GROUPS = {"models": training, "conversion": converting, "reading": reading}

# -- two processes ---------------------------------------------------------------------------------


def serve() -> None:
    """Answer lines of ``[group, what, calls]`` by the CPU seconds that the calls take."""
    torch.set_num_threads(1)
    groups: dict[str, dict[str, Any]] = {}
    ready: dict[tuple[str, str], Callable[[], object]] = {}
    for line in sys.stdin:
        group, what, calls = json.loads(line)
        if group not in groups:
            groups[group] = GROUPS[group]()
        answer: object
        if what is None:
            answer = list(groups[group])
        else:
            if (group, what) not in ready:
                ready[group, what] = groups[group][what]()
                ready[group, what]()
            function, start = ready[group, what], time.process_time()
            for _ in range(calls):
                function()
            answer = time.process_time() - start
        print(json.dumps(answer), flush=True)


class Server:
    """A process that imports the library from a folder."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "-", "--serve"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, group: str, what: str | None, calls: int = 1) -> Any:
        """Return the names of a group's calls, or the CPU seconds of one of them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([group, what, calls]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def compare(servers: Sequence[Server], group: str, what: str, repeats: int) -> dict[str, Any]:
    """Time one call in both processes by turns; milliseconds are medians of the turns."""
    calls = 1
    while min(server.ask(group, what, calls) for server in servers) < TURN:
        calls *= 2
    turns = [[server.ask(group, what, calls) for server in servers] for _ in range(repeats)]
    own, other = (statistics.median(times) / calls * 1e3 for times in zip(*turns, strict=True))
    ratio = statistics.median(mine / its for mine, its in turns)
    return {
        "group": group, "what": what, "ratio": round(ratio, 3),
        "cpu_ms": float(f"{own:.3g}"), "cpu_ms_beside": float(f"{other:.3g}"), "calls": calls,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, write rows and print them."""
    made = parser()
    arguments = made.parse_args(argv)
    if arguments.serve:
        serve()
        return
    here = Path(__file__).parents[1]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            f"git -C {here} archive {arguments.beside} nngraph converters | tar -x -C {folder}",
            shell=True, check=True,
        )  # fmt: skip
        servers = [Server(here), Server(Path(folder))]
        end = {"beside": arguments.beside, "repeats": arguments.repeats,
               "command": harness.command_line(made, arguments), **harness.machine()}  # fmt: skip
        for group in arguments.group:
            shared = [server.ask(group, None) for server in servers]
            own = [
                compare(servers, group, what, arguments.repeats)
                for what in shared[0] if what in shared[1]
            ]
            mean = math.exp(statistics.fmean(math.log(row["ratio"]) for row in own))
            own.append({"group": group, "what": "geometric mean", "ratio": round(mean, 3)})
            print(harness.markdown(own, ("what", "ratio", "cpu_ms", "cpu_ms_beside")), flush=True)
            rows += [{**row, **end} for row in own]
    harness.write_rows(arguments.out, rows, KEYS)


if __name__ == "__main__":
    main()
