"""State dicts and neural graphs in files; nothing in a file is ever executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from converters import checkpoints
from converters.checkpoints import MAX_BYTES
from converters.state_dicts import refuse_batch, state_dict_to_graph
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError, NonFiniteError
from nngraph.files import write_atomically
from nngraph.graph import Architecture, NeuralGraph

_FORMAT = "nngraph.graph"
_VERSION = "1"
#: First character of the names of tensors in a graph file that are no parameters.
_EXTRA = "@"


def load_state_dict(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Read a state dict from a file of any kind, or a folder that is one checkpoint, on the CPU.

    The tensors of :func:`converters.checkpoints.read_checkpoint`, which tells what else is there
    and takes options. Of a graph file the parameters are returned.

    Args:
        max_bytes: larger files, and archives that unpack to more, are refused.

    Raises:
        DataFileError: if the file is missing, of another kind, too large, truncated or damaged, or
            holds no state dict.
        MissingDependencyError: if a package is needed that is not installed.
    """
    found = checkpoints.read_checkpoint(path, max_bytes=max_bytes)
    if found.facts.get("format") == _FORMAT:
        return {k: v for k, v in found.tensors.items() if not k.startswith(_EXTRA)}
    return found.tensors


def save_graph(graph: NeuralGraph, path: str | Path) -> None:
    """Write a neural graph to one safetensors file, with its architecture as JSON in the metadata.

    The parameters have their state-dict names, so that other programs read the file as the weights
    of the network. Further attributes of the graph are kept if they are tensors, numbers, strings,
    or lists and dicts of these. The file appears whole or not at all.

    Raises:
        InvalidGraphError: if the graph is a batch, or an attribute or name cannot be stored.
        DataFileError: if the path does not end in ``.safetensors``, or cannot be written.
    """
    refuse_batch(graph)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataFileError(f"{path} has the ending {path.suffix!r}; expected .safetensors.")
    tensors = {name: value.detach() for name, value in graph.parameters().items()}
    if wrong := [name for name in tensors if name.startswith(_EXTRA) or name == "__metadata__"]:
        raise InvalidGraphError(f"a graph file cannot hold a parameter called {wrong[0]!r}.")
    plain: dict[str, Any] = {}
    for name, value in graph.further_attributes().items():
        if isinstance(value, Tensor) and value.layout is torch.strided:
            tensors[_EXTRA + name] = value.detach()
            continue
        try:
            same = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise InvalidGraphError(
                f"attribute {name!r} of the graph is a {type(value).__name__} that a file cannot "
                "hold; expected a dense tensor, a number, a string, or lists and dicts of these. "
                "Remove it first, with del graph.<name> on a copy."
            )
        plain[name] = value
    if graph.is_materialised and cast(Tensor, graph.edge_attr).shape[1] != 1:
        tensors[f"{_EXTRA}edge_attr"] = cast(Tensor, graph.edge_attr).detach()
    metadata = {
        "format": _FORMAT, "version": _VERSION, "architecture": graph.architecture.to_json(),
        "attributes": json.dumps(plain),
    }  # fmt: skip
    # Fresh memory for each: safetensors refuses tensors that share theirs.
    tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        write_atomically(path, save(tensors, metadata))
    except (OSError, SafetensorError) as error:
        raise DataFileError(f"{path} could not be written: {error}.") from error


def load_graph(
    path: str | Path, architecture: Architecture | None = None, *, allow_nonfinite: bool = True,
    max_bytes: int = MAX_BYTES,
) -> NeuralGraph:  # fmt: skip
    """Read a neural graph that :func:`save_graph` wrote, or a checkpoint of a known architecture.

    Args:
        architecture: whose parameters the file holds; it may then be any file that
            :func:`load_state_dict` reads. Every parameter is checked by name and shape.
        allow_nonfinite: whether NaN and infinity among the weights pass.
        max_bytes: larger files are refused.

    Raises:
        InvalidGraphError: if a checkpoint does not fit the architecture, or the file is a graph of
            another one.
        DataFileError: if the file is missing, too large, truncated or damaged, of another kind or
            version, or if its tensors do not fit its architecture.
        NonFiniteError: if a weight is NaN or infinite, and they are not allowed.
    """
    path = checkpoints.checked_path(path, max_bytes)
    is_safe = checkpoints.container_of(path).name == "safetensors"
    tensors, metadata = checkpoints.read_safetensors(path) if is_safe else ({}, {})
    if architecture is not None and metadata.get("format") != _FORMAT:
        state = tensors if is_safe else load_state_dict(path, max_bytes=max_bytes)
        try:
            return state_dict_to_graph(state, architecture, allow_nonfinite=allow_nonfinite)
        except NNGraphError as error:
            raise type(error)(f"{path}: {error}") from error
    if not is_safe:
        raise DataFileError(
            f"{path} is no graph file; expected .safetensors, as save_graph writes it. A "
            "checkpoint is read by load_state_dict, or with the architecture that it is of."
        )
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise DataFileError(
            f"{path} has format {metadata.get('format')!r}, version {metadata.get('version')!r}; "
            f"expected a graph file, {_FORMAT!r} version {_VERSION!r}. A plain state dict is read "
            "by load_state_dict, or with the architecture that it is of."
        )
    try:
        own = Architecture.from_json(metadata.get("architecture", ""))
        plain = json.loads(metadata.get("attributes", "{}"))
        if not isinstance(plain, dict):
            raise InvalidGraphError("its attributes are no JSON object")
        parameters = {k: v for k, v in tensors.items() if not k.startswith(_EXTRA)}
        graph = NeuralGraph.from_parameters(own, parameters, allow_nonfinite=allow_nonfinite)
        extra = {k.removeprefix(_EXTRA): v for k, v in tensors.items() if k.startswith(_EXTRA)}
        edge_attr = extra.pop("edge_attr", None)
        if wrong := [name for name in (*plain, *extra) if not _is_attribute(name)]:
            raise InvalidGraphError(f"it has an attribute called {wrong[0]!r}")
        for name, value in {**plain, **extra}.items():
            setattr(graph, name, value)
        if edge_attr is not None:
            graph.edge_attr = edge_attr
            graph.validate()
    except NonFiniteError:
        raise
    except (NNGraphError, ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is damaged: {error}") from error
    if architecture not in (None, own):
        raise InvalidGraphError(
            f"{path} is a graph file of {own}, which is not the architecture {architecture} that "
            "was given; leave that out."
        )
    return graph


def _is_attribute(name: str) -> bool:
    """Whether a graph may have a further attribute of this name: no method, nothing of its own."""
    taken = name.startswith("_") or name in NeuralGraph.OWN_ATTRIBUTES
    return name.isidentifier() and not taken and not callable(getattr(NeuralGraph, name, None))
