"""The equivariant linear layer against mixing every pair of tensors by itself, forward + backward.

The naive form computes the same map, with the same weights, as the formula over pairs of tensors
reads: each pair pools its source, mixes and broadcasts to its target by itself, O(L E) time and
memory. `products` are the layer's own matrix products alone, forward and backward, written to
outputs of their own: `product_share` says how much of the layer's time these account for. The two
are timed in turns, and the process keeps the memory that it frees.

Agreement in outputs and gradients comes first; no time is taken of forms that disagree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# First, since it sets what torch reads when it is imported.
import harness
import torch
from torch import Tensor
from torch.nn.functional import linear

from nngraph.graph import Architecture
from nngraph.kernels.equivariant.dense_mixing import DenseMixing
from nngraph.kernels.equivariant.table_layout import TILE
from nngraph.kernels.equivariant.terms import MixedTensor, Slot
from nngraph.nn import EquivariantLinear

#: Edge features of one input stay near this many numbers, unless --networks says otherwise.
BUDGET = 4_000_000
#: A pair-by-pair call that takes longer is timed once.
SLOW_S = 5.0


def naive(layer: EquivariantLinear, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
    """The layer, pair by pair: for each target and source its own pool, mix and broadcast."""
    terms, (given, made) = layer.terms, (layer.in_channels, layer.out_channels)
    architecture = terms.architecture
    # Split and joined at once, so that what the slices cost is not held against the pairs.
    nodes = torch.split(x, list(architecture.widths), dim=1)
    edges = iter(torch.split(edge_attr, [b.stop - b.start for b in architecture.blocks], dim=1))
    values = [
        (next(edges) if t.on_edges else nodes[t.groups[0]]).reshape(len(x), *t.shape, given)
        for t in terms.tensors
    ]
    edge_weights = dict(zip(terms.edge_mixing, layer.edge_weights, strict=True))
    x_out = [x.new_zeros(len(x), size, made) for size in architecture.widths]
    edges_out = []
    for a, target in enumerate(terms.tensors):
        total = torch.zeros(len(x), *target.shape, made)
        for b, source in enumerate(terms.tensors):
            to, of = terms.slots[a], terms.slots[b]
            weight = _part(layer.global_weight, to, of, given, made)
            pooled = _pool(source, None, values[b])
            total = total + _spread(target, None, linear(pooled, weight), made)
            for table, full in zip(terms.tables, layer.node_weights, strict=True):
                slots = {part.tensor: part for part in table.parts}
                if a in slots and b in slots:
                    weight = _part(full, slots[a], slots[b], given, made)
                    pooled = _pool(source, slots[b].axis, values[b])
                    total = total + _spread(target, slots[a].axis, linear(pooled, weight), made)
        if a in edge_weights:
            total = total + linear(values[a], edge_weights[a])
        if layer.bias is not None:
            slot = terms.slots[a]
            constant = layer.bias[slot.start * made : slot.stop * made]
            total = total + _spread(target, None, constant.expand(len(x), -1), made)
        if target.on_edges:
            edges_out.append(total.reshape(len(x), -1, made))
        else:
            x_out[target.groups[0]] = total
    return torch.cat(x_out, dim=1), torch.cat(edges_out, dim=1)


def _part(weight: Tensor, to: Slot, of: Slot, given: int, made: int) -> Tensor:
    return weight[to.start * made : to.stop * made, of.start * given : of.stop * given]


def _pool(tensor: MixedTensor, keep: int | None, value: Tensor) -> Tensor:
    """Average over the permuted axes but one; the kept axis first, then free axes and channels."""
    axes = [axis for axis in tensor.permuted_axes if axis != keep]
    value = value.mean([axis + 1 for axis in axes], keepdim=True) if axes else value
    if keep is None:
        return value.flatten(1)
    return value.movedim(keep + 1, 1).flatten(2)


def _spread(tensor: MixedTensor, keep: int | None, value: Tensor, channels: int) -> Tensor:
    """Broadcast ``[B, free * C]`` or ``[B, kept, free * C]`` to ``[B, *shape, C]``."""
    sizes = [1 if moved else n for n, moved in zip(tensor.shape, tensor.permuted, strict=True)]
    if keep is None:
        value = value.reshape(len(value), *sizes, channels)
    else:
        rest = [n for axis, n in enumerate(sizes) if axis != keep]
        value = value.reshape(len(value), tensor.shape[keep], *rest, channels)
        value = value.movedim(1, keep + 1)
    return value.expand(len(value), *tensor.shape, channels)


def products(
    layer: EquivariantLinear, edges: Tensor, gradient: Tensor
) -> tuple[Callable[[], object], float]:
    """The matrix products of forward and backward alone, and their number of operations.

    As well arranged as they can be: tables of one size are one batched product, with their weights
    side by side already, and blocks are multiplied in tiles that fit a core's own cache.
    """
    assert isinstance(layer.messages, DenseMixing)
    terms, layout, batch = layer.terms, layer.messages.layout, len(edges)
    edges, gradient = edges.detach(), gradient.detach()
    weights = [layer.global_weight.detach().unsqueeze(0)]
    weights += [
        torch.stack([layer.node_weights[i].detach() for i in stack.tables])
        for stack in layout.stacks
    ]
    sizes = [1, *(stack.size for stack in layout.stacks)]
    jobs = [
        (torch.randn(len(w), batch * n, w.shape[2]), w, torch.randn(len(w), batch * n, w.shape[1]))
        for n, w in zip(sizes, weights, strict=True)
    ]
    factors = dict(zip(terms.edge_mixing, (w.detach() for w in layer.edge_weights), strict=True))
    spans = []
    for i, weight in factors.items():
        tensor = terms.tensors[i]
        step = max(1, TILE // (batch * edges.shape[-1]))
        tiles = [
            slice(at, min(at + step, tensor.stop)) for at in range(tensor.start, tensor.stop, step)
        ]
        spans.append((tiles, weight.expand(batch, *weight.shape)))

    def run() -> list[Tensor]:
        out, back = torch.empty_like(gradient), torch.empty_like(edges)
        kept = [out, back]
        for a, w, g in jobs:
            kept += [torch.bmm(a, w.mT), torch.bmm(g, w), torch.bmm(g.mT, a)]
        for tiles, w in spans:
            for rows in tiles:
                torch.bmm(edges[:, rows], w.mT, out=out[:, rows])
        for tiles, w in spans:
            sums = [torch.bmm(gradient[:, rows].mT, edges[:, rows]).sum(0) for rows in tiles]
            for rows in tiles:
                torch.bmm(gradient[:, rows], w, out=back[:, rows])
            kept.append(sum(sums[1:], sums[0]))
        return kept

    operations = sum(6.0 * a.shape[1] * w.numel() for a, w, _ in jobs)
    operations += sum(
        6.0 * batch * (tiles[-1].stop - tiles[0].start) * w[0].numel() for tiles, w in spans
    )
    return run, operations


def step(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    layer: EquivariantLinear,
    inputs: tuple[Tensor, Tensor],
    seeds: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """Run forward and backward; return outputs and all gradients."""
    out = function(*inputs)
    return (*out, *torch.autograd.grad(out, [*inputs, *layer.parameters()], seeds))


def disagreement(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest difference, relative to the largest value of each tensor."""
    errors = [
        float(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).detach())
        for a, b in zip(found, expected, strict=True)
    ]
    return max(errors)


