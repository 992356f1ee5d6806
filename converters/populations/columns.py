"""Columns of values to facts of a zoo, each of its own kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from converters.checkpoints import Value
from nngraph.errors import DataFileError, InvalidGraphError
from nngraph.zoo import SPLITS, Fact, is_text

KINDS = ("number", "class", "text")
#: Other names of splits.
_SPLITS = {"training": 0, "validation": 1, "valid": 1, "dev": 1, "testing": 2}
_SPLITS |= {name: number for number, name in enumerate(SPLITS)}
_WHOLE = 2**62
#: Larger whole numbers, such as seeds, are others as real numbers.
_EXACT, _LARGEST = 2**53, 2**1000
#: Bytes of the texts of one column that a manifest keeps.
_MAX_TEXTS = 2**26
#: Characters of a text that tables of csv take.
_MAX_TEXT = 2**17 - 1


class ColumnChoice(NamedTuple):
    """A column that becomes a fact: the fact's name, the column's, and its kind if that is said."""

    name: str
    column: str
    kind: str | None = None


def choices_of(
    words: Sequence[str] | None, columns: Mapping[str, Sequence[Value]], default: Sequence[str]
) -> list[ColumnChoice]:
    """Return what ``COLUMN``, ``NAME=COLUMN`` and ``...:KIND`` stand for; without words a default.

    Raises:
        InvalidGraphError: if there is no such column, or two facts would have one name.
    """
    found = []
    for word in default if words is None else words:
        name, column, kind = None, word, None
        if words is not None and word not in columns:
            bare, _, last = word.rpartition(":")
            column, kind = (bare, last) if last in KINDS and bare else (word, None)
            if column not in columns and "=" in column:
                name, _, column = column.partition("=")
        if column not in columns:
            raise InvalidGraphError(
                f"columns has {word!r:.99}, and there is no column {column!r:.99}; there are "
                f"{', '.join(map(repr, list(columns)[:20])) or 'none'}."
            )
        found.append(ColumnChoice(fact_name(column) if name is None else name, column, kind))
    names = [choice.name for choice in found]
    for choice in found:
        if choice.name in ("split", "source", "label") or names.count(choice.name) > 1:
            raise InvalidGraphError(
                f"the column {choice.column!r:.99} would be the fact {choice.name!r}, which "
                "another is, or which an import makes itself. Name the columns to keep, and rename "
                f"it: columns=['other={choice.column:.99}', ...]."
            )
    return found


def text_columns(words: Sequence[str] | None) -> set[str]:
    """Return names of columns that ``COLUMN:text`` and ``NAME=COLUMN:text`` may stand for."""
    bare = {word.removesuffix(":text") for word in words or () if word.endswith(":text")}
    return bare | {word.partition("=")[2] for word in bare}


def fact_name(column: str) -> str:
    """Return a column's name with lower-case letters, digits and underscores alone."""
    name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
    return (name if name[:1].isalpha() else f"fact_{name}".rstrip("_"))[:64]


def fact_of(
    choice: ColumnChoice, values: Sequence[Value], names: Sequence[str]
) -> tuple[Fact, Tensor]:
    """Return a column as a fact ``[B]``.

    Whole numbers from 0 stay whole; other numbers are float32, NaN where nothing is known. Other
    values are classes by their text, in natural order, if a text is there twice; else texts, kept
    with their lines, each once, in the order in which they first appear. What is not known is the
    class or text ``""``, the last.

    Args:
        names: of the networks, for messages.

    Raises:
        DataFileError: if a value of a number is none, or texts are too long to be kept.
    """
    told = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
    known = [value for value in told if value is not None]
    kind = choice.kind or _kind(known)
    if kind == "number":
        return _number(choice, told, names)
    if kind == "text":
        return _texts(choice, told)
    texts = [None if value is None else _text(value) for value in told]
    return _numbered(choice, texts, "int64")


