"""What every benchmark shares: timing, memory, the machine's own rate, and rows in a CSV file."""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

# Before torch: idle OpenMP threads that spin make small products several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch.profiler import ProfilerActivity, profile

import nngraph
from nngraph.files import write_atomically
from nngraph.memory import keep_memory

__all__ = [
    "COMMIT",
    "RESULTS",
    "Timing",
    "command_line",
    "commit_of",
    "keep_memory",
    "machine",
    "markdown",
    "matmul_gflops",
    "measure",
    "measure_together",
    "name_of",
    "named",
    "peak_growth_mib",
    "read_rows",
    "write_rows",
]

#: Where the result files are.
RESULTS = Path(__file__).parent / "results"
#: Options that say where rows and figures go, or which rows are there: none of them changes a row.
UNSAID = ("out", "figure", "resume")


def commit_of(folder: Path) -> str:
    """Return the commit of the code in a folder, with ``+`` where Python files differ from it.

    Empty where the folder is not in a git checkout, or git does not know its code.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--", ":/*.py")
        return git("rev-parse", "--short", "HEAD").strip() + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


#: The code that is measured, as it is imported: while a benchmark runs, the checkout may move on.
COMMIT = commit_of(Path(nngraph.__file__).parent)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and the 10 % and 90 % quantiles over the repeats.

    CPU time is that of all threads together; wall time also counts waiting for other processes.
    """

    cpu_ms: float
    cpu_ms_q10: float
    cpu_ms_q90: float
    wall_ms: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures, rounded to four digits."""
        return {name: float(f"{value:.4g}") for name, value in vars(self).items()}


def measure(function: Callable[[], object], repeats: int = 20, warmup: int = 3) -> Timing:
    """Time a function after some calls that are not counted."""
    (timing,) = measure_together([function], repeats, warmup)
    return timing


def measure_together(
    functions: Sequence[Callable[[], object]], repeats: int = 20, warmup: int = 3
) -> list[Timing]:
    """Time functions in turns, so that what disturbs the machine disturbs all of them alike."""
    for function in list(functions) * warmup:
        function()
    cpu: list[list[float]] = [[] for _ in functions]
    wall: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for i, function in enumerate(functions):
            at_cpu, at_wall = time.process_time(), time.perf_counter()
            function()
            cpu[i].append((time.process_time() - at_cpu) * 1e3)
            wall[i].append((time.perf_counter() - at_wall) * 1e3)
    levels = torch.tensor([0.1, 0.5, 0.9])
    found = []
    for one, other in zip(cpu, wall, strict=True):
        low, median, high = torch.tensor(one).quantile(levels).tolist()
        found.append(Timing(median, low, high, float(torch.tensor(other).median())))
    return found


def matmul_gflops(size: int = 1024, repeats: int = 10) -> float:
    """Return the rate of float32 matrix products here and now, in 10^9 operations per second."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    timing = measure(lambda: one @ other, repeats)
    # Wall time: of all threads that torch was given.
    return 2 * size**3 / (timing.wall_ms * 1e6)


def peak_growth_mib(function: Callable[[], object]) -> float:
    """Return by how much a call raises what tensors hold in memory at its peak.

    Counted request by request, so that neither holes in the heap nor what the process keeps of
    earlier calls comes in. The call is several times slower for it.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    recorded = profiler.profiler.kineto_results.events()
    events = sorted((e for e in recorded if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(accumulate((e.nbytes() for e in events), initial=0)) / 2**20


def machine() -> dict[str, str | int]:
    """Return what a figure depends on beside the code: processor, threads and versions."""
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "nngraph": nngraph.__version__,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def named(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME`` or ``NAME:JSON``, a name with options."""
    name, _, options = text.partition(":")
    return name, json.loads(options) if options else {}


def name_of(table: Collection[str]) -> Callable[[str], str]:
    """Return what checks that an argument is ``NAME`` or ``NAME:JSON``, with a name of a table."""

    def checked(text: str) -> str:
        name, _ = named(text)
        if name not in table:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(table)}")
        return text

    return checked


def command_line(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """Return the command that makes these rows again, without the paths of this machine.

    Options that have their default are left out, as are those of :data:`UNSAID`; a folder stands as
    its option's metavar, such as ``ZOO``.
    """
    words = ["python", f"benchmarks/{parser.prog}"]
    # What has no option comes first: after one that takes several values it would be one of them.
    for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
        value = getattr(arguments, action.dest, None)
        left_out = value is None or value == action.default or action.dest in UNSAID
        if left_out:
            continue
        words += action.option_strings[-1:]
        if value is True:  # a switch
            continue
        for item in value if isinstance(value, list) else [value]:
            words.append(str(action.metavar) if isinstance(item, Path) else str(item))
    return shlex.join(words)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a result file; no file has no rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Put rows into a result file: each replaces the row with the same keys, or comes at the end.

    Each carries the ``commit`` it was measured at. The file is a CSV with a header; a column that a
    row lacks is empty there. Numbers are written with the digits that they have.

    Raises:
        SystemExit: if that commit is not known.
    """
    if not COMMIT:
        raise SystemExit(
            f"{Path(nngraph.__file__).parent} is not in a git checkout, so that rows of "
            f"{path.name} could not say what was measured. Nothing was written."
        )
    table = {tuple(row.get(key, "") for key in keys): dict(row) for row in read_rows(path)}
    for row in rows:
        plain = {name: _plain(value) for name, value in row.items()} | {"commit": COMMIT}
        table[tuple(plain.get(key, "") for key in keys)] = plain
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    lines: list[str] = []

    class Lines:
        def write(self, text: str) -> None:
            lines.append(text)

    writer = csv.DictWriter(Lines(), columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, sort_keys=True)
    return str(value)


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return some columns of rows as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [_plain(row.get(column)).replace("|", "\\|") for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
