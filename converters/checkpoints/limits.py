"""What reading an untrusted file may cost, and how its damage is told."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nngraph.errors import DataFileError, NNGraphError

#: Larger files are refused unless asked for: 16 GiB, four billion float32 weights.
MAX_BYTES = 2**34
#: Larger texts (indices, tables, settings) are refused.
MAX_TEXT = 2**28
#: About what an object of Python takes, at most, for each byte of JSON, CSV or a zip's directory.
_SWELL = 32


class MemoryBudget:
    """Bytes that may still be used on what one call reads.

    What is unpacked, copied or built in memory is taken from it before it is made, by what a file
    claims, so that a small file cannot claim much.

    Args:
        max_bytes: in all.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = self.left = max_bytes

    def take(self, count: int, path: Path) -> None:
        """Use ``count`` bytes.

        Raises:
            DataFileError: if fewer are left.
        """
        if count > self.left:
            used = self.max_bytes - self.left + count
            raise DataFileError(
                f"{path} unpacks to {used} bytes or more; at most {self.max_bytes} are read. Pass "
                "a larger max_bytes if that is right."
            )
        self.left -= count


@contextmanager
def damage_told(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a damaged file raises inside into a ``DataFileError`` that names it."""
    try:
        yield
    except NNGraphError:
        raise
    # Libraries raise many kinds of errors for damaged files, and overflow in many ways.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataFileError(f"{path} is damaged, or no {expected}: {lines[0]:.200}") from error


def checked_path(path: str | Path, max_bytes: int) -> Path:
    """Return the path of a file that is there, not empty and not too large."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise DataFileError(f"{path} cannot be read: {words}.") from None
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


def file_beside(path: Path, name: Any) -> Path:
    """Return the file that ``path`` names in its own folder.

    Raises:
        DataFileError: if it is named anywhere else.
    """
    plain = isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")
    if not plain or name == path.name or not {"\\", "\0"}.isdisjoint(name):
        raise DataFileError(f"{path} names the file {name!r:.99}; expected one in its own folder.")
    return path.parent / str(name)


def read_text(path: Path, budget: MemoryBudget) -> bytes:
    """Return the bytes of a text that is parsed in memory, and count what that takes."""
    size = checked_path(path, min(MAX_TEXT, budget.max_bytes)).stat().st_size
    budget.take(_SWELL * size, path)
    with damage_told(path, "text"):
        return path.read_bytes()


def read_json(path: Path, budget: MemoryBudget) -> Any:
    """Return what a JSON file holds."""
    return parse_json(path, read_text(path, budget))


def parse_json(path: Path, text: bytes | str) -> Any:
    """Return what a JSON text in a file holds."""
    with damage_told(path, "JSON"):
        return json.loads(text)


@contextmanager
def open_archive(path: Path, budget: MemoryBudget) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose entries together unpack to no more than is left."""
    with path.open("rb") as file:
        budget.take(directory_cost(file), path)
        with zipfile.ZipFile(file) as archive:
            budget.take(sum(entry.file_size for entry in archive.infolist()), path)
            yield archive


def directory_cost(file: BinaryIO) -> int:
    """Return what it takes to read the directory of a zip archive, 0 if it has none."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 2**16 - 22 - 20))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        return 0
    if tail.rfind(b"PK\x06\x07", 0, end) >= 0:  # a larger directory, told elsewhere
        return _SWELL * size
    return _SWELL * int(struct.unpack("<L", tail[end + 12 : end + 16])[0])


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytearray:
    """Return an entry of an archive, exactly as long as it says it is."""
    data = bytearray(entry.file_size)
    view, done = memoryview(data), 0
    with archive.open(entry) as stream:
        while done < len(data) and (part := stream.read(2**20)):
            view[done : done + len(part)] = part
            done += len(part)
        if done < len(data) or stream.read(1):
            raise ValueError(f"its entry {entry.filename!r:.99} is cut short")
    return data
