"""The kinds of files that people keep weights in: told by their content, not by their ending."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from converters.checkpoints import arrays, gguf_files, keras_files, torch_files
from converters.checkpoints.limits import MAX_BYTES, checked_path, directory_cost
from converters.checkpoints.requests import Held, Request
from converters.checkpoints.safe_files import read_index, read_safe
from nngraph.errors import DataFileError


class Look:
    """A first look at a file: its beginning, and the names in it if it is an archive."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                self.head = file.read(512)
        except OSError as error:
            raise DataFileError(f"{path} cannot be read: {error.strerror}.") from None

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Names in a zip archive; none if it is damaged, too large or no archive."""
        if self.head.startswith(b"PK\x03\x04"):
            harmless = suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
            with harmless, self.path.open("rb") as file:
                if directory_cost(file) <= self.max_bytes:
                    return frozenset(zipfile.ZipFile(file).namelist())
        return frozenset()

    @functools.cached_property
    def inner(self) -> frozenset[str]:
        """Names in an archive without their first folder."""
        return frozenset(name.partition("/")[2] for name in self.names)


@dataclass(frozen=True)
class Container:
    """A kind of file.

    Args:
        name: short, for reports.
        recognises: whether a file is one, after a look at it.
        read: returns what it holds; ``None`` for kinds that are not read.
        refusal: of a kind that is not read: what it is, and what to do.
    """

    name: str
    recognises: Callable[[Look], bool]
    read: Callable[[Path, Request], Held] | None = None
    refusal: str = ""


def _begins(*marks: bytes) -> Callable[[Look], bool]:
    return lambda look: look.head.startswith(marks)


def _is_safetensors(look: Look) -> bool:
    return look.head[8:9] == b"{" and int.from_bytes(look.head[:8], "little") <= look.size - 8


def _is_arrays(look: Look) -> bool:
    return bool(look.names) and all(name.endswith(".npy") for name in look.names)


def _is_onnx(look: Look) -> bool:
    # ir_version, then the name of the producer: fields 1 and 2 of a model in protobuf.
    starts = look.head[:1] == b"\x08" and look.head[2:3] == b"\x12" and 0 < look.head[1] < 32
    return starts or look.path.suffix == ".onnx"


def _is_script(look: Look) -> bool:
    return "constants.pkl" in look.inner or any(n.startswith("code/") for n in look.inner)


def _index(path: Path, request: Request) -> Held:
    if not request.index:
        raise DataFileError(f"{path} is named by an index, and is an index itself.")
    inner = replace(request, index=False)
    return read_index(path, request.budget, lambda part: read_held(part, inner)[1].value)


def _packed(name: str, *marks: bytes) -> Container:
    return Container(name, _begins(*marks), None, f"is compressed with {name}; unpack it first")


#: Kinds of files, each asked in turn whether a file is one. What none of them claims is read as its
#: ending says, so that a damaged file is refused as what it was.
CONTAINERS = (
    Container(
        "git-lfs pointer", _begins(b"version https://git-lfs"), None,
        "is a git-lfs pointer, which stands for the file; fetch that with `git lfs pull`, or "
        "download it",
    ),
    Container(
        "AppleDouble file", _begins(b"\0\5\x16\7"), None,
        "is what macOS keeps beside a file that it copies, and no weights; delete it",
    ),
    Container("hdf5", _begins(keras_files.MAGIC), keras_files.read_h5),
    Container("gguf", _begins(gguf_files.MAGIC), gguf_files.read_gguf),
    Container("npy", _begins(b"\x93NUMPY"), arrays.read_array),
    _packed("gzip", b"\x1f\x8b"),
    _packed("bzip2", b"BZh"),
    _packed("xz", b"\xfd7zXZ"),
    _packed("zstd", b"\x28\xb5\x2f\xfd"),
    _packed("7-Zip", b"7z\xbc\xaf\x27\x1c"),
    _packed("RAR", b"Rar!"),
    Container(
        "tar", lambda look: look.head[257:262] == b"ustar", None,
        "is a tar archive; unpack it first",
    ),
    Container(
        "web page", _begins(b"<!DOCTYPE", b"<!doctype", b"<html"), None,
        "is a web page, perhaps an error or a log-in page in place of the file; download it again",
    ),
    Container(
        "torchscript", _is_script, None,
        "is a TorchScript archive, which holds code as well as weights. Save the weights alone, "
        "where you trust the file: torch.save(torch.jit.load(path).state_dict(), other)",
    ),
    Container(
        "exported program", lambda look: "archive_format" in look.inner | look.names, None,
        "is an archive of torch.export, which holds a program. Save its weights alone: "
        "torch.save(torch.export.load(path).state_dict, other)",
    ),
    Container("npz", _is_arrays, arrays.read_arrays),
    Container(
        "keras", lambda look: {"config.json", "model.weights.h5"} <= look.names,
        keras_files.read_keras,
    ),
    Container("torch", _begins(b"PK\x03\x04", torch_files.OLD_MAGIC), torch_files.read_torch),
    Container("safetensors", _is_safetensors, read_safe),
    Container(
        "index", lambda look: look.head.lstrip()[:1] == b"{" and b"\0" not in look.head, _index
    ),
    Container(
        "parquet", _begins(b"PAR1"), None, "is a parquet table, of facts perhaps, and no weights"
    ),
    Container(
        "tflite", lambda look: look.head[4:8] == b"TFL3", None,
        "is a TensorFlow Lite file; save the Keras model that it was made of",
    ),
    Container(
        "matlab", _begins(b"MATLAB 5.0"), None,
        "is a MATLAB file; save its arrays with numpy.savez, under the names of the parameters",
    ),
    Container(
        "onnx", _is_onnx, None,
        "is an ONNX file, which holds a network; read it with load_onnx, or import its folder",
    ),
)  # fmt: skip
_BY_NAME = {container.name: container for container in CONTAINERS}


def container_of(path: Path, max_bytes: int = MAX_BYTES) -> Container:
    """Return what kind a file is.

    Raises:
        DataFileError: if it cannot be read, or is of a kind that is not read; the message says
            which, and what to do.
    """
    container = kind_of(path, max_bytes)
    if container.read is None:
        raise DataFileError(f"{path} {container.refusal}.")
    return container


def kind_of(path: Path, max_bytes: int = MAX_BYTES) -> Container:
    """Return what kind a file is, whether or not it is read here.

    Raises:
        DataFileError: if it cannot be read.
    """
    look = Look(path, max_bytes)
    for container in CONTAINERS:
        if container.recognises(look):
            return container
    if look.head[:1] == b"\x80" or path.suffix not in (".safetensors", ".npz"):
        return _BY_NAME["torch"]
    return _BY_NAME["npz" if path.suffix == ".npz" else "safetensors"]


def read_held(path: str | Path, request: Request) -> tuple[str, Held]:
    """Return what kind a file is, and what it holds.

    Raises:
        DataFileError: if it is missing, damaged, too large, or of a kind that is not read.
    """
    path = checked_path(path, request.budget.max_bytes)
    container = container_of(path, request.budget.max_bytes)
    assert container.read is not None  # or it would have been refused
    return container.name, container.read(path, request)
