"""Images by the names that ``--data`` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nngraph.zoo.images.idx import CLASS_NAMES, load_idx_folder
from nngraph.zoo.images.pngs import load_png_folder
from nngraph.zoo.sources import ImageSource, load_digits_images


@dataclass(frozen=True)
class Source:
    """How the images of a name are loaded: ``load(*folders)``, or ``load(*folders, part)``.

    Without parts ``"train"`` and ``"test"``, a fifth is for testing.
    """

    load: Callable[..., ImageSource]
    folders: int = 0
    parts: bool = False


def _idx(name: str) -> Source:
    return Source(partial(load_idx_folder, name=name), folders=1, parts=True)


#: Name -> how its images are loaded. Any other name is that of a folder with files like MNIST's.
SOURCES: dict[str, Source] = {
    "digits": Source(load_digits_images),
    "png": Source(load_png_folder, folders=1),
    **{name: _idx(name) for name in CLASS_NAMES},
}


def load_images(name: str, folders: Sequence[str | Path] = (), part: str = "train") -> ImageSource:
    """Return the images of a name; of one part where they come in parts.

    A ValueError says that it takes another number of folders, a DataFileError what file is damaged.
    """
    source = SOURCES.get(name) or _idx(name)
    if len(folders) != source.folders:
        raise ValueError(
            f"the images {name!r} were given {len(folders)} folders; expected {source.folders}. "
            "If one is where a zoo is to be, give it before --data."
        )
    return source.load(*folders, *([part] if source.parts else []))


def load_train_and_test(
    name: str, folders: Sequence[str | Path] = ()
) -> tuple[ImageSource, ImageSource]:
    """Return the images of a name to train and to test on; raises as :func:`load_images` does."""
    if name in SOURCES and not SOURCES[name].parts:
        return load_images(name, folders).divide()
    return load_images(name, folders, "train"), load_images(name, folders, "test")
