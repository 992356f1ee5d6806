"""One network of 100 million weights, read by a model of four rounds with a state on every weight.

Forward alone, and one training step (forward, backward, AdamW). The states would be some 13 GB for
each round: `stream=True` never stores them. That it answers, and learns, as the model that stores
them does is checked first, on a network small enough for both.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
import torch
from torch import Tensor, nn

from nngraph.graph import Architecture, NeuralGraph
from nngraph.nn import MessagePassingNetwork

#: Hidden width that gives 100 million weights at 784 inputs, three hidden layers and 10 outputs.
WIDTH = 6880


def network(architecture: Architecture, seed: int = 0) -> NeuralGraph:
    """Return a network with normal weights of variance 1 / fan-in."""
    generator = torch.Generator().manual_seed(seed)
    values = {
        p.name: torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5
        for p in architecture.parameters
    }
    return NeuralGraph.from_parameters(architecture, values)


def model(architecture: Architecture, channels: int, rounds: int, stream: bool) -> nn.Module:
    """Return the model, with the same parameters every time."""
    torch.manual_seed(0)
    return MessagePassingNetwork(
        architecture, 10, channels=channels, messages=channels, edge_channels=channels,
        rounds=rounds, hidden=channels, dropout=0.0, stream=stream,
    )  # fmt: skip


def loss(reader: nn.Module, graph: NeuralGraph) -> Tensor:
    """Return what a training step makes smaller."""
    return nn.functional.cross_entropy(reader(graph), torch.zeros(1, dtype=torch.long))


def agreement(channels: int, rounds: int) -> float:
    """Largest relative difference of the gradients of the forms, in float64."""
    architecture = Architecture.mlp([7, 60, 50, 3])
    graph = network(architecture)
    graph = graph.with_parameters({k: v.double() for k, v in graph.parameters().items()})
    found = []
    for stream in (False, True):
        reader = model(architecture, channels, rounds, stream).double()
        loss(reader, graph).backward()
        found.append([p.grad for p in reader.parameters() if p.grad is not None])
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
        for a, b in zip(*found, strict=True)
    )


def timed(function: Callable[[], object]) -> tuple[float, float, float | None]:
    """Return wall and CPU seconds of one call, and the most memory that the process held in it.

    Memory is that of the whole process, the network included: what a machine must have. Taking
    down every allocation, as ``harness.peak_growth_mib`` does, would need more than the call.
    """
    _reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu, _peak_mib()


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None


def row(width: int, channels: int, rounds: int) -> dict[str, object]:
    """Measure one network."""
    error = agreement(channels, rounds)
    if error > 1e-8:
        raise SystemExit(f"the forms disagree by {error:.2g}")
    architecture = Architecture.mlp([784, width, width, width, 10])
    graph = network(architecture)
    reader = model(architecture, channels, rounds, stream=True)
    optimiser = torch.optim.AdamW(reader.parameters())

    def step() -> None:
        loss(reader, graph).backward()
        optimiser.step()

    with torch.no_grad():
        forward = timed(lambda: reader(graph))
    training = timed(step)
    assert all(bool(p.isfinite().all()) for p in reader.parameters())
    edges = architecture.num_edges
    return {
        "width": width,
        "weights": edges,
        "channels": channels,
        "rounds": rounds,
        "forward_s": round(forward[0], 1),
        "forward_cpu_s": round(forward[1], 1),
        "forward_process_mib": _whole(forward[2]),
        "step_s": round(training[0], 1),
        "step_cpu_s": round(training[1], 1),
        "step_process_mib": _whole(training[2]),
        "weights_mib": _whole(edges * 4 / 2**20),
        "states_of_a_round_mib": _whole(edges * channels * 4 / 2**20),
        # Forward, each update is made (rounds + 1) / 2 times; a product of C x C per edge.
        "forward_gflops": round(rounds * (rounds + 1) * edges * channels**2 / forward[0] / 1e9, 1),
        "matmul_gflops": round(harness.matmul_gflops(), 1),
        "disagreement": float(f"{error:.2g}"),
    }


def _whole(value: float | None) -> int | str:
    return "" if value is None else round(value)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("large.py", description=__doc__)
    made.add_argument("--width", type=int, default=WIDTH, help="hidden width")
    made.add_argument("--channels", type=int, default=32)
    made.add_argument("--rounds", type=int, default=4)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "large.csv")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its row."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    found = row(arguments.width, arguments.channels, arguments.rounds)
    found |= harness.machine() | {"command": harness.command_line(made, arguments)}
    harness.write_rows(arguments.out, [found], ("width", "channels", "rounds", "threads"))
    print(harness.markdown([found], list(found)[:15]))


if __name__ == "__main__":
    main()