def row(width: int, depth: int, channels: int, networks: int | None, repeats: int) -> dict:
    """Measure one architecture: 2 inputs, ``depth`` weights, 1 output."""
    architecture = Architecture.mlp([2, *[width] * (depth - 1), 1])
    batch = networks or max(1, BUDGET // (architecture.num_edges * channels))
    layer = EquivariantLinear(architecture, channels, channels)
    shapes = (architecture.num_nodes, architecture.num_edges)
    x, e = (torch.randn(batch, n, channels, requires_grad=True) for n in shapes)
    seeds = torch.randn_like(x), torch.randn_like(e)

    def run() -> tuple[Tensor, ...]:
        return step(layer, layer, (x, e), seeds)

    def run_naive() -> tuple[Tensor, ...]:
        return step(lambda x, e: naive(layer, x, e), layer, (x, e), seeds)

    # The naive form of large networks would leave the heap full of holes, at twenty times what the
    # features take.
    harness.keep_memory(False)
    start = time.process_time()
    expected = run_naive()
    # A call of many seconds is not repeated: it stands for itself.
    is_slow = time.process_time() - start > SLOW_S
    naive_repeats = 1 if is_slow else min(repeats, 5)
    error = disagreement(run(), expected)
    del expected
    harness.keep_memory()
    if error > 1e-4:
        raise SystemExit(f"the forms disagree by {error:.2g} at width {width}, depth {depth}")
    alone, operations = products(layer, e, seeds[1])
    ours, product = harness.measure_together([run, alone], repeats)
    harness.keep_memory(not is_slow)
    other = harness.measure(run_naive, naive_repeats, 0)
    memory = [harness.peak_growth_mib(run), harness.peak_growth_mib(run_naive)]
    # One thread's own time: waiting for other processes is no part of it.
    alone_here = torch.get_num_threads() == 1
    time_ms, product_ms, naive_ms = (
        timing.cpu_ms if alone_here else timing.wall_ms for timing in (ours, product, other)
    )
    rate = operations / (time_ms * 1e6)
    return {
        "width": width,
        "depth": depth,
        "channels": channels,
        "networks": batch,
        "edges": architecture.num_edges,
        "time_ms": _digits(time_ms),
        "naive_ms": _digits(naive_ms),
        "naive_repeats": naive_repeats,
        "speedup": _digits(naive_ms / time_ms),
        "products_ms": _digits(product_ms),
        "product_share": _digits(product_ms / time_ms),
        "gflops": _digits(rate),
        "machine_share": _digits(rate / harness.matmul_gflops()),
        "us_per_edge": _digits(time_ms * 1e3 / (batch * architecture.num_edges)),
        "peak_mib": _digits(memory[0]),
        "naive_peak_mib": _digits(memory[1]),
        "features_mib": _digits((x.numel() + e.numel()) * 4 / 2**20),
        "disagreement": float(f"{error:.2g}"),
    }


def _digits(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.3g}")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("equivariant.py", description=__doc__)
    made.add_argument("--widths", type=int, nargs="+", default=[32, 128, 512])
    made.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16])
    made.add_argument("--channels", type=int, default=64)
    made.add_argument("--networks", type=int, default=None, help="default: by memory")
    made.add_argument("--repeats", type=int, default=15)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "equivariant.csv")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its rows."""
    made = parser()
    arguments = made.parse_args(argv)
    harness.keep_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for width in arguments.widths:
        for depth in arguments.depths:
            found = row(width, depth, arguments.channels, arguments.networks, arguments.repeats)
            command = harness.command_line(made, arguments)
            row_keys = ["width", "depth", "channels", "cpu", "threads"]
            rows = [{**found, **harness.machine(), "command": command}]
            harness.write_rows(arguments.out, rows, row_keys)
            print(" ".join(f"{name}={value}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
