"""How the derivation grows with the steps of loops: in-place writes, scans, caches, by the step."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor, nn

from converters import permutation_spec, verify
from converters.from_modules import build_architecture
from converters.inspection import named_tensors
from converters.symmetry.derive import Derivation, derive_traced
from converters.symmetry.tracing import trace

KEYS = ("family", "steps")


class Scan(nn.Module):
    """Layers around a loop, which gets the module and the features ``[batch, steps, width]``."""

    def __init__(self, body: Callable[[Scan, Tensor], Tensor], width: int, out: int) -> None:
        super().__init__()
        self.body = body
        self.first, self.last = nn.Linear(3, width), nn.Linear(out, 2)
        self.mix, self.qkv = nn.Linear(width, width), nn.Linear(width, 3 * width)
        self.decay = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, steps, 3]`` to ``[batch, steps, 2]``, or with one index less."""
        return self.last(self.body(self, self.first(x)))

    def heads(self, h: Tensor) -> list[Tensor]:
        """Queries, keys and values in two heads, ``[batch, 2, steps, features]``."""
        parts = self.qkv(h).chunk(3, -1)
        return [part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts]


def along_neurons(module: Scan, h: Tensor) -> Tensor:
    """Add to each neuron the one before it."""
    h = h.clone()
    for i in range(1, h.shape[-1]):
        h[..., i] = h[..., i] + h[..., i - 1]
    return h


def along_batch(module: Scan, h: Tensor) -> Tensor:
    """Add to each network input the one before it."""
    h = h.clone()
    for i in range(1, h.shape[0]):
        h[i] = h[i] + h[i - 1]
    return h


def along_sequence(module: Scan, h: Tensor) -> Tensor:
    """Add to each step a layer of the one before it, in place."""
    h = h.clone()
    for i in range(1, h.shape[1]):
        h[:, i] = h[:, i] + torch.tanh(module.mix(h[:, i - 1]))
    return h


def unrolled(module: Scan, h: Tensor) -> Tensor:
    """Unroll a recurrent cell and stack its states."""
    state, states = torch.zeros_like(h[:, 0]), []
    for step in h.unbind(1):
        state = torch.tanh(step + module.mix(state))
        states.append(state)
    return torch.stack(states, 1)


def filled(module: Scan, h: Tensor) -> Tensor:
    """Fill an uninitialised tensor row by row."""
    out = torch.empty_like(h)
    for i, step in enumerate(h.unbind(1)):
        out[:, i] = module.mix(step)
    return out


def delta_rows(module: Scan, h: Tensor) -> Tensor:
    """Solve a triangular system row by row, as the chunked gated delta rule does."""
    q, k, v = module.heads(h)
    mask = torch.triu(torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device))
    attn = (q @ k.transpose(-1, -2)).masked_fill(mask, 0)
    for i in range(1, h.shape[1]):
        row, sub = attn[..., i, :i].clone(), attn[..., :i, :i].clone()
        attn[..., i, :i] = row + (row.unsqueeze(-1) * sub).sum(-2)
    return (attn @ v).transpose(1, 2).flatten(2)


def delta_states(module: Scan, h: Tensor) -> Tensor:
    """Update a state matrix step by step and write what is read of it into slices."""
    q, k, v = module.heads(h)
    decay = module.decay(h).sigmoid().transpose(1, 2)
    out, state = torch.zeros_like(v), torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
    for i in range(h.shape[1]):
        held = (state * k[:, :, i, :, None]).sum(-2)
        state = state * decay[:, :, i, None, None]
        state = state + k[:, :, i, :, None] * (v[:, :, i] - held)[:, :, None]
        out[:, :, i] = (state * q[:, :, i, :, None]).sum(-2)
    return out.transpose(1, 2).flatten(2)


def cache(module: Scan, h: Tensor, grown: bool = False) -> Tensor:
    """Attend, step by step, to keys and values that are written into slices of a cache."""
    parts = module.heads(h)
    keys, values = (torch.zeros_like(parts[1])[:, :, : 0 if grown else None] for _ in range(2))
    out = []
    for i in range(h.shape[1]):
        q, k, v = (part[:, :, i : i + 1] for part in parts)
        if grown:
            keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        else:
            keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
        scores = (q @ keys[:, :, : i + 1].transpose(-1, -2)).softmax(-1)
        out.append(scores @ values[:, :, : i + 1])
    return torch.cat(out, 2).transpose(1, 2).flatten(2)


def grown_cache(module: Scan, h: Tensor) -> Tensor:
    """Attend to keys and values that ``torch.cat`` appends to, step by step."""
    return cache(module, h, grown=True)


