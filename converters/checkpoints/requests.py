"""What a reader of a file is given, and what it gives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.checkpoints.limits import MemoryBudget
from converters.checkpoints.tables import Value


@dataclass(frozen=True)
class Request:
    """What a reader is given beside the path of a file."""

    budget: MemoryBudget
    layout: Path | None = None
    records: Collection[str] = ()
    #: whether an index may stand here, which no file that an index names is
    index: bool = True


@dataclass(frozen=True)
class Held:
    """What a file holds: containers of tensors within one another, and what is known beside."""

    value: Any
    facts: dict[str, Value] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    aside: dict[str, int] = field(default_factory=dict)
    #: of a checkpoint in several files the one that each tensor is in
    files: dict[str, str] = field(default_factory=dict)
