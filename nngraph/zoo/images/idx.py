"""Read IDX files, the format of MNIST and its kin, gzipped or not, without trusting them."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from nngraph.errors import DataFileError
from nngraph.zoo.sources import ImageSource

#: Names of the classes of data sets that are distributed as IDX files.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
#: File name prefix of each split.
_PREFIX = {"train": "train", "test": "t10k"}
_UBYTE = 0x08
_MAX_DIMENSIONS = 4
#: No deflate stream grows by more than this factor (zlib's technical details).
_MAX_DEFLATE_RATIO = 1032


def read_idx(path: str | Path, max_bytes: int = 2**30) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not.

    The sizes that the file declares are checked against the length of the file before anything of
    that size is made; a gzipped file is never unpacked further than it declares.

    Args:
        max_bytes: largest array that is read; gzip is recognised by content, not by name.

    Returns:
        ``uint8`` in the declared shape, such as ``[n, H, W]`` for images and ``[n]`` for labels.

    Raises:
        DataFileError: if it is missing, not IDX, of another type, too long or large, or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            size = path.stat().st_size
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _read(raw, path, size, max_bytes, packed=False)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                stream = cast(BinaryIO, unpacked)
                return _read(stream, path, size * _MAX_DEFLATE_RATIO, max_bytes, packed=True)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(
            f"{path} is a damaged or truncated gzip file ({error}); expected a whole one. "
            "Fetch it again."
        ) from None
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None


def _read(stream: BinaryIO, path: Path, available: int, max_bytes: int, packed: bool) -> Tensor:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataFileError(
            f"{path} starts with {magic.hex(' ') or 'nothing'}; expected the magic number of an "
            "IDX file, 00 00 08 and its number of dimensions."
        )
    if magic[2] != _UBYTE:
        raise DataFileError(
            f"{path} has entries of IDX type 0x{magic[2]:02x}; expected unsigned bytes, 0x08."
        )
    dimensions = magic[3]
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise DataFileError(f"{path} has {dimensions} dimensions; expected 1 to {_MAX_DIMENSIONS}.")
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataFileError(
            f"{path} ends within its header; expected {dimensions} sizes of 4 bytes each."
        )
    shape = struct.unpack(f">{dimensions}I", sizes)
    expected, header = math.prod(shape), 4 + 4 * dimensions
    declared = f"{path} declares {' x '.join(map(str, shape))} = {expected} bytes"
    if expected > max_bytes:
        raise DataFileError(
            f"{declared}; at most {max_bytes} are read. Raise max_bytes if it is right."
        )
    if packed and header + expected > available:
        raise DataFileError(
            f"{declared}, more than a gzip file of this length can hold; the file is truncated or "
            "its header is wrong."
        )
    if not packed and header + expected != available:
        raise DataFileError(
            f"{declared} but holds {available - header}; expected exactly as many. "
            "The file is truncated, or something follows the data."
        )
    data = stream.read(expected)
    if len(data) < expected:
        raise DataFileError(f"{declared} but holds {len(data)}; the file is truncated.")
    if stream.read(1):
        raise DataFileError(f"{declared} but holds more; expected exactly as many.")
    if not expected:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(shape)


def load_idx_folder(folder: str | Path, split: str = "train", name: str = "mnist") -> ImageSource:
    """Read the images and labels of MNIST, Fashion-MNIST or their like from a folder.

    The files are named as they are distributed: ``train-images-idx3-ubyte``,
    ``train-labels-idx1-ubyte``, ``t10k-...``, with or without ``.gz``.

    Args:
        split: ``"train"`` or ``"test"``.
        name: name of the data set; those of :data:`CLASS_NAMES` give names to the classes.

    Returns:
        Images ``uint8`` ``[n, H, W, 1]`` and labels ``[n]``.

    Raises:
        DataFileError: if a file is missing or damaged, or the two do not belong together.
        ValueError: if the split is unknown.
    """
    if split not in _PREFIX:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(_PREFIX)}.")
    image_file = _find(Path(folder), f"{_PREFIX[split]}-images-idx3-ubyte")
    label_file = _find(Path(folder), f"{_PREFIX[split]}-labels-idx1-ubyte")
    images, labels = read_idx(image_file), read_idx(label_file)
    for file, data, dimensions in ((image_file, images, 3), (label_file, labels, 1)):
        if data.dim() != dimensions or data.numel() == 0:
            raise DataFileError(
                f"{file} holds an array of shape {tuple(data.shape)}; "
                f"expected {dimensions} dimensions, none of them 0."
            )
    if len(images) != len(labels):
        raise DataFileError(
            f"{label_file} has {len(labels)} labels but {image_file} has {len(images)} images; "
            "expected as many. The two files are not of one data set."
        )
    classes = int(labels.max()) + 1
    names = CLASS_NAMES.get(name, tuple(map(str, range(classes))))
    if classes > len(names):
        raise DataFileError(
            f"{label_file} has the label {classes - 1}; {name} has {len(names)} classes, from 0."
        )
    return ImageSource(f"{name}-{split}", images.unsqueeze(-1), labels.long(), names)


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataFileError(
        f"{folder} has neither {name} nor {name}.gz; expected one of them. "
        "Put the files of the data set there under the names it is distributed with."
    )
