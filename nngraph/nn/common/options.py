"""Options of a part that a model passes on, as a value of their own or as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

_Options = TypeVar("_Options")


def options_of(
    kind: type[_Options], given: _Options | Mapping[str, Any] | None, **defaults: Any
) -> _Options:
    """Return options of a kind; what plain data, such as JSON, does not name has the defaults.

    Raises:
        TypeError: if the plain data names an option that there is not.
    """
    return given if isinstance(given, kind) else kind(**{**defaults, **(given or {})})  # type: ignore[dict-item]
