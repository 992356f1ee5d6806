"""The command ``diff``: what networks are to each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from converters import StoredNetwork, canonicalise
from converters.symmetry import SymmetrySpec
from nngraph.alignment import compare_states, mixture_of
from nngraph.cli import text
from nngraph.cli.common import at_least, picked, tell
from nngraph.cli.matching import count_moved
from nngraph.cli.options.networks import Diff
from nngraph.cli.specs import read_networks, read_spec

#: Tensors that are told in words, those that differ most first.
_SHOWN = 12
_WORDS = {
    "equal": "equal, bit by bit", "relabelled": "one network with its neurons in another order",
    "rounded": "one function, up to rounding",
    "related": "not one function; one was made from the other, or both from a third",
    "unrelated": "not one function, and no sign that one was made from the other",
}  # fmt: skip


def diff(options: Diff) -> int:
    """Compare networks."""
    at_least(1, starts=options.starts)
    at_least(0, seed=options.seed)
    spec = read_spec(options, options.maps)
    stored = read_networks(options, [options.first, *options.others], spec)
    states = [_formed(network, spec if options.maps else None) for network in stored]
    # What canonical forms agree in is what the files have, not float64.
    floats = [v.dtype for s in stored for v in s.tensors.values() if v.is_floating_point()]
    tolerance = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    described = {**picked(options, "first", "others"), "copied": _copied(stored)}
    if len(states) > 2:
        return _mixed(options, stored, states, described, tolerance)
    found = compare_states(
        stored[0].spec, *states, tolerance=tolerance, starts=options.starts,
        generator=options.seed,
    )
    result = {
        **described, **found.to_dict(),
        "neurons_moved": count_moved(found.alignment.relabelling),
    }
    code = 0 if found.same_function else 1
    return tell(options, result, lambda: _words(result), code)


def _formed(network: StoredNetwork, spec: object) -> dict[str, Tensor]:
    """Return the tensors of a network, in canonical form where the spec has maps."""
    if not isinstance(spec, SymmetrySpec):
        return network.tensors
    wide = {n: v.double() if v.is_floating_point() else v for n, v in network.tensors.items()}
    return canonicalise(wide, spec)


def _copied(stored: list[StoredNetwork]) -> list[str]:
    """Return the tensors that the spec does not have, and nothing is said of."""
    return sorted({name for network in stored for name in network.copied})


def _mixed(
    options: Diff, stored: list[StoredNetwork], states: list[dict[str, Tensor]],
    described: dict[str, Any], tolerance: float,
) -> int:  # fmt: skip
    found = mixture_of(
        stored[0].spec, states[0], states[1:], starts=options.starts, generator=options.seed
    )
    result = {
        **described, "coefficients": list(found.coefficients), "residual": found.residual,
        "tolerance": tolerance,
    }  # fmt: skip
    pairs = zip(options.others, found.coefficients, strict=True)
    rows = [[file, text.number(coefficient)] for file, coefficient in pairs]
    table = text.table(("network", "coefficient"), rows)
    left = f"left over: {text.number(found.residual)} of the norm of {options.first}"
    code = 0 if found.residual <= tolerance else 1
    return tell(options, result, lambda: f"{options.first}\n{table}\n{left}", code)


def _words(result: dict[str, Any]) -> str:
    apart = sorted(
        (t for t in result["tensors"] if not t["equal"]), key=lambda t: -(t["distance"] or 0)
    )
    lines = {
        "relation": _WORDS[result["relation"]],
        "parameters": f"cosine {text.number(result['cosine'])}, distance "
        f"{text.number(result['distance'])}, relative to the first, after matching",
        "moved": ", ".join(f"{n} of {s}" for s, n in result["neurons_moved"].items()) or "nothing",
        "tensors": f"{len(apart)} of {len(result['tensors'])} differ"
        + (f"; not in the spec: {', '.join(result['copied'][:4])}" if result["copied"] else ""),
    }
    rows = [
        [t["name"], *("-" if t[k] is None else text.number(t[k]) for k in ("distance", "cosine"))]
        for t in apart[:_SHOWN]
    ]
    table = "\n\n" + text.table(("tensor", "distance", "cosine"), rows) if rows else ""
    return f"{result['first']}, {result['others'][0]}\n{text.pairs(lines)}{table}"
