"""Files of every container, hurt in many ways: what reading them raises, and what memory it takes.

Each file is cut, flipped, overwritten with huge numbers, given parts of files of other kinds, or
has entries of its archive hurt behind right checksums. A reader may return, or raise an error of
the library; anything else, or more than ``--seconds`` for one file, is a fault: its seed is told.
More memory than a reader was allowed is exit code 1, too.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import torch

# The files of the tests, and the ways of hurting them.
sys.path += [str(Path(__file__).parents[1] / "tests" / "converters")]

from hostile_files import LIMIT, Fuzz

KEYS = ("container",)
#: Mutations before memory is looked at, of other seeds: what libraries keep for good.
WARM_UP = 300


class Late(BaseException):
    """One file took too long; no reader catches this."""


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("hostile.py", description=__doc__)
    made.add_argument("--mutations", type=int, default=100_000)
    made.add_argument("--first", type=int, default=0, help="seed of the first of them")
    made.add_argument("--seconds", type=int, default=20, help="that one file may take")
    made.add_argument("--out", type=Path, default=harness.RESULTS / "hostile.csv")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Read hurt files and write a row for each container; exit code 1 after a fault."""
    made = parser()
    arguments = made.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    spent: Counter[str] = Counter()
    grown: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        for seed in range(WARM_UP):
            _outcome(fuzz, -1 - seed, arguments.seconds)
        for seed in range(arguments.first, arguments.first + arguments.mutations):
            kind = fuzz.kinds[seed % len(fuzz.kinds)]
            start, before = time.process_time(), _most_memory()
            counts[kind][_outcome(fuzz, seed, arguments.seconds)] += 1
            spent[kind] += time.process_time() - start
            grown[kind] = max(grown[kind], _most_memory() - before)
    end: dict[str, Any] = {
        "limit_mib": LIMIT // 2**20, "command": harness.command_line(made, arguments),
        **harness.machine(),
    }  # fmt: skip
    rows = [
        {
            "container": kind, "mutations": found.total(), "refused": found["refused"],
            "read": found["read"], "faults": found["fault"],
            "cpu_ms": round(1000 * spent[kind] / found.total(), 2),
            "memory_mib": round(grown[kind] / 2**10, 1),
        } | end
        for kind, found in sorted(counts.items())
    ]  # fmt: skip
    harness.write_rows(arguments.out, rows, KEYS)
    shown = ("container", "mutations", "refused", "read", "faults", "cpu_ms", "memory_mib")
    print(harness.markdown(rows, shown))
    print(f"memory_mib: the most that one file added, of {LIMIT // 2**20} that a reader may take")
    if any(row["faults"] or row["memory_mib"] > row["limit_mib"] for row in rows):
        raise SystemExit(1)


def _outcome(fuzz: Fuzz, seed: int, seconds: int) -> str:
    signal.alarm(seconds)
    try:
        return "read" if fuzz.run(seed)[1] is None else "refused"
    except (Exception, Late):
        print(f"seed {seed}:\n{traceback.format_exc(limit=-4)}", file=sys.stderr)
        return "fault"
    finally:
        signal.alarm(0)


def _most_memory() -> int:
    """KiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _late(*_: object) -> None:
    raise Late


if __name__ == "__main__":
    main()
