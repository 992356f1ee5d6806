"""Rows of a table and networks in files, brought together by what a column says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.checkpoints import Value
from nngraph.errors import DataFileError, InvalidGraphError

Columns = Mapping[str, Sequence[Value]]
_SHOWN = 5
#: Of a longer path only so many parts are compared.
_PARTS = 12
_ENDING = re.compile(r"(\.pth\.tar|\.index\.json|\.weights\.h5|\.[^./]+)$")


def join_rows(
    path: Path, table: Columns, names: Sequence[str], key: str | None, match: str | None
) -> tuple[list[int | None], str | None, tuple[str, ...]]:
    """Return the row of each network, the column that names it, and notes on what is left over.

    A network is named by its path, the end of one, with or without the ending, or by a folder that
    has it alone; what names two networks names none. A number names a part with zeros before it,
    and letters are the same however they are composed.

    Args:
        path: of the table, for messages.
        names: of the networks; those of one file without names are numbered, ``"7"``.
        key: the column; default the one that names most.
        match: regular expression whose first group, in a network's name, is what the column says.

    Raises:
        DataFileError: if no row names a network, two columns do so differently, or two rows name
            one network.
        InvalidGraphError: if there is no such column, or the pattern is none.
    """
    if key is not None and key not in table:
        raise InvalidGraphError(
            f"{path} has no column {key!r:.99}; it has {', '.join(map(repr, table))}."
        )
    places = _places(names) if match is None else _matched(match, names)
    tried = {
        column: [_place(cell, places, match is not None) for cell in table[column]]
        for column in ([key] if key is not None else table)
    }
    # Texts first: numbers, such as epochs, name files by accident.
    texts = [c for c in tried if any(isinstance(cell, str) for cell in table[c])]
    found = texts if any(_named(tried[c]) for c in texts) else list(tried)
    if key is None:  # numbers that name a file twice are no names of files
        found = [c for c in found if c in texts or _is_once(tried[c])]
    best = max((_named(tried[c]) for c in found), default=0)
    chosen = [c for c in found if best and _named(tried[c]) == best]
    if not chosen:
        cells = "; ".join(f"{c}: {', '.join(map(str, table[c][:2]))}" for c in tried)
        raise DataFileError(
            f"{path}: no row names a network. The networks are {', '.join(names[:3])} ..., the "
            f"columns say {cells:.300} ... Give the column by key, or by match a regular "
            "expression whose group finds in a path what the column says."
        )
    if any(tried[c] != tried[chosen[0]] for c in chosen[1:]):
        raise DataFileError(
            f"{path}: the columns {', '.join(map(repr, chosen))} name networks, and not the same "
            "ones. Give the one that is meant by key."
        )
    rows: list[int | None] = [None] * len(names)
    for row, number in enumerate(tried[chosen[0]]):
        if number is None:
            continue
        if (before := rows[number]) is not None:
            raise DataFileError(
                f"{path}: rows {before + 1} and {row + 1} are both of {names[number]!r}, by the "
                f"column {chosen[0]!r}; expected one row a network."
            )
        rows[number] = row
    said = table[chosen[0]]
    lost = [str(said[row]) for row, number in enumerate(tried[chosen[0]]) if number is None]
    bare = [name for name, row in zip(names, rows, strict=True) if row is None]
    notes = (*listed("rows without a file", lost), *listed("files without a row", bare))
    return rows, chosen[0], notes


def listed(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return a note that counts names and shows the first; none if there are none."""
    shown, more = ", ".join(names[:_SHOWN]), " ..." if len(names) > _SHOWN else ""
    return (f"{len(names)} {what}: {shown:.300}{more}",) if names else ()


def found_in(name: str, pattern: str, where: str) -> str:
    """Return what the first group of a pattern finds in a name.

    Raises:
        DataFileError: if it finds nothing.
        InvalidGraphError: if it is no regular expression with a group.
    """
    try:
        match = re.search(pattern, name)
        found = None if match is None else match.group(1)
    except (re.error, IndexError) as error:
        raise InvalidGraphError(
            f"the pattern {pattern!r} is no regular expression with a group: {error}."
        ) from None
    if found is None:
        raise DataFileError(
            f"{where}: the pattern {pattern!r} finds nothing in {name!r}; expected it in every "
            "file's path."
        )
    return found


def _named(numbers: Sequence[int | None]) -> int:
    return sum(number is not None for number in numbers)


def _is_once(numbers: Sequence[int | None]) -> bool:
    named = [number for number in numbers if number is not None]
    return len(set(named)) == len(named)


def _places(names: Sequence[str]) -> dict[str, int | None]:
    """Return which network each path, and part of one, stands for; ``None`` where several."""
    places: dict[str, int | None] = {}
    for number, name in enumerate(names):
        words = name.split("/")[-_PARTS:]
        bare = [*words[:-1], _ENDING.sub("", words[-1])]
        ends = range(1, len(words) + 1)
        runs = {"/".join(w[i:j]) for w in (words, bare) for j in ends for i in range(j)}
        runs |= {_plain(word) for word in bare}
        for run in runs | {_composed(run) for run in runs}:
            places[run] = number if run not in places else None
    # A whole path stands for its network, though it may end another.
    return {**places, **{name: number for number, name in enumerate(names)}}


def _matched(pattern: str, names: Sequence[str]) -> dict[str, int | None]:
    places: dict[str, int | None] = {}
    for number, name in enumerate(names):
        try:
            found = _plain(found_in(name, pattern, "match"))
        except DataFileError:
            continue
        places[found] = number if found not in places else None
    return places


def _place(cell: Value, places: Mapping[str, int | None], matched: bool) -> int | None:
    if cell is None or isinstance(cell, bool):
        return None
    text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
    if matched:
        return places.get(_plain(text))
    # Of another machine's path as much of its end as there is here.
    for said in dict.fromkeys((text, text.strip(), _composed(text.strip()))):
        parts = said.replace("\\", "/").strip("/").split("/")
        for start in range(len(parts)):
            if (end := "/".join(parts[start:])) in places:
                return places[end]
    return None


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _plain(text: str) -> str:
    """Return a number without the zeros around it."""
    if not re.fullmatch(r"\d{1,18}(\.\d{1,18})?", text, re.ASCII):
        return text
    whole, _, rest = text.partition(".")
    return ".".join(filter(None, (whole.lstrip("0") or "0", rest.rstrip("0"))))
