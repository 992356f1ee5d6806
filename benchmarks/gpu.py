"""The edge update on a GPU by backend, forward and backward, against what the device can do.

That "triton" errs at most twice as much as plain torch in the same precision, in values and
gradients, and gives equal bits when asked twice, is checked before it is timed. Copy bandwidth and
the rate of matrix products are those of this device, measured in this run. Bytes and operations are
counted once each: those that no way of doing it can avoid, not those that a backend makes beside.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# First, since it sets what torch reads when it is imported.
import harness
import torch
from devices import Device, Duration
from torch import Tensor

from nngraph import kernels
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.testing import assert_as_precise

KEYS = ("architecture", "networks", "channels", "dtype", "backend", "pass", "device", "torch")
#: Widths, and the number of networks read at once.
CASES = (((2, 32, 32, 1), 4096), ((2, 128, 128, 1), 512), ((784, 1024, 1024, 10), 16))
BACKENDS = ("reference", "dense", "triton")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Edge features of a check of agreement, in float64, at the most: or one network.
CHECKED = 2**24


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("gpu.py", description=__doc__)
    made.add_argument(
        "--case", nargs="+", type=int, choices=range(len(CASES)), default=[0, 1, 2],
        help=", ".join(f"{i}: {n} networks {_name(w)}" for i, (w, n) in enumerate(CASES)),
    )  # fmt: skip
    made.add_argument("--channels", nargs="+", type=int, default=[32, 64, 128])
    made.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    made.add_argument("--backend", nargs="+", choices=BACKENDS, default=[*BACKENDS])
    made.add_argument("--repeats", type=int, default=20)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "gpu.csv", help="result file")
    return made


def _name(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))


def draw(
    topology: Topology, networks: int, channels: int, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """Return e, A, s, t and b."""
    torch.manual_seed(0)
    edges, nodes, blocks = topology.num_edges, topology.num_nodes, len(topology.blocks.size)
    shapes = [(networks, n, channels) for n in (edges, nodes, nodes, blocks)]
    shapes.insert(1, (channels, channels))
    drawn = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    drawn[1] /= channels**0.5
    return drawn


def update(topology: Topology, backend: str, *given: Tensor) -> tuple[Tensor, ...]:
    """The edge update; what the backward pass needs beside the inputs is made anew."""
    return tuple(kernels.edge_update(topology, *given, recompute=True, backend=backend))


def check(topology: Topology, backend: str, given: list[Tensor]) -> dict[str, float]:
    """Return the errors of e' and of the gradient of e, and those of plain torch.

    Raises:
        SystemExit: if a backend errs more than twice as much, or gives other bits the next time.
    """
    edges = topology.num_edges * given[0].shape[-1]
    few = max(1, min(len(given[0]), CHECKED // edges))
    some = [value if value.dim() == 2 else value[:few] for value in given]
    ours = partial(update, topology, backend)
    try:
        errors = assert_as_precise(ours, partial(update, topology, "reference"), some)
    except AssertionError as error:
        raise SystemExit(f"backend {backend!r}: {error} Nothing was timed.") from error
    if not all(map(torch.equal, ours(*some), ours(*some))):
        raise SystemExit(
            f"backend {backend!r} gave other bits the second time. Nothing was timed."
        )
    found = {"error": errors[0][0], "plain_error": errors[0][1]}
    found |= {"gradient_error": errors[4][0], "plain_gradient_error": errors[4][1]}
    return {name: float(f"{value:.2g}") for name, value in found.items()}


def least_work(
    topology: Topology, networks: int, channels: int, size: int
) -> dict[str, tuple[float, float]]:
    """Bytes and operations of each pass that no way of doing it avoids; ``size`` bytes a number.

    Forward reads e, A, s, t, b and writes e' and its means. Backward reads all that is given and
    the gradients of all that is returned, and writes gradients of all that is given. Operations are
    those of products: one by A forward; backward one by A, and one for its gradient.
    """
    edges = networks * topology.num_edges
    nodes, blocks = networks * topology.num_nodes, networks * len(topology.blocks.size)
    ends, matrix = channels * (2 * nodes + blocks), channels**2
    read = channels * edges + ends + matrix
    made = channels * edges + ends
    product = 2.0 * edges * channels**2
    return {
        "forward": (float(size * (read + made)), product),
        "backward": (float(size * (2 * read + made)), 2 * product),
    }


def device_rates(
    dtypes: Sequence[str], device: Device, repeats: int, size: int = 8192
) -> tuple[float, dict[str, float]]:
    """Copied GB/s, bytes read and written both counted, and 10^12 operations/s of products."""
    copied = device.copy_gib_per_s(4 * size**2, repeats) * 2**30 / 1e9
    rates = {name: device.matmul_gflops(size, repeats, DTYPES[name]) / 1e3 for name in dtypes}
    return copied, rates


def passes(
    topology: Topology, backend: str, given: list[Tensor], repeats: int, device: Device
) -> dict[str, dict[str, float]]:
    """Times of the forward and of the backward pass, and memory of both together."""
    inputs = [value.detach().requires_grad_() for value in given]
    ours = partial(update, topology, backend)

    def forward() -> None:
        with torch.no_grad():
            ours(*inputs)

    def backward() -> list[Duration]:
        out = ours(*inputs)  # given back when this returns, before memory is weighed
        return device.time(
            [lambda: torch.autograd.grad(out, inputs, seeds, retain_graph=True)], repeats
        )

    times = {"forward": device.time([forward], repeats)}
    with torch.no_grad():
        seeds = [torch.randn_like(value) for value in ours(*inputs)]
    times["backward"] = backward()
    memory = device.peak_mib(lambda: torch.autograd.grad(ours(*inputs), inputs, seeds))
    return {
        name: {
            "time_ms": found.median,
            "time_ms_q10": found.low,
            "time_ms_q90": found.high,
            "peak_mib": round(memory, 1),
        }
        for name, (found,) in times.items()
    }


def rows_of(
    widths: Sequence[int], networks: int, channels: int, arguments: argparse.Namespace,
    rates: tuple[float, dict[str, float]], device: Device,
) -> list[dict[str, Any]]:  # fmt: skip
    """Check and time all backends on one case; what does not fit the memory is a row of its own."""
    topology, rows = Topology.of(Architecture.mlp(widths)).to(device.name), []
    for dtype in arguments.dtype:
        for backend in arguments.backend:
            case = {
                "architecture": _name(widths), "networks": networks, "channels": channels,
                "dtype": dtype, "backend": backend,
            }  # fmt: skip
            try:
                given = draw(topology, networks, channels, DTYPES[dtype], device.name)
                errors = check(topology, backend, given) if backend == "triton" else {}
                found = passes(topology, backend, given, arguments.repeats, device)
            except torch.cuda.OutOfMemoryError:
                rows.append({**case, "pass": "both", "out_of_memory": True})
                continue
            finally:
                given = []
                torch.cuda.empty_cache()
            work = least_work(topology, networks, channels, DTYPES[dtype].itemsize)
            for name, timed in found.items():
                moved, operations = work[name]
                speed = moved / (timed["time_ms"] * 1e6)
                rate = operations / (timed["time_ms"] * 1e9)
                figures = {
                    **timed, "gb_per_s": speed, "copy_share": speed / rates[0],
                    "tflops": rate, "product_share": rate / rates[1][dtype],
                }  # fmt: skip
                rounded = {key: float(f"{value:.4g}") for key, value in figures.items()}
                rows.append({**case, "pass": name, "out_of_memory": False, **rounded, **errors})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and write every case, and print the table."""
    made = parser()
    arguments = made.parse_args(argv)
    if not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/gpu.py measures a CUDA device and torch sees none; run it on a machine "
            "with a GPU and a torch built for CUDA. Nothing was timed."
        )
    measure(made, arguments, Device("cuda"))


def measure(
    made: argparse.ArgumentParser, arguments: argparse.Namespace, device: Device
) -> None:
    """Measure the device's rates, then every case; rows are written as they come."""
    rates = device_rates(arguments.dtype, device, arguments.repeats)
    about = {
        "device": device.model,
        "copy_gb_per_s": float(f"{rates[0]:.4g}"),
        "repeats": arguments.repeats,
        "command": harness.command_line(made, arguments),
        **harness.machine(),
    }
    shown = []
    for case in arguments.case:
        for channels in arguments.channels:
            found = rows_of(*CASES[case], channels, arguments, rates, device)
            rows = [
                {**row, **about, "product_tflops": float(f"{rates[1][row['dtype']]:.4g}")}
                for row in found
            ]
            harness.write_rows(arguments.out, rows, KEYS)
            shown += rows
    columns = (
        "architecture", "networks", "channels", "dtype", "backend", "pass", "time_ms",
        "time_ms_q90", "copy_share", "product_share", "peak_mib", "error", "plain_error",
        "out_of_memory",
    )  # fmt: skip
    print(harness.markdown(shown, columns))


if __name__ == "__main__":
    main()
