"""What the command line understands: commands, options, their defaults and meaning."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from nngraph import __version__
from nngraph.cli.match_parser import match_parser
from nngraph.cli.parser_parts import (
    NETWORKS,
    add_activation,
    add_module,
    add_output,
    add_threads,
    new_parser,
)
from nngraph.cli.training_parsers import (
    compare_parser,
    eval_parser,
    models_parser,
    train_parser,
)
from nngraph.cli.zoo_parsers import ZOO_PARSERS

__all__ = ["COMMANDS", "build_parser"]

#: Commands, and the actions of those that have some.
COMMANDS: dict[str, tuple[str, ...]] = {
    "demo": (),
    "zoo": tuple(ZOO_PARSERS),
    "convert": (),
    "inspect": (),
    "validate": (),
    "train": (),
    "eval": (),
    "match": (),
    "models": (),
    "compare": (),
}

_EXIT_CODES = "Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted."


def build_parser(command: str | None = None) -> ArgumentParser:
    """Return the parser of the command ``nngraph``.

    Args:
        command: the command that the line begins with. The options of ``train`` are read off the
            library, which imports torch; they are there only for that command.
    """
    parser = new_parser(
        "Networks as graphs: make populations of networks, convert and inspect them, train models "
        f"that read their weights. {_EXIT_CODES}",
        prog="nngraph",
        version=__version__,
    )
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    commands.add_subcommand("demo", _demo(), help="all of it in a few minutes; begin here")
    zoo = new_parser("Populations of networks: make, keep, look at and share them.")
    commands.add_subcommand("zoo", zoo, help="make, keep, look at and share populations")
    actions = zoo.add_subcommands(required=True, dest="action", metavar="ACTION")
    for name, (make, about) in ZOO_PARSERS.items():
        actions.add_subcommand(name, make(), help=about)
    commands.add_subcommand("convert", _convert(), help="turn a file of weights into a graph file")
    commands.add_subcommand(
        "inspect", _inspect(), help="architecture, sizes, symmetry and statistics of a network"
    )
    commands.add_subcommand(
        "validate", _validate(), help="hold layers and models against basis and symmetry"
    )
    commands.add_subcommand(
        "train", train_parser(command == "train"), help="train a metanetwork on a zoo"
    )
    commands.add_subcommand("eval", eval_parser(), help="judge a trained metanetwork on a zoo")
    commands.add_subcommand("match", match_parser(), help="match the neurons of two networks")
    commands.add_subcommand("models", models_parser(), help="tell the metanetworks that there are")
    commands.add_subcommand("compare", compare_parser(), help="compare finished runs")
    return parser


def _demo() -> ArgumentParser:
    parser = new_parser(
        "Fit small networks to the 1,797 digits of scikit-learn, turn them into graphs, check that "
        "the graphs run as the networks do, train metanetworks and baselines to name the digit "
        "from the weights, relabel the neurons of every test network, and draw it all. Takes some "
        "minutes on two cores; run again after an interruption it goes on where it was. Exit code "
        "1 if a graph does not run as its network, or an invariant model changes an answer."
    )
    parser.add_argument(
        "--out", type=str, default=None,
        help="folder for networks, runs, report and figure (default: out/demo, with --quick "
        "out/demo-quick)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument(
        "--quick", action="store_true",
        help="a few images and steps, some seconds: shows that everything runs, not what it learns",
    )  # fmt: skip
    add_threads(parser)
    add_output(parser)
    return parser


def _convert() -> ArgumentParser:
    parser = new_parser(
        "Turn a network, or the weights of one, into a graph file: the same tensors, bit for bit, "
        "with the architecture beside them. Without more, a state dict is that of an MLP. Exit "
        "code 1, and no file, if --verify fails or proves nothing: a mistake could hide."
    )
    parser.add_argument(
        "file", type=str,
        help=f"state dict in .safetensors, .pt or .pth, of which no code is run; {NETWORKS}",
    )  # fmt: skip
    parser.add_argument("out", type=str, help="graph file to write, ending in .safetensors")
    add_activation(parser)
    parser.add_argument(
        "--allow_nonfinite", action="store_true", help="let NaN and infinity among the weights pass"
    )
    add_module(parser)
    add_output(parser, progress=False)
    return parser


def _inspect() -> ArgumentParser:
    parser = new_parser(
        "Describe a network or a zoo. Of weights (a state dict or a graph file) or a zoo: "
        "architecture, sizes, the group of neuron relabellings that leave its function alone, and "
        "statistics of each tensor. Of a network that can be run: its neuron groups, the spaces "
        "that may be relabelled and the axes that each ties, the blocks of its edges, and what "
        "lost its freedom, and why. Exit code 0 if --verify holds, 1 if it "
        "fails or the symmetry is not proven, since a mistake could hide; --json has the status of "
        "each space. "
        "Example: nngraph inspect model.onnx --verify"
    )
    parser.add_argument(
        "file", type=str, help=f"state dict, graph file, folder of a zoo; {NETWORKS}"
    )
    add_activation(parser)
    add_module(parser)
    parser.add_argument(
        "--maximal", action="store_true",
        help="as --verify, and search for symmetry that was missed; for small networks",
    )  # fmt: skip
    add_output(parser, progress=False)
    return parser


def _validate() -> ArgumentParser:
    parser = new_parser(
        "Prove the library on an architecture: which elements of the DWS basis, the complete set "
        "of linear maps on weights that commute with relabelling neurons, each linear layer spans, "
        "block by block; and the largest error of every layer and model under random relabellings, "
        "in float64 and float32, on each device present. Exit code 1 if anything falls short of "
        "what it claims. Example: nngraph validate 2 32 32 3"
    )
    parser.add_argument(
        "network", nargs="+", type=str,
        help="layer sizes, inputs first; or a state dict, a graph file or the folder of a zoo, "
        "whose architecture is taken",
    )  # fmt: skip
    add_activation(parser, "sine with w0 = 30 for layer sizes; relu for a state dict")
    parser.add_argument(
        "--figure", type=str, default=None, metavar="FILE",
        help="draw the basis as matrices, of the same network at most 3 wide, to a .png, .pdf or "
        ".svg file",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and relabellings")
    add_threads(parser)
    add_output(parser, progress=False)
    return parser
