"""What each primitive of `nngraph.kernels` costs, by backend, forward and backward apart.

On stacks of MLPs, on a ragged batch of mixed ones and on an irregular graph; that a backend agrees
with the reference in values and gradients, in float64, is checked before it is timed. Backends of
one primitive are timed in turns, next to its matrix products alone and to a copy of the edge
features, in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First, since it sets what torch reads when it is imported.
import harness
import torch
from devices import Device, Duration
from products import Products
from torch import Tensor

from nngraph import kernels
from nngraph.graph import Architecture
from nngraph.graph.topology.topology import Topology
from nngraph.testing import IrregularTopology

KEYS = ("primitive", "backend", "case", "channels", "device", "threads", "cpu")
BACKENDS = ("dense", "scatter", "reference")
#: Stacks by hidden widths, each with its number of networks.
STACKS = {"2-32-32-1": ([2, 32, 32, 1], 64), "2-128-128-128-1": ([2, 128, 128, 128, 1], 8)}
#: Hidden widths of the networks of the ragged batch, eight of each.
MIXED = ((24, 24), (24, 40), (32, 32), (40, 24), (48, 32), (32, 32, 32), (24, 32, 24), (64,))
#: Numbers of an intermediate of the reference at the most: beyond it is too large to be timed.
MAX_NUMBERS = 2**26
#: Whose times are added up in the rows `layer`: a round of message passing, step by step.
LAYER = (
    "edge_affine", "mean to target", "mean to source", "mean to block",
    "propagate to target", "propagate to source",
)  # fmt: skip

#: A primitive by backend, on tensors.
Call = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """What primitives are called on.

    Attributes:
        lead: leading shape of the features, ``(B,)`` for a stack.
    """

    name: str
    topology: Topology
    lead: tuple[int, ...]

    @property
    def edges(self) -> int:
        """Number of edges of all networks."""
        return self.topology.num_edges * (self.lead[0] if self.lead else 1)

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that take it."""
        return BACKENDS if self.topology.buckets is not None else BACKENDS[1:]


@dataclass(frozen=True)
class Primitive:
    """One primitive on its inputs: ``call(backend, *inputs)``."""

    name: str
    call: Call
    inputs: tuple[Tensor, ...]

    def forward(self, backend: str) -> Sequence[Tensor]:
        """Return what it gives, with the graph of its derivative."""
        return self.call(backend, *self.inputs)

    def backward(self, backend: str) -> Callable[[], tuple[Tensor, ...]]:
        """Return a function that makes the gradients of all inputs from those of all outputs."""
        outs = self.forward(backend)
        generator = torch.Generator(outs[0].device).manual_seed(1)
        seeds = [
            torch.randn(o.shape, generator=generator, dtype=o.dtype, device=o.device) for o in outs
        ]
        return lambda: torch.autograd.grad(outs, self.inputs, seeds, retain_graph=True)


def primitives(case: Case, channels: int, dtype: torch.dtype, device: str) -> Iterator[Primitive]:
    """Make the inputs of each primitive, with C channels, and name what is called on them."""
    t, lead = case.topology.to(device), case.lead
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        return made.requires_grad_()

    blocks = len(t.blocks.size)
    e, w = draw(*lead, t.num_edges, channels), draw(*lead, t.num_edges)
    x, y = draw(*lead, t.num_nodes, channels), draw(*lead, t.num_nodes, channels)
    z, score = draw(*lead, blocks, channels), draw(*lead, t.num_edges, 2)
    matrix, matrices = draw(channels, channels), draw(blocks, channels, channels)

    def levels(backend: str, weight: Tensor, x: Tensor) -> Sequence[Tensor]:
        states = [kernels.take(x, t.levels[0].nodes)]
        for level in range(1, len(t.levels)):
            states.append(kernels.propagate_level(t, level, weight, states, backend=backend))
        return states[1:]

    for side, of in (("source", x), ("target", x), ("block", z)):
        yield Primitive(
            f"gather from {side}", lambda b, x, s=side: [kernels.gather(t, x, s, b)], (of,)
        )
    for op in ("sum", "mean"):
        for side in ("target", "source", "block"):
            yield Primitive(
                f"{op} to {side}",
                lambda b, e, s=side, o=op: [kernels.reduce(t, e, s, o, b)],
                (e,),
            )
    for op in ("max", "std"):
        yield Primitive(
            f"{op} to target", lambda b, e, o=op: [kernels.reduce(t, e, "target", o, b)], (e,)
        )
    yield Primitive("softmax", lambda b, s: [kernels.softmax(t, s, "target", b)], (score,))
    yield Primitive("attend", lambda b, e, s: [kernels.attend(t, e, s, "target", b)], (e, score))
    yield Primitive("edge_affine", lambda b, *v: [kernels.edge_affine(t, *v, b)], (e, x, y))
    for end in ("target", "source"):
        yield Primitive(
            f"propagate to {end}",
            lambda b, w, x, s=end: [kernels.propagate(t, w, x, s, b)],
            (w, x),
        )
    if len(t.levels) > 1:
        yield Primitive("propagate_level, all", levels, (w, x))
    yield Primitive(
        "multiply_blocks", lambda b, e, m: [kernels.multiply_blocks(t, e, m, b)], (e, matrices)
    )
    yield Primitive(
        "edge_update", lambda b, *v: kernels.edge_update(t, *v, backend=b), (e, matrix, x, y, z)
    )


