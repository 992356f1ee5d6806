"""State dicts and neural graphs in files; nothing in a file is ever executed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from converters.state_dicts import refuse_batch, state_dict_to_graph
from nngraph.errors import DataFileError, InvalidGraphError, NNGraphError
from nngraph.files import write_atomically
from nngraph.graph import Architecture, NeuralGraph
from nngraph.graph.parameters import check_parameters

__all__ = ["load_graph", "load_state_dict", "save_graph"]

#: Larger files are refused unless asked for: 16 GiB, four billion float32 weights.
MAX_BYTES = 2**34
_FORMAT = "nngraph.graph"
_VERSION = "1"
#: First character of the names of tensors in a graph file that are no parameters.
_EXTRA = "@"
#: Keys under which training scripts put the state dict among other things.
_NESTED = ("state_dict", "model_state_dict", "model")


def load_state_dict(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors``, ``.pt`` or ``.pth`` file, on the CPU.

    Torch's own files are read with ``weights_only=True``: tensors and plain containers, no code. A
    state dict under the key ``state_dict``, ``model_state_dict`` or ``model`` is found. Of a graph
    file the parameters are returned.

    Args:
        max_bytes: larger files, and archives that unpack to more, are refused.

    Raises:
        DataFileError: if the file is missing, of another kind, too large, truncated or damaged, or
            holds no state dict.
    """
    path = checked_path(path, max_bytes)
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        if metadata.get("format") == _FORMAT:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(_EXTRA)}
        return tensors
    if path.suffix not in (".pt", ".pth"):
        raise DataFileError(
            f"{path} has the ending {path.suffix!r}; expected .safetensors, .pt or .pth."
        )
    found = _read_torch(path, max_bytes)
    if isinstance(found, Mapping):
        for key in _NESTED:
            if isinstance(found.get(key), Mapping):
                found = found[key]
                break
    if not isinstance(found, Mapping) or not found:
        raise DataFileError(
            f"{path} holds a {type(found).__name__}, and no state dict; expected a mapping from "
            "names to tensors, as torch.save(module.state_dict(), path) writes it."
        )
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataFileError(
                f"{path}: entry {name!r} is a {type(value).__name__}; expected a mapping from "
                "names to tensors only."
            )
        if (
            value.layout == torch.strided
            and not value.is_quantized
            and value.numel() * value.element_size() > value.untyped_storage().nbytes()
        ):
            raise DataFileError(
                f"{path}: entry {name!r} claims {value.numel()} numbers, more than are stored."
            )
    return dict(found)


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
        if isinstance(value, Tensor):
            tensors[_EXTRA + name] = value.detach()
            continue
        try:
            same = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise InvalidGraphError(
                f"attribute {name!r} of the graph is a {type(value).__name__} that a file cannot "
                "hold; expected a tensor, a number, a string, or lists and dicts of these. "
                "Remove it first, with del graph.<name> on a copy."
            )
        plain[name] = value
    if graph.is_materialised and cast(Tensor, graph.edge_attr).shape[1] != 1:
        tensors[f"{_EXTRA}edge_attr"] = cast(Tensor, graph.edge_attr).detach()
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "architecture": graph.architecture.to_json(),
        "attributes": json.dumps(plain),
    }
    # Fresh memory for each: safetensors refuses tensors that share theirs.
    tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        write_atomically(path, save(tensors, metadata))
    except (OSError, SafetensorError) as error:
        raise DataFileError(f"{path} could not be written: {error}.") from error


