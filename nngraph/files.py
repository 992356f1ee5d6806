"""Files: written so that a reader never sees half of one, and read within bounds."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nngraph.errors import DataFileError

#: Start of the name of a file that is being written; a killed process may leave one behind.
TEMPORARY = ".nngraph-writing-"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any time the old or the new one is there, whole."""
    with written_atomically(path) as file:
        file.write(data)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which then takes its place whole, or not at all."""
    # Not tempfile, whose files are readable by their owner alone.
    temporary = path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which is then put in its place whole.

    Raises:
        DataFileError: if something is there already.
    """
    if path.exists():
        raise DataFileError(f"{path} is there already; choose another folder.")
    work = path.parent / f"{TEMPORARY}{path.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        work.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes``; a DataFileError says what it is in place."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DataFileError(f"{path} is not a regular file; expected one.")
        if status.st_size > max_bytes:
            raise DataFileError(f"{path} has {status.st_size} bytes; expected at most {max_bytes}.")
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        raise DataFileError(f"{path} is missing; expected a file of the zoo.") from None
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None
