"""What parsers of several commands share."""

from __future__ import annotations

from argparse import Action
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

__all__ = ["add_activation", "add_output", "add_threads", "new_parser"]


class _Help(DefaultHelpFormatter):
    """Help that leaves a default of ``null`` out: what then holds is said in words."""

    def _expand_help(self, action: Action) -> str:
        return str(super()._expand_help(action)).replace(", default: null)", ")")


def new_parser(description: str, **options: Any) -> ArgumentParser:
    """Return a parser that raises on mistakes, and has our form of help."""
    return ArgumentParser(
        description=description, exit_on_error=False, formatter_class=_Help, **options
    )


def add_threads(parser: ArgumentParser, default: str = "cores there are, at most 4") -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", type=int, help=f"threads to compute on (default: {default})")


def add_output(parser: ArgumentParser, progress: bool = True) -> None:
    """Add ``--json``, and ``--quiet`` where there are progress bars."""
    parser.add_argument(
        "--json", action="store_true", help="write one JSON document to stdout and nothing else"
    )
    if progress:
        parser.add_argument("--quiet", action="store_true", help="no progress bars on stderr")


def add_activation(parser: ArgumentParser, default: str = "relu") -> None:
    """Add ``--activation`` and ``--w0``."""
    parser.add_argument(
        "--activation", nargs="+", type=str, default=None,
        help="of the hidden layers, which a state dict does not say: one name, or one per hidden "
        "layer: relu, leaky_relu, elu, gelu, gelu_tanh, silu, sigmoid, softplus, tanh, sine, "
        f"identity (default: {default})",
    )  # fmt: skip
    parser.add_argument(
        "--w0", type=float, default=None, help="frequency of sine layers; needed for these"
    )