def load_graph(
    path: str | Path,
    architecture: Architecture | None = None,
    *,
    allow_nonfinite: bool = True,
    max_bytes: int = MAX_BYTES,
) -> NeuralGraph:
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
    path = checked_path(path, max_bytes)
    if architecture is not None:
        return _load_checkpoint(path, architecture, allow_nonfinite, max_bytes)
    if path.suffix != ".safetensors":
        raise DataFileError(f"{path} has the ending {path.suffix!r}; expected .safetensors.")
    tensors, metadata = _read_safetensors(path)
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise DataFileError(
            f"{path} has format {metadata.get('format')!r}, version {metadata.get('version')!r}; "
            f"expected a graph file, {_FORMAT!r} version {_VERSION!r}. A plain state dict is read "
            "by load_state_dict, or with the architecture that it is of."
        )
    try:
        architecture = Architecture.from_json(metadata.get("architecture", ""))
        plain = json.loads(metadata.get("attributes", "{}"))
        if not isinstance(plain, dict):
            raise InvalidGraphError("its attributes are no JSON object")
        parameters = {k: v for k, v in tensors.items() if not k.startswith(_EXTRA)}
        check_parameters(architecture, parameters)
        extra = {k.removeprefix(_EXTRA): v for k, v in tensors.items() if k.startswith(_EXTRA)}
        edge_attr = extra.pop("edge_attr", None)
        if wrong := [name for name in (*plain, *extra) if not _is_attribute(name)]:
            raise InvalidGraphError(f"it has an attribute called {wrong[0]!r}")
        graph = NeuralGraph.from_parameters(architecture, parameters)
        for name, value in {**plain, **extra}.items():
            setattr(graph, name, value)
        if edge_attr is not None:
            graph.edge_attr = edge_attr
            graph.validate()
    except (NNGraphError, ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is damaged: {error}") from error
    check_parameters(architecture, parameters, allow_nonfinite=allow_nonfinite)
    return graph


def _load_checkpoint(
    path: Path, architecture: Architecture, allow_nonfinite: bool, max_bytes: int
) -> NeuralGraph:
    if path.suffix == ".safetensors":
        _, metadata = _read_safetensors(path)
        if metadata.get("format") == _FORMAT:
            graph = load_graph(path, allow_nonfinite=allow_nonfinite, max_bytes=max_bytes)
            if graph.architecture != architecture:
                raise InvalidGraphError(
                    f"{path} is a graph file of {graph.architecture}, which is not the "
                    f"architecture {architecture} that was given; leave that out."
                )
            return graph
    state = load_state_dict(path, max_bytes=max_bytes)
    try:
        return state_dict_to_graph(state, architecture, allow_nonfinite=allow_nonfinite)
    except NNGraphError as error:
        raise type(error)(f"{path}: {error}") from error


def _is_attribute(name: str) -> bool:
    """Whether a graph may have a further attribute of this name: no method, nothing of its own."""
    taken = name.startswith("_") or name in NeuralGraph.OWN_ATTRIBUTES
    return name.isidentifier() and not taken and not callable(getattr(NeuralGraph, name, None))


def checked_path(path: str | Path, max_bytes: int) -> Path:
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror}.") from None
    if not path.is_file():
        raise DataFileError(f"{path} is no file.")
    if size == 0:
        raise DataFileError(f"{path} is empty.")
    if size > max_bytes:
        raise DataFileError(
            f"{path} has {size} bytes; at most {max_bytes} are read. Pass a larger max_bytes if "
            "that is right."
        )
    return path


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataFileError(f"{path} is damaged or no safetensors file: {error}.") from error


def _read_torch(path: Path, max_bytes: int) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > max_bytes:
                raise DataFileError(
                    f"{path} unpacks to {unpacked} bytes; at most {max_bytes} are read."
                )
        return torch.load(path, map_location="cpu", weights_only=True)
    except DataFileError:
        raise
    except Exception as error:  # a damaged file fails in many ways inside torch
        text = str(error)
        if found := re.search(r"GLOBAL ([\w.]+)", text):
            raise DataFileError(
                f"{path} holds an object of {found[1]}; only tensors in plain containers are read, "
                "since loading others runs code of the file. Save the weights alone, with "
                "torch.save(module.state_dict(), path)."
            ) from error
        reason = text.splitlines()[0] if text else type(error).__name__
        raise DataFileError(f"{path} is damaged, or no file of torch.save: {reason}") from error
