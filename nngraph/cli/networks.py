"""Networks in files: which kind of file it is, and what there is to say about a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from converters import load_graph, load_state_dict, state_dict_to_graph
from nngraph.errors import ArchitectureError, NNGraphError
from nngraph.graph import Activation, Architecture, NeuralGraph, Symmetry
from nngraph.zoo import Zoo

#: Group orders up to this many digits are told exactly.
_DIGITS = 15
#: Of a larger zoo the first so many networks are read for the statistics.
MAX_NETWORKS = 4096


def is_graph_file(path: Path) -> bool:
    """Whether a file is one that ``save_graph`` wrote; no complaint about any other file."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == "nngraph.graph"
    except (OSError, SafetensorError, ValueError):
        return False


def read_network(
    path: Path,
    activation: Sequence[str] | None = None,
    w0: float | None = None,
    allow_nonfinite: bool = False,
) -> tuple[NeuralGraph, bool]:
    """Read a graph file or the state dict of an MLP.

    Args:
        activation: of the hidden layers of a state dict: none for ReLU, one for all, or one each.
        w0: frequency of those that are sines.

    Returns:
        the network, and whether its activations were assumed.

    Raises:
        NNGraphError: if the file is not such a network, or the activations do not fit.
    """
    if is_graph_file(path):
        if activation is not None or w0 is not None:
            raise ArchitectureError(
                f"{path} is a graph file, which has its own activations; leave out --activation "
                "and --w0."
            )
        return load_graph(path, allow_nonfinite=allow_nonfinite), False
    functions = activations_of(activation, w0)
    state_dict = load_state_dict(path)
    try:
        graph = state_dict_to_graph(
            state_dict,
            activations=functions[0] if len(functions) == 1 else functions,
            allow_nonfinite=allow_nonfinite,
        )
    except NNGraphError as error:
        raise type(error)(f"{path}: {error}") from None
    return graph, activation is None and len(graph.architecture.groups) > 2


def activations_of(names: Sequence[str] | None, w0: float | None) -> list[Activation]:
    """Return the activations that names and the frequency of sines stand for; none for ReLU."""
    names = names or ["relu"]
    if w0 is not None and "sine" not in names:
        raise ArchitectureError(
            f"--w0 is the frequency of sine layers, and the activations are {', '.join(names)}; "
            "give --activation sine, or leave --w0 out."
        )
    if "sine" in names and w0 is None:
        raise ArchitectureError(
            "the frequency of the sine layers is missing; give it as --w0, 30 for the commonest "
            "SIREN, 1 for a plain sine."
        )
    return [
        Activation(name, w0=w0) if name == "sine" and w0 is not None else Activation(name)
        for name in names
    ]


def describe_graph(graph: NeuralGraph) -> dict[str, Any]:
    """Return what there is to say about a network, as plain values."""
    return _described(graph.architecture, graph.parameters())


def describe_zoo(zoo: Zoo) -> dict[str, Any]:
    """Return what there is to say about the networks of a zoo, as plain values.

    The statistics are over the first :data:`MAX_NETWORKS` networks.
    """
    count = min(len(zoo), MAX_NETWORKS)
    stack = zoo.stack(torch.arange(count))
    return {
        "networks": len(zoo),
        "networks_in_statistics": count,
        **_described(zoo.architecture, stack.parameters()),
    }


def _described(architecture: Architecture, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    symmetry = Symmetry(architecture)
    digits = symmetry.log10_order()
    first = next(iter(parameters.values()))
    return {
        "architecture": str(architecture),
        "definition": architecture.to_dict(),
        "neurons": architecture.num_nodes,
        "edges": architecture.num_edges,
        "parameters": sum(parameter.numel for parameter in architecture.parameters),
        "dtype": str(first.dtype).removeprefix("torch."),
        "groups": [
            {"name": g.name, "size": g.size, "role": g.role, "activation": str(g.activation)}
            for g in architecture.groups
        ],
        "symmetry": {
            "spaces": symmetry.spaces,
            "order": symmetry.order() if digits < _DIGITS else None,
            "log10_order": digits,
            "sine_neurons": sum(
                g.size
                for g in architecture.groups
                if g.role == "hidden" and g.activation.symmetry == "phase"
            ),
        },
        "tensors": [
            _statistics(parameter.name, parameter.shape, parameters[parameter.name])
            for parameter in architecture.parameters
        ],
    }


def _statistics(name: str, shape: Sequence[int], values: Tensor) -> dict[str, Any]:
    """Return statistics of the finite entries; ``None`` where there are none."""
    entries = values.detach().double().flatten()
    finite = entries[torch.isfinite(entries)]
    numbers: dict[str, float | None] = dict.fromkeys(("mean", "std", "min", "max"))
    if len(finite):
        numbers["mean"] = float(finite.mean())
        numbers["std"] = float(finite.std(correction=0))
        numbers["min"], numbers["max"] = float(finite.min()), float(finite.max())
    return {
        "name": name,
        "shape": list(shape),
        # The squares of the largest float64 numbers overflow: no number is told then.
        **{key: v if v is None or math.isfinite(v) else None for key, v in numbers.items()},
        "zeros": int((entries == 0).sum()),
        "nonfinite": len(entries) - len(finite),
    }
