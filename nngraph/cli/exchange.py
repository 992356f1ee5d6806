"""The commands ``nngraph zoo import`` and ``nngraph zoo export``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from converters import export_checkpoints, export_huggingface, import_zoo
from nngraph.cli.common import tell
from nngraph.cli.networks import activations_of, example_inputs, found_code, read_architecture
from nngraph.cli.options.deriving import mistake, values_of_the_user
from nngraph.cli.options.zoos import ZooExport, ZooImport
from nngraph.cli.zoos import tell_zoo, this_command
from nngraph.datasets import export_ogb, ogb_meta
from nngraph.errors import UnsupportedModuleError
from nngraph.settings import ImportSettings
from nngraph.zoo import Zoo

T = TypeVar("T")


def take_in(options: ZooImport) -> int:
    """Make a zoo of networks in other files."""
    given = options.activation is not None or options.w0 is not None
    functions = activations_of(options.activation, options.w0) if given else None
    settings = ImportSettings(**{f.name: getattr(options, f.name) for f in fields(ImportSettings)})
    inputs = example_inputs(options.inputs) if options.inputs else None
    zoo = import_zoo(
        options.out, options.source, settings,
        activations=functions,
        architecture=_by_pattern("architecture", options.architecture, read_architecture),
        module=_by_pattern("module", options.module, _factory),
        inputs=inputs, command=this_command(),
    )  # fmt: skip
    code = tell_zoo(options, zoo)
    if not options.json:
        for note in zoo.manifest.recipe.get("notes", []):
            print(note)
    return code


def _factory(word: str) -> Callable[..., Any]:
    found = found_code(word)
    if not callable(found):
        raise UnsupportedModuleError(
            f"{word} is a {type(found).__name__}; expected a function that returns a module."
        )
    function: Callable[..., Any] = found
    return function


def _by_pattern(
    name: str, words: Sequence[str] | None, read: Callable[[str], T]
) -> T | dict[str, T] | None:
    """Return what one word stands for, or what those of ``PATTERN=WORD`` do, by pattern."""
    if not words:
        return None
    if len(words) == 1 and (Path(words[0]).exists() or "=" not in words[0]):
        return read(words[0])
    if bare := [word for word in words if "=" not in word]:
        raise mistake(
            f"--{name} is {bare[0]!r}; expected PATTERN={bare[0]} where there are several"
        )
    pairs = {pattern: what for pattern, _, what in (word.rpartition("=") for word in words)}
    for pattern in pairs:
        try:
            re.compile(pattern)
        except re.error as error:
            raise mistake(f"--{name} has the pattern {pattern!r}: {error}") from None
    return {pattern: read(what) for pattern, what in pairs.items()}


def export(options: ZooExport) -> int:
    """Write a zoo for other programs."""
    zoo = Zoo.open(options.zoo)
    if options.format == "ogb":
        return _export_ogb(options, zoo)
    for name in ("target", "metric"):
        if getattr(options, name) is not None:
            raise mistake(f"--{name} is of the format ogb; leave it out")
    if options.format == "huggingface":
        out = export_huggingface(zoo, options.out, options.table)
        words = f"{out}: {len(zoo)} networks, for: hf upload --repo-type dataset OWNER/NAME {out}"
    else:
        out = export_checkpoints(zoo, options.out)
        words = f"{out}: {len(zoo)} files, and what is known of them in table.csv"
    told = {"out": str(out), "format": options.format, "networks": len(zoo)}
    return tell(options, told, lambda: words)


def _export_ogb(options: ZooExport, zoo: Zoo) -> int:
    with values_of_the_user():
        out = export_ogb(zoo, options.out, target=options.target, metric=options.metric)
    meta = {key: value for key, value in ogb_meta(out).items() if key != "dir_path"}
    return tell(
        options, {"out": str(out), **meta},
        lambda: f"{out}: {meta['task type']} of {meta['target']}, metric {meta['eval metric']}; "
        "read it with nngraph.datasets.load_ogb",
    )  # fmt: skip
