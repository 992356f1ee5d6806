"""The command ``match``: matches the neurons of two networks, measures the path between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters import load_graph, save_graph
from nngraph.alignment import (
    Alignment,
    Loss,
    NeuronStates,
    barrier,
    canonical_form,
    data_loss,
    distance,
    match_activations,
    match_embeddings,
    match_sinkhorn,
    match_states,
    match_weights,
    states_apart,
)
from nngraph.cli import text
from nngraph.cli.common import at_least, check_out, picked, tell
from nngraph.cli.networks import is_graph_file, read_architecture, read_network
from nngraph.cli.options.deriving import mistake, values_of_the_user
from nngraph.cli.options.networks import Match
from nngraph.cli.specs import read_data, read_networks
from nngraph.drawing import draw_alignment
from nngraph.errors import DataFileError
from nngraph.graph import NeuralGraph
from nngraph.nn import StateNetwork
from nngraph.tasks import load_run

#: Names that are told of a long list.
_SHOWN = 9


def match(options: Match) -> int:
    """Match two networks."""
    _check(options)
    if options.module is not None or options.spec is not None:
        return _match_checkpoints(options)
    a, b = (_read(options, file) for file in (options.first, options.second))
    if options.canonicalise:
        a, b = canonical_form(a), canonical_form(b)
    data = None if options.data is None else _data(options.data)
    with values_of_the_user():
        loss = None if data is None else data_loss(*data)
        alignment = _matched(options, a, b, data, loss)
    aligned = alignment.apply(b)
    pairs = {"before": (a, b), "after": (a, aligned)}
    barriers = {} if loss is None else {n: barrier(*pair, loss) for n, pair in pairs.items()}
    result: dict[str, Any] = {
        **picked(options, "first", "second", "method", "out", "figure"),
        "architecture": str(a.architecture),
        "neurons_moved": count_moved(alignment.relabelling.indices),
        "signs_flipped": {s: int((v < 0).sum()) for s, v in alignment.signs.items()},
        "distance": {name: distance(*pair) for name, pair in pairs.items()},
        "barrier": {name: found.to_dict() for name, found in barriers.items()} or None,
        "permutations": {s: i.tolist() for s, i in alignment.relabelling.indices.items()},
    }
    if options.out is not None:
        save_graph(aligned, options.out)
    if options.figure is not None:
        draw_alignment(options.figure, a, b, alignment, barriers)
    return tell(options, result, lambda: _words(result))


def _match_checkpoints(options: Match) -> int:
    """Match two checkpoints tensor by tensor, and write the second as a checkpoint."""
    for name in ("run", "signs", "canonicalise", "architecture", "figure", "activation", "data"):
        if getattr(options, name):
            raise mistake(f"--{name} is for graph files and MLPs; leave it out, or the spec")
    if options.method != "weights":
        raise mistake(f"--method {options.method} is for graph files and MLPs; expected weights")
    one, other = read_networks(options, [options.first, options.second])
    a, b = one.tensors, other.tensors
    found = match_states(one.spec, a, b, starts=options.starts, generator=options.seed)
    result: dict[str, Any] = {
        **picked(options, "first", "second", "method", "out"),
        "neurons_moved": count_moved(found.relabelling),
        "likeness": dict(found.likeness),
        "distance": {
            "before": states_apart(one.spec, a, b).distance,
            "after": states_apart(one.spec, a, b, found.relabelling).distance,
        },
        "tensors": {"used": len(other.names), **picked(other, "copied", "missing")},
        "permutations": {s: i.tolist() for s, i in found.relabelling.items()},
    }
    if options.out is not None:
        other.write(options.out, found.apply_to)
    return tell(options, result, lambda: _checkpoint_words(result))


def count_moved(relabelling: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many neurons of each space stand elsewhere."""
    return {
        space: int((index != torch.arange(index.shape[-1])).sum())
        for space, index in relabelling.items()
    }


