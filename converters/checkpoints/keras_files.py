"""Weights that Keras wrote: ``.weights.h5``, ``.keras``, and the ``.h5`` of Keras 2."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.checkpoints.axes import to_torch_order, torch_name
from converters.checkpoints.limits import (
    MemoryBudget,
    damage_told,
    open_archive,
    parse_json,
    read_entry,
)
from converters.checkpoints.requests import Held, Request
from nngraph.errors import DataFileError, MissingDependencyError

MAGIC = b"\x89HDF\r\n\x1a\n"
#: Tensors of a layer in the order of Keras 3, by its class.
_LAYERS = {
    **dict.fromkeys(("dense", "conv1d", "conv2d", "conv3d"), ("kernel", "bias")),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
#: What a file of Keras holds beside layers with weights.
_ASIDE = re.compile(r"(^|/)(optimizer|_?seed_generator\w*|metrics?|loss|dropout\w*)(/|$)")
_MOST = 100_000


def read_h5(path: Path, request: Request) -> Held:
    """Return the weights of a Keras model of Dense, Conv and BatchNormalization layers.

    Kernels are turned into torch's order; names are those of the layers, ``conv2d_1.weight``.

    Raises:
        DataFileError: if the file is damaged, too large, or has other layers.
        MissingDependencyError: without h5py.
    """
    request.budget.take(path.stat().st_size, path)
    with _opened(path, path) as file:
        return _read(path, file, request.budget, None)


def read_keras(path: Path, request: Request) -> Held:
    """Return the weights in a ``.keras`` archive, as :func:`read_h5` does.

    Inputs of a Dense layer behind Flatten stand in the order of torch, channels first, where the
    archive says what shape was flattened.
    """
    with damage_told(path, "archive of Keras"), open_archive(path, request.budget) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        config = parse_json(path, bytes(read_entry(archive, entries["config.json"])))
        data = io.BytesIO(read_entry(archive, entries["model.weights.h5"]))
    with _opened(path, data) as file:
        return _read(path, file, request.budget, config)


@contextmanager
def _opened(path: Path, source: Any) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError(
            f"{path} is an HDF5 file, as Keras writes, which needs h5py. Install it with: "
            "pip install 'nngraph[keras]' (or pip install h5py)."
        ) from None
    with damage_told(path, "HDF5 file"), h5py.File(source, "r") as file:
        yield file


def _read(path: Path, file: Any, budget: MemoryBudget, config: Any) -> Held:
    found: dict[str, Tensor] = {}
    aside = 0
    for name, data in _datasets(file):
        if _ASIDE.search(name):
            aside += 1
            continue
        layer, tensor = _names(path, name)
        size = data.size * data.dtype.itemsize
        chunk = math.prod(data.chunks or ()) * data.dtype.itemsize
        if data.external or data.is_virtual or data.dtype.kind not in "fiu":
            raise DataFileError(f"{path}: {name!r:.99} holds no numbers of the file itself.")
        budget.take(size + chunk, path)
        value = torch.from_numpy(data[()].astype(data.dtype.newbyteorder("=")))
        if tensor == "kernel":
            value = to_torch_order(value)
        found[torch_name(f"{layer}/{tensor}" if layer else tensor)] = value
    if not found:
        raise DataFileError(
            f"{path} is an HDF5 file without layers of Keras; save the arrays with numpy.savez, "
            "under the names of the parameters."
        )
    for name in found:
        if "batch_normalization" in name and f"{name.rpartition('.')[0]}.running_var" not in found:
            raise DataFileError(
                f"{path}: {name!r:.99} is of a BatchNormalization without scale or centre, whose "
                "tensors Keras does not name; save the arrays with numpy.savez."
            )
    told = {"optimizer": aside} if aside else {}
    return Held(found, {}, _put_channels_first(found, config), told)


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield data sets by their paths; links to other places and files are not followed."""
    import h5py

    pending, seen = [(file, "", 0)], 0
    while pending:
        group, prefix, depth = pending.pop()
        for name in group:
            seen += 1
            if seen > _MOST or depth > 16:
                raise ValueError(f"it has more than {_MOST} entries, or groups within themselves")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            entry = group[name]
            path = f"{prefix}{name}"
            if isinstance(entry, h5py.Dataset):
                yield path, entry
            elif isinstance(entry, h5py.Group):
                pending.append((entry, f"{path}/", depth + 1))


def _names(path: Path, name: str) -> tuple[str, str]:
    """Return the layer and the tensor that a data set is, of Keras 3 or 2.

    Keras 3 has ``layers/conv2d_1/vars/0``; Keras 2 ``conv2d_1/conv2d_1/kernel:0``, in a group
    ``model_weights`` where the whole model was saved.
    """
    parts = name.removeprefix("model_weights/").split("/")
    last = re.sub(r":\d+$", "", parts[-1])
    if last in ("kernel", "bias", *_LAYERS["batch_normalization"]):
        layer = parts[-2] if len(parts) > 1 else ""
        _known(path, layer, named=True)
        return layer, last
    if len(parts) > 1 and parts[-2] == "vars" and last.isdecimal():
        inner = [p for p in parts[:-2] if p not in ("layers", "_layer_checkpoint_dependencies")]
        kinds = _known(path, inner[-1] if inner else "")
        if int(last) < len(kinds):
            return "/".join(inner), kinds[int(last)]
    raise DataFileError(
        f"{path} has the tensor {name!r:.99}, which is no kernel, bias or statistic; layers that "
        f"are read are {', '.join(_LAYERS)}. Save the arrays with numpy.savez."
    )


def _known(path: Path, layer: str, named: bool = False) -> tuple[str, ...]:
    """Return the tensors of a layer's class; in Keras 2 layers may have names of their own."""
    kind = re.sub(r"_\d+$", "", layer)
    if kind in _LAYERS:
        return _LAYERS[kind]
    if named and not re.search("transpose|depthwise|separable|lstm|gru|rnn|embed|einsum", kind):
        return ()
    raise DataFileError(
        f"{path} has a layer {layer!r:.99}; read are {', '.join(_LAYERS)}. Save the arrays with "
        "numpy.savez, under the names of the parameters."
    )


def _put_channels_first(found: dict[str, Tensor], config: Any) -> tuple[str, ...]:
    """Order the inputs of Dense layers behind Flatten as torch does; say where that is unknown."""
    told = isinstance(config, dict) and config.get("class_name") == "Sequential"
    layers = config["config"]["layers"] if told else []
    told = told and all(one["config"].get("data_format") != "channels_first" for one in layers)
    counts: Counter[str] = Counter()
    shape = None
    for layer in layers if told else []:
        kind = str(layer["class_name"]).lower()
        if kind == "flatten":
            shape = (layer.get("build_config") or {}).get("input_shape")
        elif kind == "dense":
            name = f"dense_{counts[kind]}.weight" if counts[kind] else "dense.weight"
            counts[kind] += 1
            if isinstance(shape, list) and len(shape) > 2 and name in found:
                window, channels = shape[1:-1], shape[-1]
                kernel = found[name].reshape(-1, *window, channels)
                found[name] = kernel.movedim(-1, 1).flatten(1).contiguous()
            shape = None
        elif kind not in ("dropout", "activation", "relu"):
            shape = None
    widths = {v.shape[0] for v in found.values() if v.dim() > 2}
    first = [n for n, v in found.items() if v.dim() == 2 and v.shape[1] not in widths]
    if told or not widths or not first:
        return ()
    return (
        f"inputs of {first[0]!r}, if it stands behind Flatten, are in the order of Keras: height, "
        "width, channel",
    )
