"""Exceptions of nngraph: each message says where, what was got, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "ArchitectureError", "DataFileError", "InvalidGraphError", "MissingDependencyError",
    "NNGraphError", "NonFiniteError", "UnsupportedModuleError",
]


class NNGraphError(Exception):
    """Base of every error that a user of nngraph can cause and mend."""


class ArchitectureError(NNGraphError, ValueError):
    """An architecture is malformed, or does not fit what it was used with."""


class InvalidGraphError(NNGraphError, ValueError):
    """A neural graph, batch or tensor does not fit its architecture."""


class NonFiniteError(NNGraphError, ValueError):
    """A weight is NaN or infinite where finite numbers are required."""


class UnsupportedModuleError(NNGraphError, TypeError):
    """A module has no converter; the message names its path and what can be converted."""


class DataFileError(NNGraphError, ValueError):
    """A file is missing, truncated, damaged, too large, or not what it claims to be."""


class MissingDependencyError(NNGraphError, ImportError):
    """An optional package was asked for by name and is not installed."""


@contextmanager
def optional_package(use: str, install: str) -> Iterator[None]:
    """Say of a package that is imported within and is missing what it is for, and how to get it."""
    try:
        yield
    except ImportError:
        raise MissingDependencyError(
            f"{use}, which is not installed. Install it with: pip install {install}"
        ) from None