def _texts(choice: ColumnChoice, told: Sequence[Value]) -> tuple[Fact, Tensor]:
    texts = [None if value is None else _lines(value) for value in told]
    size = sum(len(text.encode()) for text in {text for text in texts if text})
    longest = max((len(text) for text in texts if text), default=0)
    if size > _MAX_TEXTS or longest > _MAX_TEXT:
        raise DataFileError(
            f"the column {choice.column!r:.99} has {size} bytes of text, and {longest} characters "
            f"in one; at most {_MAX_TEXTS} and {_MAX_TEXT} are kept. Leave it out by naming the "
            "columns to keep (columns)."
        )
    return _numbered(choice, texts, "text")


def _numbered(
    choice: ColumnChoice, texts: Sequence[str | None], dtype: str
) -> tuple[Fact, Tensor]:
    """Return the numbers of texts, each once: classes in natural order, texts as they come."""
    there = list(dict.fromkeys(text for text in texts if text))
    order = there if dtype == "text" else sorted(there, key=natural)
    missing = len(there) if any(not text for text in texts) else None
    numbers = {text: number for number, text in enumerate(order)}
    classes = (*order, *([] if missing is None else [""]))
    held = torch.tensor([numbers[text] if text else missing for text in texts], dtype=torch.int64)
    return Fact(choice.name, dtype, classes), held


def _kind(known: Sequence[Value]) -> str:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return "number"
    few = len(set(known)) < len(known) or len(known) < 2
    return "class" if few or all(isinstance(value, bool) for value in known) else "text"


def _number(
    choice: ColumnChoice, told: Sequence[Value], names: Sequence[str]
) -> tuple[Fact, Tensor]:
    for value, name in zip(told, names, strict=True):
        if not isinstance(value, int | float | None):
            raise DataFileError(
                f"the column {choice.column!r:.99} says {value!r:.60} of {name!r}; expected a "
                f"number. Write {choice.column:.99}:class for a choice of names."
            )
    if told and all(isinstance(v, int) and 0 <= v < _WHOLE for v in told):
        return Fact(choice.name), torch.tensor([int(v or 0) for v in told], dtype=torch.int64)
    numbers = torch.tensor([_real(v) for v in told], dtype=torch.float64)
    held = numbers.float()
    large = [isinstance(v, int) and abs(v) > _EXACT and choice.kind is None for v in told]
    if (lost := (held.isinf() & numbers.isfinite()) | torch.tensor(large)).any():
        number = int(lost.nonzero()[0])
        raise DataFileError(
            f"the column {choice.column!r:.99} says {told[number]!r:.60} of {names[number]!r}, "
            f"more than float32 holds. Write {choice.column:.99}:text (or :number, where it may be "
            "rounded), or leave the column out by naming the columns to keep (columns)."
        )
    return Fact(choice.name, "float32"), held


def _real(value: Any) -> float:
    if isinstance(value, int):
        return float(max(-_LARGEST, min(value, _LARGEST)))
    return math.nan if value is None else float(value)


def _text(value: Value) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, float) and value.is_integer():
        text = str(int(value))  # as it is written where no number of the column is missing
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _lines(value: Value) -> str:
    """Return a text as it is, with ``\\n`` between lines, and without other control characters."""
    text = value if isinstance(value, str) else _text(value)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if is_text(text) else "".join(c for c in text if is_text(c))


def split_of(values: Sequence[Value], column: str, names: Sequence[str]) -> Tensor:
    """Return a column of splits as indices into ``SPLITS``, ``[B]``.

    Raises:
        DataFileError: naming the network, if a value is no split.
    """
    found = []
    for value, name in zip(values, names, strict=True):
        known = _SPLITS.get(str(value).strip().lower(), value)
        if isinstance(known, bool) or known not in (0, 1, 2):
            raise DataFileError(
                f"the column {column!r:.99} says {value!r:.60} of {name!r}; expected a split: "
                f"{', '.join(SPLITS)}, or 0, 1, 2."
            )
        found.append(known)
    return torch.tensor(found, dtype=torch.int64)


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers within text by their size."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]
