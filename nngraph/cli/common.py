"""What several commands share: telling results, and whose mistake a value is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import ArgumentError, Namespace

__all__ = ["check_device", "tell", "values_of_the_user"]


@contextmanager
def values_of_the_user() -> Iterator[None]:
    """Turn a ``ValueError`` about values that the user chose into a mistake of usage."""
    try:
        yield
    except ValueError as error:
        raise ArgumentError(None, str(error)) from None


def tell(options: Namespace, data: dict[str, Any], words: Callable[[], str]) -> None:
    """Write the result to stdout: one JSON document, or words."""
    print(json.dumps(data, indent=2, allow_nan=False) if options.json else words())


def check_device(name: str) -> None:
    """Refuse a device that cannot be used."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(None, f"the device {name!r} cannot be used: {reason}.") from None
