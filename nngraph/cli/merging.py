"""The command ``merge``: networks matched and added up into one checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from converters import StoredNetwork
from nngraph.alignment import (
    Merged,
    measured_statistics,
    merge_states,
    module_loss,
    state_barrier,
    states_apart,
)
from nngraph.cli import text
from nngraph.cli.common import at_least, check_out, picked, tell
from nngraph.cli.matching import count_moved
from nngraph.cli.networks import read_module
from nngraph.cli.options.deriving import mistake
from nngraph.cli.options.networks import Merge
from nngraph.cli.specs import read_data, read_networks


def merge(options: Merge) -> int:
    """Merge networks."""
    at_least(1, starts=options.starts)
    at_least(0, seed=options.seed)
    if options.data is not None and options.module is None:
        raise mistake("--data is for the module of the networks; give --module and --inputs")
    files = [*options.networks] if options.base is None else [options.base, *options.networks]
    check_out(options.out, *files)
    stored = read_networks(options, files)
    states = [network.tensors for network in stored]
    base = None if options.base is None else states.pop(0)
    merged = merge_states(
        stored[0].spec, states, options.weights, base=base, only=options.only or ("*",),
        starts=options.starts, generator=options.seed,
    )
    measured, loss = _on_data(options, merged)

    def made(name: str, tensor: Tensor) -> Tensor:
        return measured[name] if name in measured else merged.tensor(name)

    stored[0].write(options.out, made)
    result: dict[str, Any] = {
        **picked(options, "networks", "base", "out"),
        "tensors": _tensors(stored, merged, measured),
        "of": [
            {
                "file": file, "weight": weight, "likeness": dict(alignment.likeness),
                "neurons_moved": count_moved(alignment.relabelling),
                "distance": {
                    "before": states_apart(alignment.spec, merged.states[0], state).distance,
                    "after": states_apart(
                        alignment.spec, merged.states[0], state, alignment.relabelling
                    ).distance,
                },
            }
            for file, weight, state, alignment in zip(
                files, merged.weights, merged.states, merged.alignments, strict=True
            )
        ],
        "loss": loss,
    }  # fmt: skip
    return tell(options, result, lambda: _words(result))


def _tensors(
    stored: list[StoredNetwork], merged: Merged, measured: dict[str, Tensor]
) -> dict[str, Any]:
    """Account for every tensor of the file that is written."""
    first = stored[0]
    differ = [
        name for name in first.copied
        for other in stored[1:]
        if name not in other.checkpoint.tensors
        or not torch.equal(first.checkpoint.tensors[name], other.checkpoint.tensors[name])
    ]
    own = [*first.names.values()]
    return {
        "merged": sum(map(merged.merges, own)),
        "of_the_first": [name for name in own if not merged.merges(name)],
        "measured": [*measured],
        "copied": list(first.copied),
        "copied_but_different": list(dict.fromkeys(differ)),
        "left_out": sorted({name for o in stored[1:] for name in {*o.copied} - {*first.copied}}),
    }


def _on_data(options: Merge, merged: Merged) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the statistics of batch norms that are measured, and losses, if there are data."""
    if options.data is None:
        return {}, None
    assert options.module is not None
    module, _ = read_module(options.module, options.inputs or [])
    inputs, answers = read_data(options.data)
    state = merged.state()
    measured = measured_statistics(module, state, inputs)
    if answers is None:
        return measured, None
    loss = module_loss(module, inputs, answers)
    told: dict[str, Any] = {"merged": float(loss({**state, **measured}))}
    if len(merged.states) == 2:
        one, other = merged.states
        told["path"] = {
            "before": state_barrier(one, other, loss).to_dict(),
            "after": state_barrier(one, merged.alignments[1].apply(other), loss).to_dict(),
        }
    return measured, told


def _words(result: dict[str, Any]) -> str:
    tensors, loss = result["tensors"], result["loss"]
    counts = [f"{tensors['merged']} merged"]
    for key in ("of_the_first", "measured", "copied", "copied_but_different", "left_out"):
        if names := tensors[key]:
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            counts.append(f"{len(names)} {key.replace('_', ' ')} ({shown})")
    lines = {"tensors": "; ".join(counts)}
    for each in result["of"]:
        before, after = (text.number(each["distance"][when]) for when in ("before", "after"))
        lines[each["file"]] = (
            f"weight {text.number(each['weight'])}, distance {before} before, {after} after"
        )
    if loss is not None:
        lines["loss"] = text.number(loss["merged"])
        for when, path in loss.get("path", {}).items():
            lines[f"barrier {when}"] = text.number(path["height"])
    spaces = [each["likeness"] for each in result["of"][1:]]
    rows = [[name, *(text.number(like[name]) for like in spaces)] for name in spaces[0]]
    names = [f"cosine of {each['file']}" for each in result["of"][1:]]
    table = text.table(("space", *names), rows)
    return f"{result['out']}\n{text.pairs(lines)}\n\n{table}"
