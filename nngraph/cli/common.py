"""Parts of several commands: telling results, and checks of numbers and devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nngraph.cli.options.deriving import mistake
from nngraph.cli.options.shared import Reports
from nngraph.errors import DataFileError


def tell(options: Reports, data: dict[str, Any], words: Callable[[], str], code: int = 0) -> int:
    """Write the result to stdout, one JSON document or words, and return the exit code."""
    print(json.dumps(data, indent=2, allow_nan=False) if options.json else words())
    return code


def picked(of: object, *names: str) -> dict[str, Any]:
    """Return some attributes by name."""
    return {name: getattr(of, name) for name in names}


def at_least(least: int, **values: int) -> None:
    """Refuse numbers that are less."""
    for name, value in values.items():
        if value < least:
            raise mistake(f"--{name} is {value}; expected at least {least}.")


def check_out(out: str | None, *files: str) -> None:
    """Refuse to write over a file that is read."""
    if out is not None:
        for file in map(Path, files):
            if file.exists() and Path(out).exists() and file.samefile(out):
                raise DataFileError(
                    f"{out} is the file that is read; choose another name to write to."
                )


def check_device(name: str) -> None:
    """Refuse a device that cannot be used."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise mistake(f"the device {name!r} cannot be used: {reason}.") from None
