"""Which real architectures the derivation of permutation symmetry covers, and that it is right.

For one model of every timm family, many tiny transformers, and public modules of other kinds: does
it convert, does every tensor come back from the graph's features bit by bit, do its relabellings
leave the outputs of a network with random weights unchanged (float64), would a mistake have been
seen (`power`, and how many of the wrong specs that are made of the right one are caught), which
operations had no rule, what share of the parameters' axes is free, and how long did it take.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from conversion_models import Case, timm_cases, transformers_cases
from conversion_modules import module_cases

from converters import verify
from converters.from_modules import build_architecture
from converters.inspection import named_tensors
from converters.symmetry import Derivation, derive
from converters.symmetry.mutants import catch_mutants
from converters.symmetry.spec import count_free
from nngraph.errors import NNGraphError
from nngraph.graph import NeuralGraph
from nngraph.graph.parameters import pack, pack_integers, unpack

KEYS = ("library", "family", "model")
LIBRARIES = ("timm", "transformers", "torch", "torch_geometric", "packages", "forms")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("conversion_coverage.py", description=__doc__)
    made.add_argument("--library", nargs="*", choices=LIBRARIES, default=list(LIBRARIES))
    made.add_argument("--only", nargs="*", default=[], help="families; default: all")
    made.add_argument("--alone", type=int, default=1, help="spaces proven alone, drawn at random")
    made.add_argument("--mutants", type=int, default=8, help="wrong specs to try on each network")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--resume", action="store_true", help="leave out what has a row already")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "conversion_coverage.csv", help="result file"
    )
    return made


def cases(libraries: Sequence[str]) -> Iterator[Case]:
    """Iterate over the cases of some libraries."""
    if "timm" in libraries:
        yield from timm_cases()
    if "transformers" in libraries:
        yield from transformers_cases()
    yield from (case for case in module_cases() if case.library in libraries)


def judge(case: Case, alone: int, mutants: int) -> dict[str, Any]:
    """Convert one network, verify it, and return its row."""
    row: dict[str, Any] = {"library": case.library, "family": case.family, "model": case.model}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, args, kwargs = case.make()
        row["parameters"] = sum(p.numel() for p in module.parameters())
        row["inputs"] = [
            list(t.shape) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)
        ]
        start = time.perf_counter()
        try:
            derivation = derive(module, args, kwargs=kwargs)
        except NNGraphError as error:
            return row | {"converts": 0, "error": str(error)[:200]}
        seconds = time.perf_counter() - start
        free, axes = count_free(derivation.spec)
        row |= {
            "converts": 1, "operations": derivation.operations,
            "spaces": len(derivation.spec.free_spaces), "axes": axes, "free_axes": free,
            "free_share": round(free / max(axes, 1), 3),
            "unruled": " ".join(derivation.unruled), "seconds": round(seconds, 2),
        }
        row |= graph_facts(derivation, module)
        try:
            report = verify(derivation, module, args, kwargs=kwargs, samples=1, alone=alone)
            test = catch_mutants(derivation.spec, module, args, kwargs=kwargs, count=mutants)
        except (NNGraphError, RuntimeError, ValueError, TypeError) as error:
            return row | {"proof": "", "error": f"{type(error).__name__}: {error}"[:200]}
    reasons = [reason for reason, _ in test.survivors]
    return row | {
        "proof": report.status,
        "change": float(f"{report.worst:.1e}"),
        "power": "" if report.power is None else float(f"{report.power:.1e}"),
        "mutants": test.total,
        "caught": test.caught,
        **{reason: reasons.count(reason) for reason in ("idle", "true", "missed")},
        "proof_seconds": round(time.perf_counter() - start - seconds, 2),
    }


def graph_facts(derivation: Derivation, module: torch.nn.Module) -> dict[str, Any]:
    """Make the graph's features, and say whether every tensor comes back from them bit by bit."""
    state = named_tensors(module)
    architecture = build_architecture(derivation, state)
    graph = NeuralGraph.from_parameters(
        architecture, {p.name: state[p.name].detach() for p in architecture.parameters}
    )
    parameters = graph.parameters()
    integers = pack_integers(architecture, parameters) if architecture.integers else None
    back = unpack(architecture, *pack(architecture, parameters), integers)
    same = all(torch.equal(back[name], value) for name, value in parameters.items())
    return {
        "groups": len(architecture.groups), "edges": architecture.num_edges,
        "round_trips": int(same and back.keys() == parameters.keys()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all cases, write a row for each and print the sums."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    kept = harness.read_rows(arguments.out) if arguments.resume else []
    done = {(row["library"], row["model"]) for row in kept}
    facts = harness.machine() | {"command": harness.command_line(made, arguments)}
    for case in cases(arguments.library):
        if (arguments.only and case.family not in arguments.only) or (
            (case.library, case.model) in done
        ):
            continue
        try:
            row = judge(case, arguments.alone, arguments.mutants)
        except Exception as error:
            # A model that cannot be built, or a mistake of ours: either way a row that says so.
            row = {
                "library": case.library, "family": case.family, "model": case.model,
                "converts": 0, "error": f"{type(error).__name__}: {error}"[:200],
            }
        harness.write_rows(arguments.out, [row | facts], KEYS)
        print(" ".join(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        gc.collect()
    print(summary(harness.read_rows(arguments.out)))


def summary(rows: Sequence[dict[str, str]]) -> str:
    """Return a table of the sums for each library."""
    table = []
    for library in dict.fromkeys(row["library"] for row in rows):
        own = [row for row in rows if row["library"] == library]
        converted = [row for row in own if row["converts"] == "1"]
        shares = sorted(float(row["free_share"]) for row in converted)
        times = sorted(float(row["seconds"]) for row in converted)
        table.append(
            {
                "library": library, "models": len(own), "converted": len(converted),
                "no rule missing": sum(not row["unruled"] for row in converted),
                "came back": sum(row.get("round_trips") == "1" for row in converted),
                "proven": sum(row.get("proof") == "holds" for row in converted),
                "not proven": sum(row.get("proof") == "not proven" for row in converted),
                "unsound": sum(row.get("proof") == "fails" for row in converted),
                "mutants": sum(int(row.get("mutants") or 0) for row in converted),
                "caught": sum(int(row.get("caught") or 0) for row in converted),
                "missed": sum(int(row.get("missed") or 0) for row in converted),
                "median free share": shares[len(shares) // 2] if shares else "",
                "median seconds": times[len(times) // 2] if times else "",
            }
        )
    return harness.markdown(table, list(table[0]) if table else [])


if __name__ == "__main__":
    main()
