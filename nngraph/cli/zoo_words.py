"""What the commands ``nngraph zoo ...`` say about a zoo."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from nngraph.cli import text
from nngraph.cli.common import tell
from nngraph.zoo import Zoo, histogram

__all__ = ["tell_zoo", "this_command"]

#: Architectures that are named; of more only the number is told.
_SHOWN = 6
#: Facts that are shown as histograms.
_QUALITIES = ("psnr", "test_accuracy")


def this_command() -> str:
    """Return the command line of this process; of paths only the last part, for the record."""
    words = [word if os.sep not in word else Path(word).name for word in sys.argv[1:]]
    return shlex.join(["nngraph", *words])


def tell_zoo(options: Namespace, zoo: Zoo) -> int:
    """Tell what is in a zoo, and return the exit code of success."""
    info = zoo.info()
    tell(
        options, {"path": str(zoo.path), **info},
        lambda: _zoo_words(zoo.path, info) + "".join(_histograms(zoo)),
    )  # fmt: skip
    return 0


def _histograms(zoo: Zoo) -> Iterator[str]:
    """Yield bars of the numbers that say how good the networks are."""
    for name in _QUALITIES:
        if name in zoo.facts:
            edges, counts = histogram(zoo.facts[name])
            if len(counts) < 2:
                continue
            rows = [
                [f"{low:.3g} to {high:.3g}", str(count), "#" * round(40 * count / max(counts))]
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
            left = max(len(row[0]) for row in rows)
            right = max(len(row[1]) for row in rows)
            lines = [f"  {a.ljust(left)}  {b.rjust(right)}  {c}".rstrip() for a, b, c in rows]
            yield "\n\n" + "\n".join([name, *lines])


def _zoo_words(path: Path, info: dict[str, Any]) -> str:
    state = "" if info["complete"] else (
        f" ({info['shards_done']} of {info['shards']} shards; the same command makes the rest)"
    )
    kinds = info["architectures"]
    shown = [
        f"{kind['architecture']}, {kind['parameters']:,} parameters"
        + (f": {kind['networks']}" if len(kinds) > 1 else "")
        for kind in kinds[:_SHOWN]
    ]
    more = [f"and {len(kinds) - _SHOWN} more"] if len(kinds) > _SHOWN else []
    lines = {
        "networks": f"{info['networks']}{state}",
        "architecture" if len(kinds) == 1 else "architectures": "; ".join(shown + more) or "-",
        "groups": f"{info['groups']}, by {info['group']}",
        "splits": ", ".join(f"{count} {name}" for name, count in info["splits"].items()),
    }
    for name, fact in info["facts"].items():
        if name != info["group"]:
            lines[name] = _fact_words(fact)
    for origin in info["origins"]:
        lines.setdefault("made", _origin_words(origin["recipe"]))
    lines["size"] = f"{info['bytes'] / 2**20:.1f} MiB in {info['shards_done']} shards"
    return f"{path}\n{text.pairs(lines)}"


def _fact_words(fact: dict[str, Any]) -> str:
    if "histogram" in fact:
        if fact["mean"] is None:
            return "-"
        low, high = text.number(fact["min"]), text.number(fact["max"])
        return f"{text.number(fact['mean'])} on average, {low} to {high}"
    return ", ".join(f"{name}: {count}" for name, count in fact.items())


def _origin_words(recipe: dict[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if name != "specs":
            flat.update(value if isinstance(value, dict) else {name: value})
    return ", ".join(f"{name} {value}" for name, value in flat.items())
