"""Of which real architectures neurons can be removed, and that it is the same as masking them.

For one model of every timm family and many tiny transformers, with random weights: half of the
neurons of every space that may lose some are removed, by norm; how many spaces those are, how many
stay whole since removing is not masking there or since the module does not run with other sizes,
how many parameters are left, and by how much the outputs with neurons removed and with neurons
masked differ (float64, on parameters with noise added and on the own ones).
"""

from __future__ import annotations

import argparse
import gc
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
from conversion_models import Case, timm_cases, transformers_cases

from converters import permutation_spec
from nngraph.errors import NNGraphError
from nngraph.pruning import prune

KEYS = ("library", "family", "model")
LIBRARIES = ("timm", "transformers")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("pruning_coverage.py", description=__doc__)
    made.add_argument("--library", nargs="*", choices=LIBRARIES, default=list(LIBRARIES))
    made.add_argument("--only", nargs="*", default=[], help="families; default: all")
    made.add_argument("--keep", type=float, default=0.5, help="share of neurons that stay")
    made.add_argument("--cpu-seconds", type=int, default=240, help="for each, after the spec")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--resume", action="store_true", help="leave out what has a row already")
    made.add_argument(
        "--out", type=Path, default=harness.RESULTS / "pruning_coverage.csv", help="result file"
    )
    return made


def cases(libraries: Sequence[str]) -> Iterator[Case]:
    """Iterate over the cases of some libraries."""
    if "transformers" in libraries:
        yield from transformers_cases()
    if "timm" in libraries:
        yield from timm_cases()


class OutOfTime(BaseException):
    """A case took longer than it may; no error of a forward, which would be a result."""


def _stop(*_: object) -> None:
    raise OutOfTime


def judge(case: Case, keep: float, seconds: int) -> dict[str, Any]:
    """Prune one network and return its row."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, args, kwargs = case.make()
        spec = permutation_spec(module, args, kwargs=kwargs)
        spaces = [space for space in spec.free_spaces if space.size > 1]
        start = time.process_time()
        signal.signal(signal.SIGPROF, _stop)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            pruned = prune(module, args, kwargs=kwargs, keep=keep, spec=spec)
        except OutOfTime:
            return {"spaces": len(spaces), "error": f"not done in {seconds} CPU seconds"}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    masking = sum("not masking" in reason for reason in pruned.refused.values())
    before, after = pruned.parameters
    return {
        "spaces": len(spaces), "pruned": len(pruned.removal.kept), "normalised": masking,
        "unfit": len(pruned.refused) - masking, "parameters": before,
        "left_share": round(after / before, 4), "law_error": float(f"{pruned.error:.1e}"),
        "cpu_seconds": round(time.process_time() - start, 1),
        "unfit_reason": next((r[:160] for r in pruned.refused.values() if "does not run" in r), ""),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Judge all cases, write a row for each and print the sums."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    kept = harness.read_rows(arguments.out) if arguments.resume else []
    done = {(row["library"], row["model"]) for row in kept}
    facts = harness.machine() | {"command": harness.command_line(made, arguments)}
    for case in cases(arguments.library):
        left_out = arguments.only and case.family not in arguments.only
        if left_out or (case.library, case.model) in done:
            continue
        row: dict[str, Any] = {key: getattr(case, key) for key in KEYS} | {"keep": arguments.keep}
        try:
            row |= judge(case, arguments.keep, arguments.cpu_seconds)
        except (NNGraphError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            # A model that cannot be built or traced, or a mistake of ours: a row that says so.
            row["error"] = f"{type(error).__name__}: {error}"[:200]
        harness.write_rows(arguments.out, [row | facts], KEYS)
        print(" ".join(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)
        gc.collect()
    print(summary(harness.read_rows(arguments.out)))


def summary(rows: Sequence[dict[str, str]]) -> str:
    """Return a table of the sums for each library."""
    table = []
    for library in dict.fromkeys(row["library"] for row in rows):
        own = [row for row in rows if row["library"] == library]
        pruned = [row for row in own if int(row.get("pruned") or 0)]
        table.append(
            {
                "library": library, "models": len(own), "pruned": len(pruned),
                "spaces": sum(int(row.get("spaces") or 0) for row in own),
                "spaces pruned": sum(int(row["pruned"]) for row in pruned),
                "normalised": sum(int(row.get("normalised") or 0) for row in own),
                "unfit": sum(int(row.get("unfit") or 0) for row in own),
                "largest law error": max((float(row["law_error"]) for row in pruned), default=""),
            }
        )
    return harness.markdown(table, list(table[0]) if table else [])


if __name__ == "__main__":
    main()
