"""The commands ``nngraph zoo ...``: call the library, tell what is in the zoo that came out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nngraph.cli import text
from nngraph.cli.common import at_least, check_device, tell
from nngraph.cli.options import zoos as given
from nngraph.cli.options.deriving import values_of_the_user
from nngraph.cli.options.shared import Reports
from nngraph.drawing import draw_contact_sheet, draw_histograms
from nngraph.zoo import (
    Zoo,
    filter_zoo,
    find_problems,
    fit_zoo,
    histogram,
    load_images,
    load_train_and_test,
    merge_zoos,
    select,
    train_zoo,
)

#: Architectures that are named; of more only the number is told.
_SHOWN = 6
#: Names whose counts are told; of more only how many there are.
_NAMED = 32
#: Facts that are shown as histograms.
_QUALITIES = ("psnr", "test_accuracy")


def fit(options: given.ZooFit) -> int:
    """Fit a zoo."""
    name, *folders = options.data
    with values_of_the_user():
        source = load_images(name, folders, options.part)
        check_device(options.device)
        zoo = fit_zoo(
            options.out or f"zoos/{name}", source, options, progress=not options.quiet,
            command=this_command(),
        )  # fmt: skip
    return tell_zoo(options, zoo)


def train(options: given.ZooTrain) -> int:
    """Train a zoo of classifiers."""
    name, *folders = options.data
    with values_of_the_user():
        seen, judged = load_train_and_test(name, folders)
        zoo = train_zoo(
            options.out or f"zoos/{options.recipe}-{name}", seen, judged, options,
            progress=not options.quiet, command=this_command(),
        )  # fmt: skip
    return tell_zoo(options, zoo)


def info(options: given.ZooInfo) -> int:
    """Say what is in a zoo."""
    zoo = Zoo.open(options.path, partial=True)
    if options.verify:
        zoo.verify()
    return tell_zoo(options, zoo)


def verify(options: given.ZooVerify) -> int:
    """Read all of a zoo and name what is wrong."""
    problems = find_problems(options.path)
    return tell(
        options, {"path": options.path, "sound": not problems, "problems": problems},
        lambda: "\n".join(problems) or f"{options.path}: everything is as the manifest says",
        code=1 if problems else 0,
    )  # fmt: skip


def merge(options: given.ZooMerge) -> int:
    """Merge zoos into a new one."""
    return tell_zoo(options, merge_zoos(options.out, options.zoos))


def keep(options: given.ZooFilter) -> int:
    """Keep some networks of a zoo as a new one."""
    zoo = Zoo.open(options.zoo)
    keep = select(zoo, options.where)
    return tell_zoo(options, filter_zoo(options.out, zoo, keep, options.where, options.shard_size))


def show(options: given.ZooShow) -> int:
    """Draw images and weights of a zoo."""
    zoo = Zoo.open(options.path, partial=True)
    at_least(1, count=options.count)
    out = Path(options.out or ".")
    out.mkdir(parents=True, exist_ok=True)
    found = torch.nonzero(select(zoo, options.where)).squeeze(1)
    drawn = {"weights": str(draw_histograms(zoo, out / "weights.png", options.architecture))}
    if all(origin.image_shape for origin in zoo.manifest.origins) and len(zoo):
        places = torch.linspace(0, len(found) - 1, min(len(found), options.count)).round().long()
        sheet = draw_contact_sheet(zoo, out / "contact-sheet.png", found[places])
        drawn["contact_sheet"] = str(sheet)
    return tell(options, {"path": options.path, **drawn}, lambda: "\n".join(drawn.values()))


def this_command() -> str:
    """Return the command line of this process; of paths only the last part, for the record."""
    words = [word if os.sep not in word else Path(word).name for word in sys.argv[1:]]
    return shlex.join(["nngraph", *words])


def tell_zoo(options: Reports, zoo: Zoo) -> int:
    """Tell what is in a zoo, and return the exit code of success."""
    known = zoo.info()
    return tell(
        options, {"path": str(zoo.path), **known},
        lambda: _zoo_words(zoo.path, known) + "".join(_histograms(zoo)),
    )  # fmt: skip


def _histograms(zoo: Zoo) -> Iterator[str]:
    """Yield bars of the numbers that say how good the networks are."""
    for name in _QUALITIES:
        if name in zoo.facts:
            edges, counts = histogram(zoo.facts[name])
            if len(counts) < 2:
                continue
            rows = [
                (f"{low:.3g} to {high:.3g}", str(count), "#" * round(40 * count / max(counts)))
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
            left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
            lines = [f"  {a.ljust(left)}  {b.rjust(right)}  {c}".rstrip() for a, b, c in rows]
            yield "\n\n" + "\n".join([name, *lines])


def _zoo_words(path: Path, info: dict[str, Any]) -> str:
    done = f"{info['shards_done']} of {info['shards']} shards"
    state = "" if info["complete"] else f" ({done}; the same command makes the rest)"
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
    if len(fact) > _NAMED:
        return f"{len(fact)} different, such as {', '.join(list(fact)[:3])}"
    return ", ".join(f"{name or 'not known'}: {count}" for name, count in fact.items())


def _origin_words(recipe: dict[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if name not in ("specs", "notes", "facts_sha256"):
            flat.update(value if isinstance(value, dict) else {name: value})
    return ", ".join(f"{name} {value}" for name, value in flat.items())