def _checkpoint_words(result: dict[str, Any]) -> str:
    distance, tensors = result["distance"], result["tensors"]
    lines = {
        "tensors": f"{tensors['used']} used, {len(tensors['copied'])} not in the spec and copied"
        + (f" ({', '.join(tensors['copied'][:_SHOWN])})" if tensors["copied"] else ""),
        "distance": _apart(distance),
    }
    spaces = [
        [space, str(moved), text.number(result["likeness"][space])]
        for space, moved in result["neurons_moved"].items()
    ]
    written = [f"  written: {result['out']}"] if result["out"] else []
    return "\n".join([
        f"{result['second']} to {result['first']}", text.pairs(lines), "",
        text.table(("space", "moved", "cosine of matched neurons"), spaces), *written,
    ])  # fmt: skip


def _apart(distance: Mapping[str, float]) -> str:
    before, after = (text.number(distance[when]) for when in ("before", "after"))
    return f"{before} before, {after} after, of parameters, relative to the first network"


def _words(result: dict[str, Any]) -> str:
    distance, heights = result["distance"], result["barrier"]
    lines = {
        "architecture": result["architecture"],
        "method": result["method"],
        "moved": ", ".join(f"{n} of {s}" for s, n in result["neurons_moved"].items()) or "nothing",
        "distance": _apart(distance),
    }
    if result["signs_flipped"]:
        lines["signs"] = ", ".join(f"{n} of {s}" for s, n in result["signs_flipped"].items())
    if heights:
        lines["barrier"] = (
            f"{text.number(heights['before']['height'])} before, "
            f"{text.number(heights['after']['height'])} after, of the loss on the straight path"
        )
    written = [f"  written: {result[key]}" for key in ("out", "figure") if result[key]]
    return "\n".join([f"{result['second']} to {result['first']}", text.pairs(lines), *written])


def _check(options: Match) -> None:
    check_out(options.out, options.first, options.second)
    needs = {"activations": "data", "embeddings": "run"}.get(options.method)
    if needs and getattr(options, needs) is None:
        raise mistake(f"missing: --{needs}, which --method {options.method} needs")
    if options.run is not None and options.method != "embeddings":
        raise mistake(f"--run is for --method embeddings, not {options.method}")
    if options.signs and options.method not in ("weights", "activations"):
        raise mistake(f"--signs is for weights and activations, not {options.method}")
    at_least(1, starts=options.starts, steps=options.steps)
    at_least(0, seed=options.seed)
    graph = options.module is None and options.spec is None
    if graph and options.out is not None and not options.out.endswith(".safetensors"):
        raise mistake(f"--out is {options.out!r}; expected an ending .safetensors")
    if options.figure is not None and Path(options.figure).suffix not in (".png", ".pdf", ".svg"):
        raise mistake(f"--figure is {options.figure!r}; expected .png, .pdf or .svg")


def _read(options: Match, file: str) -> NeuralGraph:
    if options.architecture is not None:
        return load_graph(file, read_architecture(options.architecture))
    if is_graph_file(Path(file)):
        return load_graph(file)
    return read_network(Path(file), options.activation, options.w0)[0]


def _data(file: str) -> tuple[Tensor, Tensor]:
    inputs, answers = read_data(file)
    if answers is None or not inputs.is_floating_point():
        raise DataFileError(
            f"{file} holds no answers, or inputs that are no floating-point numbers; expected the "
            "two tensors 'inputs' (P, d) of floating point and 'answers', classes (P) or numbers "
            "(P, outputs)."
        )
    return inputs, answers


def _matched(
    options: Match, a: NeuralGraph, b: NeuralGraph, data: tuple[Tensor, Tensor] | None,
    loss: Loss | None,
) -> Alignment:  # fmt: skip
    if options.method == "activations":
        assert data is not None
        return match_activations(a, b, data[0], signs=options.signs)
    if options.method in ("weights", "sinkhorn"):
        found = match_weights(
            a, b, signs=options.signs, starts=options.starts, generator=options.seed
        )
        if options.method == "weights":
            return found
        return match_sinkhorn(a, b, loss, start=found.relabelling, steps=options.steps)
    assert options.run is not None
    model, settings = load_run(options.run)
    if not isinstance(model, (StateNetwork, NeuronStates)):
        raise mistake(
            f"the model of {options.run} is a {type(model).__name__}, which gives neurons no "
            "states; expected one derived from StateNetwork"
        )
    return match_embeddings(model, a, b, canonicalise=settings.canonicalise)
