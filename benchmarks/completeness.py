"""How much of a network's symmetry is derived: its dimension against that of a null space.

Small networks of every family. The derived group is held against the network by drawing from it;
that it is all there is, is judged by linear algebra that knows nothing of the derivation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness

# The networks of the tests, and what is known to be missed.
sys.path += [str(Path(__file__).parents[1] / "tests" / room) for room in
             ("converters", "converters/symmetry")]  # fmt: skip

from group_cases import CASES, MISSED, build

from converters import symmetry_spec, verify
from nngraph.basis import null_space

KEYS = ("network",)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("completeness.py", description=__doc__)
    made.add_argument("--network", nargs="+", choices=[*CASES], default=[*CASES])
    made.add_argument("--out", type=Path, default=harness.RESULTS / "completeness.csv")
    return made


def judge(name: str) -> dict[str, Any]:
    """Derive, prove and judge one network."""
    module, inputs = build(name)
    start = time.perf_counter()
    spec = symmetry_spec(module, inputs[:3])
    seconds = time.perf_counter() - start
    found, report = null_space(module, inputs), verify(spec, module, inputs[:3])
    kinds = Counter(maps.kind for maps in spec.generators)
    return {
        "network": name, "parameters": found.parameters, "idle": found.idle,
        "derived": spec.dimension, "jacobian": found.dimension,
        "difference": found.dimension - spec.dimension, "why": MISSED.get(name, (0, ""))[1],
        "kinds": " ".join(f"{kind}:{count}" for kind, count in sorted(kinds.items())),
        "status": report.status, "worst": float(f"{report.worst:.1e}"),
        "gap": float(f"{found.gap:.1e}"), "seconds": round(seconds, 2),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Judge, write rows and print them; exit with 1 where a claim does not hold."""
    made = parser()
    arguments = made.parse_args(argv)
    end = {"command": harness.command_line(made, arguments), **harness.machine()}
    rows = [{**judge(name), **end} for name in arguments.network]
    print(harness.markdown(rows, ("network", "derived", "jacobian", "difference", "status")))
    harness.write_rows(arguments.out, rows, KEYS)
    if any(row["status"] == "fails" or row["difference"] < 0 for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
