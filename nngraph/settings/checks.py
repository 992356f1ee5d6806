"""Checks of numbers that settings share."""

from __future__ import annotations


def check_whole(
    settings: object, *names: str, least: int = 1, error: type[ValueError] = ValueError
) -> None:
    """Hold settings to be whole numbers of at least ``least``, or name the first that is none."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise error(f"{name} is {value!r}; expected an integer of at least {least}.")
