"""What each command ``nngraph zoo ...`` does: call the library, tell the result."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

from nngraph.cli import text
from nngraph.cli.common import tell, values_of_the_user
from nngraph.zoo import (
    ImageSource,
    Zoo,
    filter_zoo,
    find_problems,
    fit_zoo,
    load_digits_images,
    load_idx_folder,
    merge_zoos,
    select,
)

__all__ = ["ZOO_RUN"]


def this_command() -> str:
    """Return the command line of this process; of paths only the last part, for the record."""
    words = [word if os.sep not in word else Path(word).name for word in sys.argv[1:]]
    return shlex.join(["nngraph", *words])


def zoo_fit(options: Namespace) -> int:
    """Fit a zoo."""
    source = _source(options.data, options.part, options.out)
    out = Path(options.out or f"zoos/{options.data[0]}")
    with values_of_the_user():
        zoo = fit_zoo(
            out, source,
            widths=options.widths, w0=options.w0, count=options.count, views=options.views,
            steps=options.steps, lr=options.lr, pixels=options.pixels, seed=options.seed,
            shard_size=options.shard_size, splits=options.splits, threads=options.threads,
            progress=not options.quiet, command=this_command(),
        )  # fmt: skip
    return _tell_zoo(options, zoo)


def _source(data: list[str], part: str, out: str | None) -> ImageSource:
    name, *folders = data
    if name == "digits":
        if folders:
            raise ArgumentError(
                None,
                f"--data digits takes no folder, and got {folders[0]!r}. If that is where the zoo "
                "is to be, give it before --data.",
            )
        return load_digits_images()
    if len(folders) != 1:
        raise ArgumentError(
            None, f"--data {name} was given {len(folders)} folders; expected one, of IDX files."
        )
    return load_idx_folder(folders[0], part, name)


def zoo_info(options: Namespace) -> int:
    """Say what is in a zoo."""
    zoo = Zoo.open(options.path, partial=True)
    if options.verify:
        zoo.verify()
    return _tell_zoo(options, zoo)


def zoo_verify(options: Namespace) -> int:
    """Read all of a zoo and name what is wrong."""
    problems = find_problems(options.path)
    tell(
        options, {"path": options.path, "sound": not problems, "problems": problems},
        lambda: "\n".join(problems) or f"{options.path}: everything is as the manifest says",
    )  # fmt: skip
    return 1 if problems else 0


def zoo_merge(options: Namespace) -> int:
    """Merge zoos into a new one."""
    return _tell_zoo(options, merge_zoos(options.out, options.zoos))


def zoo_filter(options: Namespace) -> int:
    """Keep some networks of a zoo as a new one."""
    zoo = Zoo.open(options.zoo)
    keep = select(zoo, options.where)
    return _tell_zoo(
        options, filter_zoo(options.out, zoo, keep, options.where, options.shard_size)
    )


def _tell_zoo(options: Namespace, zoo: Zoo) -> int:
    info = zoo.info()
    tell(options, {"path": str(zoo.path), **info}, lambda: _zoo_words(zoo.path, info))
    return 0


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
        lines[name] = _fact_words(fact)
    for origin in info["origins"]:
        lines.setdefault("made", _origin_words(origin["recipe"]))
    lines["size"] = f"{info['bytes'] / 2**20:.1f} MiB in {info['shards_done']} shards"
    return f"{path}\n{text.pairs(lines)}"


_SHOWN = 6


def _fact_words(fact: dict[str, Any]) -> str:
    if set(fact) == {"mean", "min", "max"}:
        if fact["mean"] is None:
            return "-"
        low, high = text.number(fact["min"]), text.number(fact["max"])
        return f"{text.number(fact['mean'])} on average, {low} to {high}"
    return ", ".join(f"{name}: {count}" for name, count in fact.items())


def _origin_words(recipe: dict[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return ", ".join(f"{name} {value}" for name, value in flat.items())


#: Command -> what it does.
ZOO_RUN: dict[str, Callable[[Namespace], int]] = {
    "zoo fit": zoo_fit,
    "zoo info": zoo_info,
    "zoo verify": zoo_verify,
    "zoo merge": zoo_merge,
    "zoo filter": zoo_filter,
}
