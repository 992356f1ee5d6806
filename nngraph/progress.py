"""Progress bars: alive in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

#: Seconds between the states of a bar in a terminal, and between its lines in a log.
_ALIVE, _LOGGED = 0.5, 30.0


class _Lines:
    """Takes what a bar writes over itself with carriage returns, and writes it as lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        # A bar shows its last state again when it is closed.
        if line and line != self.last:
            self.stream.write(f"{line}\n")
            self.last = line

    def flush(self) -> None:
        self.stream.flush()


def progress_bar(*, shown: bool = True, **options: Any) -> tqdm[Any]:
    """Return a bar of tqdm on stderr, or, where that is no terminal, a line now and then."""
    if sys.stderr.isatty():
        return tqdm(disable=not shown, mininterval=_ALIVE, **options)
    return tqdm(
        disable=not shown, mininterval=_LOGGED, maxinterval=_LOGGED, file=_Lines(sys.stderr),
        ascii=True, ncols=100, **options,
    )  # fmt: skip
