"""What parsers of several commands share."""

from __future__ import annotations

from argparse import Action
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

__all__ = ["NETWORKS", "add_activation", "add_module", "add_output", "add_threads", "new_parser"]


#: What a network that can be run is called by.
NETWORKS = (
    "an .onnx file, or package.module:factory, a module or a function without arguments that "
    "returns one: this imports and runs that code, which is why it is asked for by name"
)


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
        f"identity, or another of nngraph.graph.ACTIVATIONS (default: {default})",
    )  # fmt: skip
    parser.add_argument(
        "--w0", type=float, default=None, help="frequency of sine layers; needed for these"
    )


def add_module(parser: ArgumentParser) -> None:
    """Add what is said of networks that can be run, and of checkpoints of any architecture."""
    parser.add_argument(
        "--inputs", action="append", type=str, default=None, metavar="SHAPE[:DTYPE[:BELOW]]",
        help="an example input of a network that can be run, such as 1x3x224x224, 1x16:int64, or "
        "1x16:int64:50257 for whole numbers below that; once for each input (of an .onnx file the "
        "shapes that it declares are the default)",
    )  # fmt: skip
    parser.add_argument(
        "--output", action="append", type=str, default=None, metavar="NAME",
        help="a value of an .onnx file that the network returns, in place of all its outputs; once "
        "for each",
    )  # fmt: skip
    parser.add_argument(
        "--verify", action="store_true",
        help="prove the symmetry on the network itself, in float64; exit code 1 if it fails",
    )  # fmt: skip
    parser.add_argument(
        "--strict", action="store_true",
        help="refuse operations that have no rule, which otherwise fix what they touch",
    )  # fmt: skip
    parser.add_argument(
        "--architecture", type=str, default=None, metavar="FILE.json",
        help="of the network whose weights the file holds: what inspect or convert wrote with "
        "--json; every parameter is checked by name and shape",
    )  # fmt: skip
