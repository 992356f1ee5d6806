"""Tensors that a model keeps in files beside it: checked, then mapped into memory."""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from nngraph.errors import DataFileError

#: A link made after the check is not followed, and a pipe does not make the reader wait; systems
#: without these have neither as files.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class ExternalData:
    """The files that the tensors of one model may lie in.

    Only regular files in the model's own folder, or below it, are opened: no absolute paths, no
    ``..``, no symbolic links. A file is mapped, not read: numbers come from the disk when they are
    used first, and writing to a tensor changes its memory and never the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        # For each file, the starts and ends of the regions handed out, in increasing order.
        self._regions: dict[str, list[tuple[int, int]]] = {}

    def tensor(
        self, entries: Mapping[str, str], dtype: torch.dtype, count: int, what: str
    ) -> Tensor:
        """Map ``count`` numbers; ``entries`` are the keys and values that the model gives."""
        location = entries.get("location", "")
        size = count * dtype.itemsize
        offset = _number(entries, "offset", 0, what)
        length = _number(entries, "length", size, what)
        if length != size:
            raise DataFileError(
                f"{what} is kept in {location!r} with {length} bytes; its shape and type need "
                f"{size}."
            )
        if location not in self._maps:
            self._maps[location] = self._open(location, what)
        mapped = self._maps[location]
        if offset + size > len(mapped):
            raise DataFileError(
                f"{what} is kept in {location!r} from byte {offset} to {offset + size}; that file "
                f"has {len(mapped)} bytes."
            )
        if count == 0:
            return torch.empty(0, dtype=dtype)
        tensor = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset)
        # Tensors that share bytes must not become one tied parameter; unaligned ones are slow.
        if self._overlaps(location, offset, offset + size) or offset % dtype.itemsize:
            return tensor.clone()
        return tensor

    def _overlaps(self, location: str, start: int, end: int) -> bool:
        """Whether a region overlaps one handed out before; if not, note it."""
        regions = self._regions.setdefault(location, [])
        place = bisect_left(regions, (start, end))
        before, after = regions[max(place - 1, 0) : place], regions[place : place + 1]
        overlaps = any(own[1] > start for own in before) or any(own[0] < end for own in after)
        if not overlaps:
            regions.insert(place, (start, end))
        return overlaps

    def _open(self, location: str, what: str) -> mmap.mmap:
        parts = PurePosixPath(location).parts
        foreign = location.startswith("/") or any(c in location for c in "\\:\0")
        if not parts or foreign or ".." in parts:
            raise DataFileError(
                f"{what} is kept in {location!r}; expected the relative path of a file in the "
                "model's own folder, with no '..', no drive and no backslash."
            )
        path = self._folder
        try:
            for part in parts:
                path = path / part
                if path.is_symlink():
                    raise DataFileError(
                        f"{what} is kept in {location!r}, and {str(path)!r} is a symbolic link; "
                        "links are not followed. Put the file itself beside the model."
                    )
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            raise DataFileError(
                f"{what} is kept in {location[:200]!r}, which cannot be read: {error.strerror}. "
                "Models with external data consist of several files: put them in one folder."
            ) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                raise DataFileError(
                    f"{what} is kept in {location!r}, which is empty or no regular file."
                )
            return mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)


def _number(entries: Mapping[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise DataFileError(f"{what} has the {key} {text[:40]!r}; expected a number of bytes.")
    return int(text)
