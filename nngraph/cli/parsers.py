"""The commands of the command line, and the parser of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from nngraph import __version__
from nngraph.cli.options import networks, training, zoos
from nngraph.cli.options.deriving import add_options, new_parser, told_of


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        options: the dataclass of its options.
        function: module of this package and function that does it, imported when it runs.
        about: what it does in a few words.
        resumes: whether it goes on where it was stopped when it is given again.
        config: whether it takes its options from a file, too.
    """

    options: type[Any]
    function: str
    about: str
    resumes: bool = False
    config: bool = False


COMMANDS = {
    "demo": Command(
        training.Demo, "demo:demo", "all of it in a few minutes; begin here", resumes=True
    ),
    "zoo fit": Command(zoos.ZooFit, "zoos:fit", "fit networks to images", resumes=True),
    "zoo train": Command(zoos.ZooTrain, "zoos:train", "train classifiers of images", resumes=True),
    "zoo info": Command(zoos.ZooInfo, "zoos:info", "say what is in a zoo"),
    "zoo verify": Command(
        zoos.ZooVerify, "zoos:verify", "read all of a zoo and name what is wrong"
    ),
    "zoo merge": Command(zoos.ZooMerge, "zoos:merge", "merge zoos into a new one", resumes=True),
    "zoo filter": Command(
        zoos.ZooFilter, "zoos:keep", "keep some networks as a new zoo", resumes=True
    ),
    "zoo export": Command(zoos.ZooExport, "exchange:export", "write a zoo for other programs"),
    "zoo import": Command(
        zoos.ZooImport, "exchange:take_in", "make a zoo of networks in other files", resumes=True
    ),
    "zoo show": Command(zoos.ZooShow, "zoos:show", "draw images and weights of a zoo"),
    "convert": Command(
        networks.Convert, "inspecting:convert", "turn a file of weights into a graph file"
    ),
    "inspect": Command(
        networks.Inspect, "inspecting:inspect",
        "architecture, sizes, symmetry and statistics of a network",
    ),
    "spec": Command(
        networks.Spec, "specs:derive", "keep what each axis of a network's tensors counts"
    ),
    "validate": Command(
        networks.Validate, "inspecting:prove", "hold layers and models against basis and symmetry"
    ),
    "train": Command(
        training.Train, "training:train_model", "train a metanetwork on a zoo", resumes=True,
        config=True,
    ),
    "eval": Command(training.Eval, "training:judge", "judge a trained metanetwork on a zoo"),
    "match": Command(networks.Match, "matching:match", "match the neurons of two networks"),
    "merge": Command(
        networks.Merge, "merging:merge", "match networks and add them up into one checkpoint"
    ),
    "prune": Command(
        networks.Prune, "pruning:remove", "remove neurons, channels, heads from a network"
    ),
    "diff": Command(
        networks.Diff, "comparing:diff", "tell what two networks are to each other"
    ),
    "models": Command(
        training.Models, "training:tell_models", "tell the metanetworks that there are"
    ),
    "compare": Command(training.Compare, "training:compare", "compare finished runs"),
}  # fmt: skip


def build_parser(first: str | None = None) -> ArgumentParser:
    """Return the parser of ``nngraph``, with options of the commands that begin with ``first``."""
    parser = new_parser(
        "Networks as graphs: make populations of networks, convert and inspect them, train models "
        "that read their weights. Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, "
        "130 interrupted.",
        prog="nngraph", version=__version__,
    )  # fmt: skip
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    actions: Any = None
    for name, command in COMMANDS.items():
        word, _, action = name.partition(" ")
        own = _parser(command, name) if word == first else new_parser("")
        if not action:
            commands.add_subcommand(word, own, help=command.about)
            continue
        if actions is None:
            zoo = new_parser("Populations of networks: make, keep, look at and share them.")
            commands.add_subcommand(word, zoo, help="make, keep, look at and share populations")
            actions = zoo.add_subcommands(required=True, dest="action", metavar="ACTION")
        actions.add_subcommand(action, own, help=command.about)
    return parser


def _parser(command: Command, name: str) -> ArgumentParser:
    about, told = told_of(command.options)
    parser = new_parser(about)
    if command.config:
        help = "YAML file of the options below, as --print_config writes it; later options win"
        parser.add_argument("--config", action="config", help=help)
    if name == "train":
        # The tasks and what each asks, in its own words; they are read off the library.
        from nngraph.tasks import TASKS

        lines = [f"{name}: {(task.__doc__ or '').splitlines()[0]}" for name, task in TASKS.items()]
        told["task"] = " ".join(lines)
    add_options(parser, command.options, told)
    return parser
