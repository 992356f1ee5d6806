"""Tables of what is known of networks: CSV, TSV, JSON, JSON lines, parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.checkpoints.limits import (
    MAX_TEXT,
    MemoryBudget,
    checked_path,
    damage_told,
    read_text,
)
from nngraph.errors import DataFileError, MissingDependencyError

#: Characters in which the end of a header is looked for.
_HEADER = 2**16
#: How tables of numbers say that one is not known.
_MISSING = frozenset(("", "na", "n/a", "none", "null"))
_TRUTHS = {"true": True, "false": False}
#: What is known of a network: a number, a text, or nothing.
Value = int | float | str | bool | None


def read_table(
    path: str | Path, budget: MemoryBudget | None = None, texts: Collection[str] = ()
) -> dict[str, list[Value]]:
    """Return the columns of a table by their names; an empty cell is ``None``.

    Texts of a CSV are numbers or truths where all in their column are, or say that nothing is
    known. Read are ``.csv``, with tabs or semicolons too where its header has no commas, and
    ``.tsv``, also packed with gzip, ``.json`` (a list of objects, or an object of lists),
    ``.jsonl`` and ``.parquet``; values within values have dotted names.

    Args:
        texts: columns of a CSV whose cells stay as they are written.

    Raises:
        DataFileError: if it is damaged, too large, or no table.
        MissingDependencyError: for parquet without pyarrow.
    """
    path, budget = Path(path), budget or MemoryBudget()
    if path.suffix == ".parquet":
        return _read_parquet(path, budget)
    data = read_text(path, budget)
    with damage_told(path, "table"):
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(min(MAX_TEXT, budget.left // 8) + 1)
            budget.take(8 * len(data) if len(data) <= MAX_TEXT else budget.left + 1, path)
        if data[:4] == b"PK\3\4":
            raise DataFileError(f"{path} is an archive, perhaps a spreadsheet. Save it as CSV.")
        try:
            wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
            text = data.decode("utf-16" if wide else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataFileError(
                f"{path} is no text of UTF-8, by its byte {error.start}. Save it as CSV in UTF-8."
            ) from None
        if text.lstrip()[:1] in ("{", "["):
            return _of_json(path, text)
        return _of_csv(path, text, texts)


def _of_csv(path: Path, text: str, texts: Collection[str]) -> dict[str, list[Value]]:
    first = text[:_HEADER].lstrip().partition("\n")[0]
    comma = max(",;\t", key=first.count) if "," not in first else ","
    comma = "\t" if ".tsv" in path.name else comma
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
    header = [name.strip() for name in header]
    if header[-1:] == [""] and all(row[len(header) - 1 :] in ([], [""]) for row in rows):
        header, rows = header[:-1], [row[: len(header) - 1] for row in rows]  # a last comma
    if (twice := _twice(header)) is not None:
        raise DataFileError(f"{path} has the column {twice!r:.99} twice; rename one of them.")
    for number, row in enumerate(rows, 1):
        if row and len(row) != len(header):
            raise DataFileError(
                f"{path}: row {number} has {len(row)} cells; expected {len(header)}, as in its "
                "header. Put texts with commas between quotes."
            )
    rows = [row for row in rows if row]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return {n: [c or None for c in v] if n in texts else typed(v) for n, v in columns.items()}


def _of_json(path: Path, text: str) -> dict[str, list[Value]]:
    try:
        held = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        lines = (line for line in text.splitlines() if line.strip())
        held = [json.loads(line, object_pairs_hook=_once) for line in lines]
    if isinstance(held, dict) and held and all(isinstance(v, list) for v in held.values()):
        columns = {str(key): [as_value(v) for v in column] for key, column in held.items()}
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError("its columns are not of one length")
        return columns
    rows = [held] if isinstance(held, dict) else held
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataFileError(f"{path} is JSON, and no table; expected a list of objects, one a row.")
    return columns_of([flattened(row) for row in rows])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := _twice([name for name, _ in pairs])) is not None:
        raise ValueError(f"it has {twice!r:.60} twice in one row")
    return dict(pairs)


def _twice(names: Sequence[str]) -> str | None:
    """Return the first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _read_parquet(path: Path, budget: MemoryBudget) -> dict[str, list[Value]]:
    """Read the columns of numbers and texts; a text that stands in many rows is there once."""
    try:
        from pyarrow import parquet, types
    except ImportError:
        raise MissingDependencyError(
            f"{path} is a parquet table, which needs pyarrow. Install it with: pip install pyarrow."
        ) from None
    checked_path(path, budget.max_bytes)
    with damage_told(path, "parquet table"):
        schema, about = parquet.read_schema(path), parquet.read_metadata(path)
        flat = [field.name for field in schema if not types.is_nested(field.type)]
        sizes = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
        budget.take(sum(sizes) + 64 * about.num_rows * len(flat), path)
        texts = [name for name in flat if not types.is_primitive(schema.field(name).type)]
        table = parquet.read_table(path, columns=flat, read_dictionary=texts)
        found: dict[str, list[Value]] = {name: [] for name in flat}
        for name, column in found.items():
            for chunk in table.column(name).chunks:
                if not types.is_dictionary(chunk.type):
                    column += map(as_value, chunk.to_pylist())
                    continue
                values = [*map(as_value, chunk.dictionary.to_pylist()), None]
                column += [values[-1 if i is None else i] for i in chunk.indices.to_pylist()]
        return found


def columns_of(rows: Iterable[Mapping[str, Value]]) -> dict[str, list[Value]]:
    """Return rows as columns, in the order in which these first appear."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def typed(column: list[str]) -> list[Value]:
    """Return texts as whole numbers, real ones or truths, if all are that say something."""
    said = [text.strip().lower() for text in column]
    blank = _MISSING if any(word not in _MISSING for word in said) else {""}
    for kind in (int, float, _TRUTHS.__getitem__):
        try:
            return [None if word in blank else kind(_unjoined(word)) for word in said]
        except (ValueError, KeyError):
            continue
    return [text if text else None for text in column]


def _unjoined(word: str) -> str:
    if "_" in word:  # the name 1_0, which Python reads as ten
        raise ValueError
    return word


def as_value(found: Any) -> Value:
    """Return one value of JSON or of a checkpoint as a number or text; a list as a text of both."""
    if isinstance(found, list | tuple) and all(isinstance(v, int | float | str) for v in found):
        return ",".join(str(v) for v in found[:64])[:256]
    if isinstance(found, int) and abs(found) >= 2**1000:
        return math.inf
    return found if isinstance(found, bool | int | float | str) else None


def flattened(found: Any, prefix: str = "", depth: int = 6) -> dict[str, Value]:
    """Return values within values under dotted names, as ``optimizer.lr``."""
    if not isinstance(found, Mapping) or depth == 0:
        return {prefix: as_value(found)} if prefix else {}
    values: dict[str, Value] = {}
    for key, value in found.items():
        if len(values) >= 1024:
            break
        name = f"{prefix}.{key}" if prefix else str(key)
        values.update(flattened(value, name[:128], depth - 1))
    return values