def masked(module: Scan, h: Tensor) -> Tensor:
    """Build a mask row by row, and attend with it."""
    mask = torch.zeros(h.shape[1], h.shape[1], device=h.device)
    for i in range(h.shape[1]):
        mask[i, i + 1 :] = -1e4
    return (h @ h.transpose(-1, -2) + mask).softmax(-1) @ h


#: Name -> the loop, the shape of its inputs and its width at n steps, and its free spaces.
FAMILIES: dict[str, tuple[Callable[[Scan, Tensor], Tensor], Callable[[int], Any], list[int]]] = {
    "neurons in place": (along_neurons, lambda n: ((2, 1, 3), n), []),
    "batch in place": (along_batch, lambda n: ((n, 1, 3), 8), [8]),
    "sequence in place": (along_sequence, lambda n: ((2, n, 3), 8), [8]),
    "cell unrolled": (unrolled, lambda n: ((2, n, 3), 8), [8]),
    "empty filled by rows": (filled, lambda n: ((2, n, 3), 8), [8, 8]),
    "delta rule, rows": (delta_rows, lambda n: ((2, n, 3), 8), [2, 4, 4, 8]),
    "delta rule, states": (delta_states, lambda n: ((2, n, 3), 8), [2, 4, 4, 8]),
    "cache written": (cache, lambda n: ((2, n, 3), 8), [2, 4, 4, 8]),
    "cache grown": (grown_cache, lambda n: ((2, n, 3), 8), [2, 4, 4, 8]),
    "mask by rows": (masked, lambda n: ((2, n, 3), 8), [8]),
}


def make(family: str, steps: int) -> tuple[nn.Module, Tensor]:
    """Return a network of a family and inputs for so many steps."""
    body, sizes, _ = FAMILIES[family]
    shape, width = sizes(steps)
    return Scan(body, width, width).eval(), torch.randn(*shape)


def check(family: str) -> None:
    """Hold the spaces of a family against those written here, and against the network."""
    module, inputs = make(family, 6)
    spec = permutation_spec(module, inputs, strict=True)
    sizes, expected = sorted(space.size for space in spec.free_spaces), FAMILIES[family][2]
    report = verify(spec, module, inputs)
    if sizes != expected or not report.holds:
        raise SystemExit(f"{family}: spaces {sizes}, not {expected}; {report} Nothing was timed.")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("scans.py", description=__doc__)
    made.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    made.add_argument("--steps", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, default=harness.RESULTS / "scans.csv")
    return made


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU seconds of some calls."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def measured(family: str, steps: int, repeats: int) -> dict[str, Any]:
    """Time tracing, the derivation of what was traced, and the graph's architecture, apart."""
    module, inputs = make(family, steps)
    start = time.process_time()
    program = trace(module, (inputs,), {})
    tracing, operations = time.process_time() - start, len(program.operations)

    def derived() -> Derivation:
        # A derivation takes operations apart and adds tensors.
        fresh = replace(program, results=dict(program.results))
        return derive_traced(fresh, module, strict=True)

    derivation, state = derived(), named_tensors(module)
    times = {
        "tracing": tracing, "derivation": seconds(derived, repeats),
        "graph": seconds(lambda: build_architecture(derivation, state), repeats),
    }
    return {
        "family": family, "steps": steps, "operations": operations,
        "groups": len(build_architecture(derivation, state).groups),
        **{f"{name}_ms": round(spent * 1e3, 1) for name, spent in times.items()},
        **{f"{name}_ms_per_operation": spent * 1e3 / operations for name, spent in times.items()},
    }


def grown(family: str, counts: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Measure a family at several numbers of steps; each ratio is to the row before."""
    check(family)
    rows: list[dict[str, Any]] = []
    for count in counts:
        row = measured(family, count, repeats)
        if rows:
            for name in ("derivation", "graph"):
                row[f"{name}_ratio"] = round(row[f"{name}_ms"] / rows[-1][f"{name}_ms"], 2)
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time, write rows and print them."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    end = {"command": harness.command_line(made, arguments), **harness.machine()}
    rows: list[dict[str, Any]] = []
    for family in arguments.family:
        found = grown(family, arguments.steps, arguments.repeats)
        harness.write_rows(arguments.out, [{**row, **end} for row in found], KEYS)
        rows += found
    columns = ("family", "steps", "operations", "tracing_ms", "derivation_ms", "derivation_ratio",
               "graph_ms", "graph_ratio", "groups")  # fmt: skip
    print(harness.markdown(rows, columns))


if __name__ == "__main__":
    main()