def check_agreement(case: Case, channels: int, device: str) -> dict[tuple[str, str], float]:
    """Return the relative difference to the reference of each primitive and backend, in float64.

    Of values and gradients, the larger; on two networks of a stack, and on fewer channels where the
    reference would need more memory than is sensible.

    Raises:
        SystemExit: if it is more than rounding.
    """
    small = Case(case.name, case.topology, tuple(min(n, 2) for n in case.lead))
    errors = {}
    few = min(channels, 8)
    narrow = {p.name: p for p in primitives(small, few, torch.float64, device)}
    for primitive in primitives(small, channels, torch.float64, device):
        if _too_large(primitive.name, small, channels):
            primitive = narrow[primitive.name]
        expected = [*primitive.forward("reference"), *primitive.backward("reference")()]
        for backend in case.backends:
            found = [*primitive.forward(backend), *primitive.backward(backend)()]
            error = max(map(_difference, found, expected))
            if not error < 1e-9:
                raise SystemExit(
                    f"{primitive.name} on {case.name}, backend {backend!r}: differs from the "
                    f"reference by {error:.1e}; expected less than 1e-9. Nothing was timed."
                )
            errors[primitive.name, backend] = error
    return errors


def _difference(one: Tensor, other: Tensor) -> float:
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def _too_large(name: str, case: Case, channels: int) -> bool:
    """Whether the reference of a primitive, a matrix for every edge, is beyond sense."""
    return name == "multiply_blocks" and case.edges * channels**2 > MAX_NUMBERS


def timed(
    primitive: Primitive, case: Case, channels: int, device: Device, repeats: int
) -> list[dict[str, Any]]:
    """Time a primitive in all backends in turns, with its products alone, and weigh it."""
    backends = list(case.backends)
    if _too_large(primitive.name, case, channels):
        backends.remove("reference")
    best = backends[0]

    def both() -> None:
        primitive.backward(best)()

    # Those of the blocks: without blocks the other backends make none.
    products = Products.of(both) if best == "dense" else Products({})
    jobs: list[Callable[[], object]] = [products.alone(device.name)]
    for backend in backends:
        jobs += [lambda b=backend: primitive.forward(b), primitive.backward(backend)]
    alone, *durations = device.time(jobs, repeats)
    outs = primitive.forward(best)
    # What is taken and given, once in each direction.
    moved = 2 * sum(v.nbytes for v in (*primitive.inputs, *outs)) / 2**30
    rows = []
    for backend, there, back in zip(backends, durations[::2], durations[1::2], strict=True):
        rows.append(
            {
                "primitive": primitive.name,
                "backend": backend,
                "case": case.name,
                "channels": channels,
                "edges": case.edges,
                **_times(there, back, case.edges),
                "gib_per_s": _digits(moved / (there.median + back.median) * 1e3),
                "peak_mib": round(
                    device.peak_mib(lambda b=backend: primitive.backward(b)()), 1
                ),
                **_of_products(products, alone, there.median + back.median),
            }
        )
    return rows


def _times(there: Duration, back: Duration, edges: int) -> dict[str, float]:
    named = {
        f"{way}_ms{suffix}": getattr(duration, part)
        for way, duration in (("forward", there), ("backward", back))
        for suffix, part in (("", "median"), ("_q10", "low"), ("_q90", "high"))
    }
    named["us_per_edge"] = (there.median + back.median) * 1e3 / edges
    return {name: _digits(value) for name, value in named.items()}


