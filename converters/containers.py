"""What a file with weights is, told by its content and not by its ending, and what it holds."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nngraph.errors import DataFileError

#: Larger files are refused unless asked for: 16 GiB, four billion float32 weights.
MAX_BYTES = 2**34
#: Files that are no weights in a form that is read, by how they begin, and what to do about it.
_REFUSED = {
    b"version https://git-lfs": "is a git-lfs pointer, which stands for the file; fetch that "
    "with `git lfs pull`, or download it",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file, as Keras writes; save the arrays with numpy.savez, "
    "under the names of the parameters",
    b"GGUF": "is a GGUF file; save its tensors with safetensors, not quantised",
    b"\x93NUMPY": "is one NumPy array; save arrays under the names of parameters, with numpy.savez",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first",
    **dict.fromkeys(
        (b"<!DOCTYPE", b"<html"),
        "is a web page, perhaps an error or a log-in page in place of the file; download it again",
    ),
}  # fmt: skip
_SCRIPT = (
    "is a TorchScript archive, which holds code as well as weights. Save the weights alone, where "
    "you trust the file: torch.save(torch.jit.load(path).state_dict(), other)"
)


def checked_path(path: str | Path, max_bytes: int) -> Path:
    """Return the path of a file that is there, not empty and not too large."""
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


def container_of(path: Path) -> str:
    """Return what a file is: ``safetensors``, ``torch``, ``arrays`` (NumPy's) or ``index``.

    What shows no mark of any of these is what its ending says, so that a damaged file is read, and
    refused, as what it was.

    Raises:
        DataFileError: if it is of a kind that is not read; the message says which, and what to do.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror}.") from None
    for mark, words in _REFUSED.items():
        if head.startswith(mark):
            raise DataFileError(f"{path} {words}.")
    if head[257:262] == b"ustar":
        raise DataFileError(f"{path} is a tar archive; unpack it first.")
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return "safetensors"
    if head.lstrip().startswith(b"{") and b"\0" not in head:
        return "index"
    if head[:1] == b"\x80" or path.suffix not in (".safetensors", ".npz"):
        if path.suffix == ".onnx":
            raise DataFileError(f"{path} is an ONNX file; read it with load_onnx.")
        return "torch"
    return "arrays" if path.suffix == ".npz" else "safetensors"


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = []
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise DataFileError(f"{path} {_SCRIPT}.")
    if names and all(name.endswith(".npy") for name in names):
        return "arrays"
    if "config.json" in names or "model.weights.h5" in names:
        raise DataFileError(
            f"{path} is a Keras archive; save its arrays with numpy.savez, under the names of "
            "the parameters."
        )
    return "torch"


def read_tensors(path: Path, max_bytes: int) -> Any:
    """Return what a file holds: a mapping from names to tensors, unless torch saved other things.

    Raises:
        DataFileError: if it is truncated, damaged, too large, or of another kind.
    """
    match container_of(path):
        case "safetensors":
            return read_safetensors(path)[0]
        case "arrays":
            return read_arrays(path, max_bytes)
        case "index":
            return _read_index(path, max_bytes)
    return _read_torch(path, max_bytes)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataFileError(f"{path} is damaged or no safetensors file: {error}.") from error


def read_arrays(path: str | Path, max_bytes: int = 2**36) -> dict[str, Tensor]:
    """Read an ``.npz`` archive of numbers, without pickles.

    Raises:
        DataFileError: if it is missing, damaged, too large, or holds anything but numbers.
    """
    path = Path(path)
    try:
        _check_unpacked(path, max_bytes)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise DataFileError(
            f"{path} is not an archive of plain numbers: {error}. Expected what numpy.savez "
            "writes of arrays without objects."
        ) from None


def _check_unpacked(path: Path, max_bytes: int) -> None:
    """Refuse a zip archive that unpacks to more."""
    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > max_bytes:
        raise DataFileError(f"{path} unpacks to {size} bytes; at most {max_bytes} are read.")


def _read_index(path: Path, max_bytes: int) -> dict[str, Tensor]:
    """Read the shards that the index of a sharded checkpoint names, from its own folder."""
    try:
        held = json.loads(path.read_bytes())
        places = held["weight_map"]
        wrong = not all(isinstance(v, str) for v in places.values()) or not places
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        wrong = True
    if wrong:
        raise DataFileError(
            f"{path} is JSON, and no index of a sharded checkpoint; expected a 'weight_map' from "
            "names of tensors to files beside it, as in model.safetensors.index.json."
        )
    tensors: dict[str, Tensor] = {}
    left = max_bytes
    for file in sorted(set(places.values())):
        shard = path.parent / file
        if Path(file).name != file or file in ("", ".", "..") or shard == path or "\\" in file:
            raise DataFileError(f"{path} names the file {file!r}; expected one in its own folder.")
        left -= checked_path(shard, left).stat().st_size
        if container_of(shard) == "index":
            raise DataFileError(f"{path} names {file!r}, which is an index itself.")
        found = read_tensors(shard, max_bytes)
        for name in (name for name, place in places.items() if place == file):
            if not isinstance(found, Mapping) or not isinstance(found.get(name), Tensor):
                raise DataFileError(f"{path} expects the tensor {name!r} in {file!r}; it has none.")
            tensors[name] = found[name]
    return {name: tensors[name] for name in places}


def _read_torch(path: Path, max_bytes: int) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _check_unpacked(path, max_bytes)
        # Of an open file: given a path, torch goes by its ending.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
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
        raise DataFileError(
            f"{path} is damaged, or no file of torch.save, safetensors or numpy.savez: "
            f"{_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of torch's message; of none that advises to run what a file holds."""
    text = str(error)
    if re.search("weights.only", text, re.IGNORECASE):
        found = re.search(r"WeightsUnpickler error: (.*)", text)
        text = found[1] if found else ""
        text = "" if re.search("weights.only", text, re.IGNORECASE) else text
    return text.splitlines()[0] if text.strip() else f"{type(error).__name__}."
