"""Which scales, signs and linear maps real architectures have beside relabelling, and that they do.

For one model of every timm family, and many tiny transformers: the kinds of maps that are derived,
how many dimensions they have, whether elements of the whole group leave the outputs of a network
with random weights unchanged (float64), whether a mistake would have been seen, and how long it
took.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from conversion_coverage import LIBRARIES, cases
from conversion_models import Case

from converters import symmetry_spec, verify
from nngraph.errors import NNGraphError

KEYS = ("library", "family", "model")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("group_coverage.py", description=__doc__)
    made.add_argument("--library", nargs="*", choices=LIBRARIES, default=["timm", "transformers"])
    made.add_argument("--only", nargs="*", default=[], help="families; default: all")
    made.add_argument("--alone", type=int, default=2, help="spaces, and maps, proven alone")
    made.add_argument("--largest", type=int, default=10**8, help="parameters of the largest tried")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--resume", action="store_true", help="leave out what has a row already")
    made.add_argument("--out", type=Path, default=harness.RESULTS / "group_coverage.csv")
    return made


def judge(case: Case, alone: int, largest: int) -> dict[str, Any]:
    """Derive and verify one network, and return its row."""
    row: dict[str, Any] = dict(zip(KEYS, (case.library, case.family, case.model), strict=True))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, args, kwargs = case.make()
        row["parameters"] = sum(p.numel() for p in module.parameters())
        if row["parameters"] > largest:
            return row | {"status": "too large"}
        start = time.perf_counter()
        try:
            spec = symmetry_spec(module, args, kwargs=kwargs)
        except NNGraphError as error:
            return row | {"status": "refused", "error": str(error)[:200]}
        derived = time.perf_counter()
        kinds = Counter(maps.kind for maps in spec.generators)
        row |= {
            "spaces": len(spec.permutations.free_spaces), "dimension": spec.dimension,
            "kinds": " ".join(f"{kind}:{count}" for kind, count in sorted(kinds.items())),
            "seconds": round(derived - start, 2),
        }
        try:
            report = verify(spec, module, args, kwargs=kwargs, samples=1, alone=alone)
        except (NNGraphError, RuntimeError, ValueError, TypeError) as error:
            return row | {"status": "", "error": f"{type(error).__name__}: {error}"[:200]}
    return row | {
        "status": report.status, "worst": float(f"{report.worst:.1e}"),
        "power": "" if report.power is None else float(f"{report.power:.1e}"),
        "condition": float(f"{report.condition:.1e}"),
        "proof_seconds": round(time.perf_counter() - derived, 2),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all cases, write a row for each; exit with 1 where a claim does not hold."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    kept = harness.read_rows(arguments.out) if arguments.resume else []
    done = {tuple(row[key] for key in KEYS) for row in kept}
    facts = harness.machine() | {"command": harness.command_line(made, arguments)}
    fails = 0
    for case in cases(arguments.library):
        names = (case.library, case.family, case.model)
        if names in done or (arguments.only and case.family not in arguments.only):
            continue
        try:
            row = judge(case, arguments.alone, arguments.largest)
        except Exception as error:
            # A model that cannot be built, or a mistake of ours: either way a row that says so.
            failed = {"status": "", "error": f"{type(error).__name__}: {error}"[:200]}
            row = dict(zip(KEYS, names, strict=True)) | failed
        fails += row["status"] == "fails"
        harness.write_rows(arguments.out, [row | facts], KEYS)
        print(" ".join(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        gc.collect()
    statuses = Counter(row["status"] or "failed to run" for row in harness.read_rows(arguments.out))
    print(", ".join(f"{count} {status}" for status, count in statuses.most_common()))
    if fails:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
