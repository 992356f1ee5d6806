"""What the commands ``nngraph zoo ...`` understand."""

from __future__ import annotations

from collections.abc import Callable

from jsonargparse import ArgumentParser

from nngraph.cli.parser_parts import add_output, new_parser
from nngraph.cli.zoo_fit_parser import fit_parser

__all__ = ["ZOO_PARSERS"]


def _zoo_info() -> ArgumentParser:
    parser = new_parser("Say what is in a zoo: sizes, splits, facts, how it was made.")
    parser.add_argument("path", type=str, help="folder of the zoo")
    parser.add_argument(
        "--verify", action="store_true",
        help="read everything: checksums, finite weights, no image in two splits",
    )  # fmt: skip
    add_output(parser, progress=False)
    return parser


def _zoo_verify() -> ArgumentParser:
    parser = new_parser(
        "Read all of a zoo: checksums, finite weights, no group of networks in two splits, no "
        "networks twice. Everything that is wrong is named; exit code 1 if something is."
    )
    parser.add_argument("path", type=str, help="folder of the zoo")
    add_output(parser, progress=False)
    return parser


def _zoo_merge() -> ArgumentParser:
    parser = new_parser(
        "Merge zoos of the same facts into a new one. Refused if a network would be there twice, "
        "or one group of networks (all fits of an image, all checkpoints of a run) in two splits."
    )
    parser.add_argument("out", type=str, help="folder of the new zoo")
    parser.add_argument("zoos", nargs="+", type=str, help="folders of the zoos to merge")
    add_output(parser, progress=False)
    return parser


def _zoo_filter() -> ArgumentParser:
    parser = new_parser(
        "Write the networks of a zoo that meet all conditions as a new zoo; splits and facts stay. "
        "Example: nngraph zoo filter zoos/mnist zoos/good --where psnr>=30 label=3"
    )
    parser.add_argument("zoo", type=str, help="folder of the zoo")
    parser.add_argument("out", type=str, help="folder of the new zoo")
    parser.add_argument(
        "--where", nargs="+", type=str, required=True, metavar="CONDITION",
        help="fact, operator (>=, <=, !=, =, >, <) and value, in quotes for the shell: 'psnr>=30', "
        "'split=train'; beside the facts of the zoo there are architecture, its index, and "
        "parameters, how many a network has",
    )  # fmt: skip
    parser.add_argument("--shard_size", type=int, default=1024, help="networks per file")
    add_output(parser, progress=False)
    return parser


#: Action -> what makes its parser, and what it does in a few words.
ZOO_PARSERS: dict[str, tuple[Callable[[], ArgumentParser], str]] = {
    "fit": (fit_parser, "fit networks to images"),
    "info": (_zoo_info, "say what is in a zoo"),
    "verify": (_zoo_verify, "read all of a zoo and name what is wrong"),
    "merge": (_zoo_merge, "merge zoos into a new one"),
    "filter": (_zoo_filter, "keep some networks as a new zoo"),
}
