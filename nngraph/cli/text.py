"""Plain text for people: tables, percentages, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Measures that are told as percentages.
SHARES = ("accuracy", "probe_accuracy", "matched")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Return a table: the first column to the left, the others, which are numbers, to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(text)


def pairs(values: Mapping[str, Any], indent: str = "  ") -> str:
    """Return names and values, one pair on a line."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {value}" for name, value in values.items())


def percent(share: float) -> str:
    """Return a share as a percentage; ``100.0 %`` is said of nothing less than all."""
    shown = f"{100 * share:.1f} %"
    return f"{100 * share:.4f} %" if shown == "100.0 %" and share != 1 else shown


def number(value: float | None) -> str:
    """Return a number in few digits; ``-`` if there is none."""
    return "-" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    whole = round(seconds)
    return f"{seconds:.1f} s" if seconds < 60 else f"{whole // 60} min {whole % 60} s"
