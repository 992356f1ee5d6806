"""Parsers that are derived from dataclasses: a field is an option, its docstring the help.

A field of a type ``Argument[...]`` is given by its place, every other one by its name. A list takes
one word or more, a tuple as many as it has entries; a ``bool`` takes none, but one of the library's
settings ``true`` or ``false``. Strings in ``Annotated`` are what the help calls the words; the keys
of a mapping there are the choices.
"""

from __future__ import annotations

import inspect
import re
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

T = TypeVar("T")
#: A value that is given by its place.
Argument = Annotated[T, "argument"]
#: A list whose values are given one by one, each after the name.
Each = Annotated[list[T] | None, "each"]

_ROLES = re.compile(r":\w+:`[~.\w]*?(\w+)`")


class _Help(DefaultHelpFormatter):
    """Help that leaves a default of ``null`` out: what then holds is said in words."""

    def _expand_help(self, action: Action) -> str:
        text = str(super()._expand_help(action)).replace(", default: null)", ")")
        return text.replace("str | null", "str")


def new_parser(description: str, **options: Any) -> ArgumentParser:
    """Return a parser that raises on mistakes, and has our form of help."""
    return ArgumentParser(
        description=description, exit_on_error=False, formatter_class=_Help, **options
    )


def mistake(text: str) -> ArgumentError:
    """Return a mistake of usage."""
    return ArgumentError(None, text)


@contextmanager
def values_of_the_user() -> Iterator[None]:
    """Turn a ``ValueError`` about values that the user chose into a mistake of usage."""
    try:
        yield
    except ValueError as error:
        raise mistake(str(error)) from None


def told_of(kind: type) -> tuple[str, dict[str, str]]:
    """Return what the docstring of a class says, and what it and its bases say of each field."""
    told: dict[str, str] = {}
    about = ""
    for each in reversed(kind.__mro__[:-1]):
        about, _, rest = (inspect.cleandoc(each.__doc__ or "") + "\n").partition("\nArgs:\n")
        args = re.split(r"\n(?=\S)", rest, maxsplit=1)[0]
        for names, text in re.findall(r"(?m)^    ([\w, ]+): ((?:.*\n?)(?:^     .*\n?)*)", args):
            told.update(dict.fromkeys(names.split(", "), _plain(text)))
    return _plain(about), told


def _plain(text: str) -> str:
    return " ".join(_ROLES.sub(r"\1", text).replace("``", "").replace("%", "%%").split())


def add_options(parser: ArgumentParser, kind: type, told: Mapping[str, str]) -> None:
    """Add a dataclass's fields: its own first, then those of its bases."""
    hints = get_type_hints(kind, include_extras=True)
    known: dict[str, Field[Any]] = {item.name: item for item in fields(kind)}
    for owner in kind.__mro__:
        for name in list(inspect.get_annotations(owner)):
            if item := known.pop(name, None):
                setting = owner.__module__.startswith("nngraph.settings")
                _add(parser, item, hints[name], setting, told[name])


def _add(parser: ArgumentParser, item: Field[Any], hint: Any, setting: bool, help: str) -> None:
    inner, extra = _inner(hint)
    default = item.default if item.default_factory is MISSING else item.default_factory()
    optional = default is not MISSING
    given: dict[str, Any] = {"help": help, **({"default": default} if optional else {})}
    if words := tuple(w for w in extra if isinstance(w, str) and w not in ("argument", "each")):
        given["metavar"] = words if len(words) > 1 else words[0]
    choices = [tuple(each) for each in extra if isinstance(each, Mapping)]
    origin, parts = get_origin(inner), get_args(inner)
    if "each" in extra:
        given |= {"action": "append", "type": parts[0]}
    elif origin in (list, Sequence):
        given |= {"nargs": "+", "type": parts[0]}
    elif origin is tuple:
        given |= {"nargs": len(parts), "type": parts[0]}
        if isinstance(default, tuple):
            given["default"] = list(default)
    elif choices:
        given["type"] = Literal[choices[0]]
    elif inner is bool and not setting:
        given["action"] = "store_true"
    else:
        given["type"] = (get_args(hint)[0] if extra else hint) if setting else inner
    if "argument" not in extra:
        parser.add_argument(f"--{item.name}", required=not optional, **given)
    else:
        parser.add_argument(item.name, **({"nargs": "?"} if optional else {}) | given)


def _inner(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without ``None`` and notes, and the notes."""
    extra: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        extra = tuple(notes)
    some = [part for part in get_args(hint) if part is not NoneType]
    optional = NoneType in get_args(hint)
    return (some[0] if optional and len(some) == 1 else hint), extra


def options_of(kind: type[T], given: Namespace) -> T:
    """Return the dataclass with the values that were given.

    Raises:
        ArgumentError: if a value is out of range.
    """
    hints = get_type_hints(kind, include_extras=True)
    values = {name: given[name] for name in (item.name for item in fields(kind))}  # type: ignore[arg-type]
    for name, value in values.items():
        if isinstance(value, list) and get_origin(_inner(hints[name])[0]) is tuple:
            values[name] = tuple(value)
    with values_of_the_user():
        return kind(**values)
