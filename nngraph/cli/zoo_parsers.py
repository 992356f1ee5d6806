"""What the commands ``nngraph zoo ...`` understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jsonargparse import ArgumentParser

from nngraph.cli.parser_parts import add_output, add_threads, new_parser

__all__ = ["ZOO_PARSERS"]


def _zoo_fit() -> ArgumentParser:
    parser = new_parser(
        "Fit a network of pixel coordinates (a SIREN) to each image, each from its own random "
        "start, and store them as a zoo. An interrupted fit goes on when the same command is "
        "given again. Example: nngraph zoo fit --data mnist DIR --count 10000"
    )
    parser.add_argument(
        "out", nargs="?", type=str, default=None,
        help="folder of the zoo, made if it is not there; give it before --data (default: "
        "zoos/NAME)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", type=str, default=["digits"], metavar=("NAME", "DIR"),
        help="the images: 'digits' (part of scikit-learn), or 'mnist DIR', 'fashion-mnist DIR', or "
        "another name with a folder of such IDX files, gzipped or not",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=Literal["train", "test"], default="train",
        help="which files of an IDX folder: train-... or t10k-...",
    )  # fmt: skip
    parser.add_argument("--count", type=int, help="the first so many images (default: all)")
    parser.add_argument("--views", type=int, default=1, help="independent fits of each image")
    parser.add_argument(
        "--widths", nargs="+", type=int,
        help="layer sizes from the 2 coordinates to the channels (default: 2 32 32 and the "
        "channels of the images)",
    )  # fmt: skip
    parser.add_argument(
        "--w0", type=float,
        help="frequency of the sines (default: 10 for images up to 16 pixels wide, else 30)",
    )
    parser.add_argument(
        "--steps", type=int,
        help="optimiser steps (default: 150 for images up to 16 pixels wide, else 300)",
    )
    parser.add_argument("--lr", type=float, help="learning rate at the start (default: 0.001)")
    parser.add_argument(
        "--pixels", type=int,
        help="pixels per step, 0 for all of the image (default: 0 for images up to 16 pixels "
        "wide, else 196)",
    )  # fmt: skip
    parser.add_argument(
        "--splits", nargs=3, type=float, default=[0.8, 0.1, 0.1],
        help="fractions of training, validation and test images; all fits of an image are in one",
    )  # fmt: skip
    parser.add_argument("--shard_size", type=int, default=1024, help="networks per file")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of first weights, order of pixels and splits"
    )
    add_threads(parser, "all cores there are; the result does not depend on it")
    add_output(parser)
    return parser


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
    "fit": (_zoo_fit, "fit networks to images"),
    "info": (_zoo_info, "say what is in a zoo"),
    "verify": (_zoo_verify, "read all of a zoo and name what is wrong"),
    "merge": (_zoo_merge, "merge zoos into a new one"),
    "filter": (_zoo_filter, "keep some networks as a new zoo"),
}
