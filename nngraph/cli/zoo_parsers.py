"""What the commands ``nngraph zoo ...`` understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jsonargparse import ArgumentParser

from nngraph.cli.parser_parts import add_activation, add_output, add_threads, new_parser
from nngraph.cli.zoo_fit_parser import fit_parser

__all__ = ["ZOO_PARSERS"]


def _zoo_train() -> ArgumentParser:
    parser = new_parser(
        "Train a population of small image classifiers and store states along every run as a zoo, "
        "with accuracies, losses and hyper-parameters. Recipes: 'small-cnn', one CNN with varied "
        "hyper-parameters; 'small-mlp', the same with an MLP; 'wild', varied MLPs and CNNs. An "
        "interrupted command goes on when it is given again; under torchrun the processes share "
        "the work. Example: nngraph zoo train --recipe wild --data mnist DIR --count 2000"
    )
    parser.add_argument(
        "out", nargs="?", type=str, default=None,
        help="folder of the zoo, made if it is not there; give it before --data (default: "
        "zoos/RECIPE-NAME)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", type=Literal["small-cnn", "small-mlp", "wild"], default="small-cnn",
        help="what is varied",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", type=str, default=["digits"], metavar=("NAME", "DIR"),
        help="the images, as of zoo fit; a fifth of the digits, or of a folder of PNG images, is "
        "for testing",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=1000, help="runs")
    parser.add_argument(
        "--steps", nargs=2, type=int, default=None,
        help="fewest and most optimiser steps of a run (default: 200 800)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoints", type=int, default=None, help="states kept of each run (default: 5)"
    )
    parser.add_argument(
        "--max_test", type=int, default=2000, help="the first so many test images are judged on"
    )
    parser.add_argument(
        "--splits", nargs=3, type=float, default=[0.8, 0.1, 0.1],
        help="fractions of training, validation and test runs; all states of a run are in one",
    )  # fmt: skip
    parser.add_argument("--shard_runs", type=int, default=64, help="runs per file")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
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


def _zoo_export() -> ArgumentParser:
    parser = new_parser(
        "Write a zoo in the file format of the Open Graph Benchmark, which OGB's own reader reads. "
        "Example: nngraph zoo export zoos/mnist mnist-inrs"
    )
    parser.add_argument("zoo", type=str, help="folder of the zoo")
    parser.add_argument("out", type=str, help="folder to make; its name is the data set's")
    parser.add_argument("--format", type=Literal["ogb"], default="ogb", help="file format")
    parser.add_argument(
        "--target", type=str, help="fact that is to be predicted (default: that of the zoo)"
    )
    parser.add_argument(
        "--metric", type=str,
        help="acc, kendall, r2 or mse (default: acc for classes, kendall for numbers)",
    )  # fmt: skip
    add_output(parser, progress=False)
    return parser


def _zoo_import() -> ArgumentParser:
    parser = new_parser(
        "Make a zoo of networks in other files: a folder of state dicts (.pth, .pt, .ckpt, .bin, "
        ".safetensors), one such file of stacked parameters, or an .npz archive. No code in them "
        "is run. Example: nngraph zoo import mnist-inrs zoos/dws --label 'training_(\\d)_' "
        "--activation sine --w0 30"
    )
    parser.add_argument("source", type=str, help="the folder or file")
    parser.add_argument("out", type=str, help="folder of the zoo")
    parser.add_argument(
        "--label", type=str,
        help="regular expression whose first group, in the path of a file within the folder, is "
        "the network's class",
    )  # fmt: skip
    parser.add_argument(
        "--group", type=str,
        help="regular expression whose first group is what keeps networks in one split (default: "
        "each network by itself)",
    )  # fmt: skip
    parser.add_argument(
        "--labels_key", type=str, default="labels",
        help="name of the labels in a file of stacked parameters, if it has them",
    )  # fmt: skip
    add_activation(parser)
    parser.add_argument(
        "--splits", nargs=3, type=float, default=[0.8, 0.1, 0.1],
        help="fractions of training, validation and test groups",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits")
    parser.add_argument("--shard_size", type=int, default=1024, help="networks per file")
    parser.add_argument(
        "--dtype", type=str,
        help="float16, bfloat16, float32 or float64 (default: what holds all networks exactly)",
    )  # fmt: skip
    add_output(parser, progress=False)
    return parser


def _zoo_show() -> ArgumentParser:
    parser = new_parser(
        "Draw a zoo: the images that its networks represent, and histograms of its weights, as PNG."
    )
    parser.add_argument("path", type=str, help="folder of the zoo")
    parser.add_argument(
        "--out", type=str, default=None,
        help="folder for contact-sheet.png and weights.png (default: here)",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=64, help="networks on the contact sheet")
    parser.add_argument(
        "--where", nargs="+", type=str, default=[], metavar="CONDITION",
        help="draw networks that meet conditions, as of zoo filter",
    )  # fmt: skip
    parser.add_argument(
        "--architecture", type=int, default=0, help="index of the architecture of the histograms"
    )
    add_output(parser, progress=False)
    return parser


#: Action -> what makes its parser, and what it does in a few words.
ZOO_PARSERS: dict[str, tuple[Callable[[], ArgumentParser], str]] = {
    "fit": (fit_parser, "fit networks to images"),
    "train": (_zoo_train, "train classifiers of images"),
    "info": (_zoo_info, "say what is in a zoo"),
    "verify": (_zoo_verify, "read all of a zoo and name what is wrong"),
    "merge": (_zoo_merge, "merge zoos into a new one"),
    "filter": (_zoo_filter, "keep some networks as a new zoo"),
    "export": (_zoo_export, "write a zoo for OGB's reader"),
    "import": (_zoo_import, "make a zoo of networks in other files"),
    "show": (_zoo_show, "draw images and weights of a zoo"),
}
