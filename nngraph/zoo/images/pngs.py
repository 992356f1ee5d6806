"""Read a folder of PNG images with labels, without trusting them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import DataFileError, optional_package
from nngraph.files import read_bounded
from nngraph.zoo.sources import ImageSource

#: Name of the table of labels, if the folder has one.
LABELS = "labels.csv"
_MAX_BYTES = 2**26
_MAX_PIXELS = 2**24


def load_png_folder(folder: str | Path, name: str = "png", background: float = 0.0) -> ImageSource:
    """Read the PNG images of a folder and their labels.

    The labels are the names of the folder's own folders that the images are in, or come from a file
    ``labels.csv`` in it, with a header ``file,label`` and a line per image. Images are in the order
    of their names, or of the table. Grey images give one channel, and three if any has colour.

    Args:
        name: of the data set.
        background: what transparent pixels are put on, from 0, black, to 1, white.

    Returns:
        Images ``uint8`` ``[n, H, W, 1 or 3]``; classes in alphabetical order.

    Raises:
        DataFileError: naming the file, if it is missing, no PNG image, damaged, too large, outside
            the folder, or of another size than the first.
        MissingDependencyError: if Pillow is not installed.
    """
    folder = Path(folder)
    files = _from_table(folder) if (folder / LABELS).is_file() else _from_folders(folder)
    if not files:
        raise DataFileError(
            f"{folder} has no PNG images in folders named like their classes, and no {LABELS}; "
            "expected one or the other."
        )
    names = sorted({label for _, label in files})
    pictures: list[np.ndarray[Any, Any]] = []
    for file, _ in files:
        pictures.append(_read(file, background))
        (height, width, _), (first, wide, _) = pictures[-1].shape, pictures[0].shape
        if (height, width) != (first, wide):
            raise DataFileError(
                f"{file} has {width} x {height} pixels; expected {wide} x {first} as "
                f"{files[0][0].name}. Bring all to one size first."
            )
    images = np.stack(pictures)
    if (images == images[..., :1]).all():
        images = images[..., :1]
    labels: Tensor = torch.tensor([names.index(label) for _, label in files])
    return ImageSource(name, torch.from_numpy(images.copy()), labels, tuple(names))


def _from_folders(folder: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise DataFileError(f"{folder} is no folder; expected one of PNG images.")
    return [
        (file, inner.name)
        for inner in sorted(folder.iterdir())
        if inner.is_dir()
        for file in sorted(inner.iterdir())
        if file.suffix.lower() == ".png"
    ]


def _from_table(folder: Path) -> list[tuple[Path, str]]:
    table = folder / LABELS
    try:
        rows = list(csv.DictReader(io.StringIO(read_bounded(table, _MAX_BYTES).decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(f"{table} is not a table in UTF-8: {error}.") from None
    files = []
    root = folder.resolve()
    for number, row in enumerate(rows, start=2):
        file, label = row.get("file"), row.get("label")
        if not file or not label:
            raise DataFileError(
                f"{table}, line {number}: no file or no label; expected a header file,label and "
                "both on each line."
            )
        path = folder / file
        if not path.resolve().is_relative_to(root):
            raise DataFileError(f"{table}, line {number}: {file!r:.80} is outside the folder.")
        files.append((path, label))
    return files


def _read(file: Path, background: float) -> np.ndarray[Any, Any]:
    """Return one image as ``[H, W, 3]`` uint8."""
    install = "'nngraph[demo]' (or pip install pillow)."
    with optional_package("PNG images are read by Pillow", install):
        from PIL import Image
    data = read_bounded(file, _MAX_BYTES)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise DataFileError(
                    f"{file} declares {width} x {height} pixels; at most {_MAX_PIXELS} are read."
                )
            picture = image.convert("RGBA")
    except DataFileError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataFileError(f"{file} is not a PNG image that can be read: {error}.") from None
    pixels = np.asarray(picture, dtype=np.float64)
    opaque = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * opaque + 255 * background * (1 - opaque)).astype(np.uint8)
