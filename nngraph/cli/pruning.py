"""The command ``prune``: removes neurons from a network and writes what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from converters import StoredNetwork, open_network, permutation_spec
from converters.symmetry import PermutationSpec, named_tensors
from nngraph.cli import text
from nngraph.cli.common import check_out, picked, tell
from nngraph.cli.networks import read_module
from nngraph.cli.options.deriving import mistake
from nngraph.cli.options.networks import Prune
from nngraph.cli.specs import read_data, read_networks
from nngraph.errors import DataFileError
from nngraph.pruning import (
    Pruned,
    first_order_scores,
    prune,
    prune_state,
    pruned_metadata,
    read_scores,
)

_KNOWN = ("norm", "batch_norm")
#: Inputs that are run at once.
_BATCH = 64


def remove(options: Prune) -> int:
    """Remove neurons from a network."""
    check_out(options.out, options.file)
    shares = _check(options)
    if options.module is None:
        (stored,) = read_networks(options, [options.file])
        pruned = prune_state(
            stored.tensors, stored.spec, shares, parameters=options.parameters,
            scores=_scores(options, stored.spec), exclude=options.exclude or (),
        )  # fmt: skip
    else:
        stored, pruned = _prune_module(options, options.module, shares)
    if options.out is not None:
        _write(stored, pruned, options.out)
    data = {
        **picked(options, "file", "out"), **pruned.to_dict(),
        "tensors": {"used": len(stored.names), **picked(stored, "copied", "missing")},
        "kept": pruned.removal.kept,
    }  # fmt: skip
    return tell(options, data, lambda: _words(data))


def _check(options: Prune) -> float | Mapping[str, float] | None:
    """Return the shares that stay; one for all, or by name."""
    given = [n for n in ("keep", "parameters", "flops") if getattr(options, n) is not None]
    if len(given) != 1:
        raise mistake("expected exactly one of --keep, --parameters and --flops")
    if options.module is None:
        for name in ("flops", "anyway", "data"):
            if getattr(options, name):
                raise mistake(f"missing: --module, which --{name} needs")
    if (options.scores == "importance") != (options.data is not None):
        raise mistake("--scores importance and --data go together: it is measured on data")
    if not options.keep:
        return None
    named = [word.rpartition("=") for word in options.keep]
    try:
        shares = {name or "*": float(share) for name, _, share in named}
    except ValueError:
        raise mistake(
            f"--keep is {' '.join(options.keep)!r}; expected a share such as 0.5, or SPACE=SHARE"
        ) from None
    return shares["*"] if set(shares) == {"*"} else shares


def _prune_module(
    options: Prune, module_word: str, shares: float | Mapping[str, float] | None
) -> tuple[StoredNetwork, Pruned]:
    if options.spec is not None:
        raise mistake("--module and --spec both say what the axes count; leave one of them out")
    module, inputs = read_module(module_word, options.inputs or [])
    spec = permutation_spec(module, inputs)
    stored = open_network(options.file, spec, prefix=options.prefix)
    own = named_tensors(module)
    with torch.no_grad():
        for name, value in stored.tensors.items():
            own[name].copy_(value)
    scores = _importance(module, spec, options.data) if options.data else _scores(options, spec)
    return stored, prune(
        module, inputs, keep=shares, parameters=options.parameters, flops=options.flops,
        scores=scores, exclude=options.exclude or (), anyway=options.anyway or (), spec=spec,
    )  # fmt: skip


def _scores(options: Prune, spec: PermutationSpec) -> Any:
    return options.scores if options.scores in _KNOWN else read_scores(options.scores, spec)


def _importance(module: nn.Module, spec: PermutationSpec, file: str) -> Mapping[str, Tensor]:
    inputs, answers = read_data(file)
    if answers is None:
        raise DataFileError(f"{file} holds no 'answers'; importance on data needs them.")

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        found = module(batch[0])
        if not isinstance(found, Tensor):
            raise mistake(
                f"--scores importance: the module returns a {type(found).__name__}; expected one "
                "tensor, of which the loss is taken. Scores of your own are read from a file"
            )
        if batch[1].is_floating_point():
            return nn.functional.mse_loss(found, batch[1].to(found))
        return nn.functional.cross_entropy(found, batch[1])

    own = next(module.parameters())
    inputs = inputs.to(own.dtype) if inputs.is_floating_point() else inputs
    parts = (torch.split(tensor, _BATCH) for tensor in (inputs, answers))
    return first_order_scores(spec, module, loss, zip(*parts, strict=True))


def _write(stored: StoredNetwork, pruned: Pruned, out: str) -> None:
    removal = pruned.removal
    shapes = {name: removal.smaller.shape(name) for name in removal.spec.parameters}

    def smaller(name: str, value: Tensor) -> Tensor:
        return removal.remove({name: value})[name]

    stored.write(out, smaller, shapes, pruned_metadata(pruned))


def _words(data: Mapping[str, Any]) -> str:
    lines = {"parameters": _before_after(data["parameters"])}
    if data["flops"]:
        lines["FLOPs"] = _before_after(data["flops"])
    lines["law"] = (
        "not checked: without a module it is not known which spaces a layer normalises"
        if data["error"] is None else
        f"neurons removed and neurons masked differ by {text.number(data['error'])}"
    )
    spaces = [[s["name"], str(s["size"]), str(s["kept"])] for s in data["spaces"]]
    refused = [f"  {name}: {reason}" for name, reason in data["refused"].items()]
    return "\n".join([
        data["file"], text.pairs(lines), "", text.table(("space", "neurons", "stay"), spaces),
        *(["", "stay whole", *refused] if refused else []),
        *([f"  written: {data['out']}"] if data["out"] else []),
    ])  # fmt: skip


def _before_after(numbers: list[int]) -> str:
    before, after = numbers
    return f"{before:,} before, {after:,} after ({text.percent(after / max(before, 1))})"
