"""Numbers that say how large a model is."""

from __future__ import annotations


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Hold sizes to be whole numbers of at least ``least``, or name the first that is none.

    Raises:
        ValueError: if one is another.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise ValueError(f"{name} is {size!r:.40}; expected an integer of at least {least}.")
