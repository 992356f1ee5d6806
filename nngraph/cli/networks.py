"""Networks by the words of a command line: in files, or modules and ONNX files that can be run."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from converters import load_graph, load_state_dict, state_dict_to_graph
from converters.onnx_files import OPEN, load_onnx
from nngraph.cli.common import picked
from nngraph.cli.options.deriving import mistake
from nngraph.errors import ArchitectureError, DataFileError, NNGraphError, UnsupportedModuleError
from nngraph.graph import Activation, Architecture, NeuralGraph, Symmetry
from nngraph.zoo import Zoo

_FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")
_INPUT = re.compile(r"(\d+(?:x\d+)*|)(?::(\w+)(?::(\d+))?)?")
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
    path: Path, activation: Sequence[str] | None = None, w0: float | None = None,
    allow_nonfinite: bool = False,
) -> tuple[NeuralGraph, bool]:  # fmt: skip
    """Read a graph file or the state dict of an MLP; return whether its activations were assumed.

    Args:
        activation: of the hidden layers of a state dict: none for ReLU, one for all, or one each.
        w0: frequency of those that are sines.
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
            state_dict, activations=functions, allow_nonfinite=allow_nonfinite
        )
    except NNGraphError as error:
        raise type(error)(f"{path}: {error}") from None
    return graph, activation is None and len(graph.architecture.groups) > 2


def activations_of(names: Sequence[str] | None, w0: float | None) -> Activation | list[Activation]:
    """Return the activation of all layers, or one of each; no names stand for ReLU."""
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
    found = [
        Activation(name, w0=w0) if name == "sine" and w0 is not None else Activation(name)
        for name in names
    ]
    return found[0] if len(found) == 1 else found


def describe_zoo(zoo: Zoo) -> dict[str, Any]:
    """Return :func:`describe` of the first :data:`MAX_NETWORKS` networks of a zoo."""
    count = min(len(zoo), MAX_NETWORKS)
    stack = zoo.stack(torch.arange(count))
    told = describe(zoo.architecture, stack.parameters())
    return {"networks": len(zoo), "networks_in_statistics": count, **told}


def describe(architecture: Architecture, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what there is to say about networks and their parameters, as plain values."""
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
            {**picked(g, "name", "size", "role"), "activation": str(g.activation)}
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


def is_runnable(word: str) -> bool:
    """Whether a word names an ONNX file, or ``package.module:factory`` and no file."""
    return word.endswith(".onnx") or (
        _FACTORY.fullmatch(word) is not None and not Path(word).exists()
    )


def read_module(
    word: str, inputs: Sequence[str], outputs: Sequence[str] | None = None
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return the network that a word names, in evaluation mode, and inputs for it.

    ``outputs`` names the values that an ONNX file's network returns in place of its outputs.
    """
    torch.manual_seed(0)
    if not word.endswith(".onnx"):
        if outputs is not None:
            raise mistake("--output names a value of an .onnx file; leave it out")
        module = _made(word)
        if not inputs:
            raise mistake(
                "missing: --inputs, the shape of each input, such as 1x3x64x64 or 1x16:int64"
            )
        return module.eval(), example_inputs(inputs)
    network = load_onnx(word, outputs=outputs)
    if not inputs:
        inputs = []
        for declared in network.inputs:
            if declared.dims is None:
                raise mistake(
                    f"missing: --inputs; the file does not say the shape of {declared.name!r}"
                )
            sizes = "x".join(str(OPEN if size is None else size) for size in declared.dims)
            inputs.append(f"{sizes}:{str(declared.dtype).split('.')[1]}")
    return network.eval(), example_inputs(inputs)


def found_code(word: str) -> Any:
    """Import what ``package.module:name`` names."""
    match = _FACTORY.fullmatch(word)
    if match is None:
        raise mistake(f"{word!r:.99} names no code; expected package.module:factory, with a colon")
    # As python -m does: modules of the folder in which the command is given are found.
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        with _code_of_the_user(word):
            found: Any = importlib.import_module(match[1])
            for name in match[2].split("."):
                found = getattr(found, name)
            return found
    finally:
        sys.path.remove(here)


@contextmanager
def _code_of_the_user(word: str) -> Iterator[None]:
    """Name the code that fails in its own ways."""
    try:
        yield
    except NNGraphError:
        raise
    except Exception as error:
        raise UnsupportedModuleError(
            f"{word} cannot be made: {type(error).__name__}: {error}. Expected a module in a "
            "Python module that can be imported from here, or a function that returns one."
        ) from error


def _made(word: str) -> nn.Module:
    found = found_code(word)
    with _code_of_the_user(word):
        found = found() if not isinstance(found, nn.Module) and callable(found) else found
    if not isinstance(found, nn.Module):
        raise UnsupportedModuleError(
            f"{word} gave a {type(found).__name__}; expected a torch.nn.Module."
        )
    return found


def example_inputs(words: Sequence[str]) -> tuple[Tensor, ...]:
    """Return an input for each word ``SHAPE[:DTYPE[:BELOW]]``.

    Floating-point ones are standard normal, whole numbers are drawn from 0 to below BELOW (2).
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for word in words:
        match = _INPUT.fullmatch(word)
        dtype = getattr(torch, match[2] or "float32", None) if match else None
        if match is None or not isinstance(dtype, torch.dtype) or dtype.is_complex:
            raise mistake(
                f"--inputs is {word!r}; expected a shape, and a dtype if it is not float32, such "
                "as 1x3x224x224, 1x16:int64 or 1x16:int64:50257 (whole numbers below that)"
            )
        shape = [int(size) for size in match[1].split("x") if size]
        if math.prod(shape) > 2**31:
            raise mistake(f"--inputs is {word!r}, of more than 2^31 numbers")
        if dtype.is_floating_point:
            found.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            below = int(match[3] or 2)
            if below < 1:
                raise mistake(f"--inputs is {word!r}; expected a bound of at least 1")
            found.append(torch.randint(below, shape, generator=generator).to(dtype))
    return tuple(found)


def read_architecture(path: str) -> Architecture:
    """Read an architecture from JSON: its own, or what ``inspect --json`` says."""
    try:
        data = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is no JSON file: {error}.") from None
    if isinstance(data, dict) and "definition" in data:
        data = data["definition"]
    try:
        return Architecture.from_dict(data)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from None
