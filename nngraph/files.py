"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["TEMPORARY", "write_atomically"]

#: Start of the name of a file that is being written; a killed process may leave one behind.
TEMPORARY = ".nngraph-writing-"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any time the old or the new one is there, whole."""
    # Not tempfile, whose files are readable by their owner alone.
    temporary = path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
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
