"""Where the benchmark scripts and their result files are."""

from __future__ import annotations

import csv
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
#: What is run, unlike what several scripts share.
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py") if "def main(" in p.read_text())


def rows(path: Path) -> list[dict[str, str]]:
    """Read a result file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