def _of_products(products: Products, alone: Duration, total: float) -> dict[str, Any]:
    if not products.counts:
        return {"products_ms": None, "times_products": None, "gflops": None}
    return {
        "products_ms": _digits(alone.median),
        "times_products": _digits(total / alone.median),
        "gflops": _digits(products.operations / (total * 1e6)),
    }


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the rows `layer`, the sum of its primitives, and each row's speed against scatter's."""
    for backend in dict.fromkeys(row["backend"] for row in rows):
        parts = [row for row in rows if row["backend"] == backend and row["primitive"] in LAYER]
        total = {name: parts[0][name] for name in ("backend", "case", "channels", "edges")}
        for name in ("forward_ms", "backward_ms", "us_per_edge"):
            total[name] = _digits(sum(row[name] for row in parts))
        rows.append({"primitive": "layer", **total})
    scatter = {row["primitive"]: _both(row) for row in rows if row["backend"] == "scatter"}
    for row in rows:
        row["scatter_over_this"] = _digits(scatter[row["primitive"]] / _both(row))
    return rows


def _both(row: dict[str, Any]) -> float:
    return float(row["forward_ms"] + row["backward_ms"])


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def cases(arguments: argparse.Namespace) -> Iterator[tuple[Case, int]]:
    """Make the cases, each with its numbers of channels."""
    kinds = [Architecture.mlp([2, *hidden, 1]) for hidden in MIXED for _ in range(arguments.mixed)]
    nodes = arguments.nodes
    for channels in arguments.channels:
        for name in arguments.stack:
            widths, batch = STACKS[name]
            batch = min(batch, arguments.batch)
            topology = Topology.of(Architecture.mlp(widths))
            yield Case(f"stack: {batch} x {name}", topology, (batch,)), channels
        if arguments.mixed:
            mixed = Case(f"ragged: {len(kinds)} mixed MLPs", Topology.of_batch(kinds), ())
            yield mixed, channels
        if nodes:
            generator = torch.Generator().manual_seed(0)
            ends = torch.randint(nodes, (2, 32 * nodes), generator=generator)
            irregular = IrregularTopology.of_edges(ends, nodes)
            yield Case(f"irregular: {nodes} nodes", irregular, ()), channels
    for width in arguments.width:
        topology = Topology.of(Architecture.mlp([2, width, width, 1]))
        yield Case(f"width: 16 x 2-{width}-{width}-1", topology, (16,)), 8


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("primitives.py", description=__doc__)
    made.add_argument("--stack", nargs="*", choices=STACKS, default=list(STACKS))
    made.add_argument("--channels", nargs="+", type=int, default=[8, 64])
    made.add_argument("--batch", type=int, default=64, help="networks of a stack, at the most")
    made.add_argument("--mixed", type=int, default=8, help="ragged batch: networks of each kind")
    made.add_argument(
        "--nodes", type=int, default=2240, help="of the irregular graph, with 32 times the edges"
    )
    made.add_argument(
        "--width", nargs="*", type=int, default=[16, 32, 64, 128, 256],
        help="16 networks 2-w-w-1 with 8 channels, for the time per edge",
    )  # fmt: skip
    made.add_argument("--repeats", type=int, default=20)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--tf32", action="store_true", help="let products on cuda round to TF32")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "primitives.csv", help="result file"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and write every primitive of every case, and print the table."""
    made = parser()
    arguments = made.parse_args(argv)
    harness.keep_memory()
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    device = Device(arguments.device)
    facts = {
        "device": device.model,
        "matmul_gflops": _digits(device.matmul_gflops(8192 if device.is_cuda else 1024)),
        "repeats": arguments.repeats,
        "command": harness.command_line(made, arguments),
        **harness.machine(),
    }
    columns = (
        "primitive", "backend", "case", "channels", "forward_ms", "backward_ms",
        "scatter_over_this", "gib_per_s", "times_products", "us_per_edge",
    )  # fmt: skip
    for case, channels in cases(arguments):
        errors = check_agreement(case, channels, device.name)
        # Of the same size, and so from the same level of the caches.
        copy = device.copy_gib_per_s(case.edges * channels)
        rows: list[dict[str, Any]] = []
        for primitive in primitives(case, channels, torch.float32, device.name):
            rows += timed(primitive, case, channels, device, arguments.repeats)
        for row in compared(rows):
            row["copy_gib_per_s"] = _digits(copy)
            error = errors.get((row["primitive"], row["backend"]))
            row["agreement"] = None if error is None else float(f"{error:.1e}")
            row.update(facts)
        harness.write_rows(arguments.out, rows, KEYS)
        print(harness.markdown(rows, columns), end="\n\n")


if __name__ == "__main__":
    main()
