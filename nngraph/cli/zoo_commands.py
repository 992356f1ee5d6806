"""What each command ``nngraph zoo ...`` does: call the library, tell the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import ArgumentError, Namespace

from converters import import_zoo
from nngraph.cli.common import tell, values_of_the_user
from nngraph.cli.networks import activations_of
from nngraph.cli.zoo_fitting import zoo_fit, zoo_train
from nngraph.cli.zoo_words import tell_zoo, this_command
from nngraph.datasets import export_ogb, ogb_meta
from nngraph.drawing import draw_contact_sheet, draw_histograms
from nngraph.zoo import (
    Zoo,
    filter_zoo,
    find_problems,
    merge_zoos,
    select,
)

__all__ = ["ZOO_RUN"]


def zoo_info(options: Namespace) -> int:
    """Say what is in a zoo."""
    zoo = Zoo.open(options.path, partial=True)
    if options.verify:
        zoo.verify()
    return tell_zoo(options, zoo)


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
    return tell_zoo(options, merge_zoos(options.out, options.zoos))


def zoo_filter(options: Namespace) -> int:
    """Keep some networks of a zoo as a new one."""
    zoo = Zoo.open(options.zoo)
    keep = select(zoo, options.where)
    return tell_zoo(
        options, filter_zoo(options.out, zoo, keep, options.where, options.shard_size)
    )


def zoo_export(options: Namespace) -> int:
    """Write a zoo for OGB's reader."""
    with values_of_the_user():
        out = export_ogb(
            Zoo.open(options.zoo), options.out, target=options.target, metric=options.metric
        )
    meta = {key: value for key, value in ogb_meta(out).items() if key != "dir_path"}
    tell(
        options, {"out": str(out), **meta},
        lambda: f"{out}: {meta['task type']} of {meta['target']}, metric {meta['eval metric']}; "
        "read it with nngraph.datasets.load_ogb",
    )  # fmt: skip
    return 0


def zoo_import(options: Namespace) -> int:
    """Make a zoo of networks in other files."""
    functions = activations_of(options.activation, options.w0)
    zoo = import_zoo(
        options.out, options.source,
        activations=functions[0] if len(functions) == 1 else functions,
        label=options.label, group=options.group, labels_key=options.labels_key,
        splits=options.splits, seed=options.seed, shard_size=options.shard_size,
        dtype=options.dtype, command=this_command(),
    )  # fmt: skip
    return tell_zoo(options, zoo)


def zoo_show(options: Namespace) -> int:
    """Draw images and weights of a zoo."""
    zoo = Zoo.open(options.path, partial=True)
    if options.count < 1:
        raise ArgumentError(None, f"--count is {options.count}; expected at least 1.")
    out = Path(options.out or ".")
    out.mkdir(parents=True, exist_ok=True)
    found = torch.nonzero(select(zoo, options.where)).squeeze(1)
    drawn = {"weights": str(draw_histograms(zoo, out / "weights.png", options.architecture))}
    if all(origin.image_shape for origin in zoo.manifest.origins) and len(zoo):
        places = torch.linspace(0, len(found) - 1, min(len(found), options.count)).round().long()
        sheet = draw_contact_sheet(zoo, out / "contact-sheet.png", found[places])
        drawn["contact_sheet"] = str(sheet)
    tell(options, {"path": options.path, **drawn}, lambda: "\n".join(drawn.values()))
    return 0


#: Command -> what it does.
ZOO_RUN: dict[str, Callable[[Namespace], int]] = {
    "zoo fit": zoo_fit,
    "zoo train": zoo_train,
    "zoo info": zoo_info,
    "zoo verify": zoo_verify,
    "zoo merge": zoo_merge,
    "zoo filter": zoo_filter,
    "zoo export": zoo_export,
    "zoo import": zoo_import,
    "zoo show": zoo_show,
}
