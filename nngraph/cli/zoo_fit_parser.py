"""What the command ``nngraph zoo fit`` understands."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser

from nngraph.cli.parser_parts import add_output, add_threads, new_parser

__all__ = ["fit_parser"]


def fit_parser() -> ArgumentParser:
    """Return what understands ``nngraph zoo fit``."""
    parser = new_parser(
        "Fit a network of pixel coordinates to each view of each image and store them as a zoo: "
        "SIRENs, or ReLU networks on Fourier features. An interrupted fit goes on when the same "
        "command is given again; under torchrun the processes share the work. Example: nngraph "
        "zoo fit --data mnist DIR --count 10000"
    )
    parser.add_argument(
        "out", nargs="?", type=str, default=None,
        help="folder of the zoo, made if it is not there; give it before --data (default: "
        "zoos/NAME)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", type=str, default=["digits"], metavar=("NAME", "DIR"),
        help="the images: 'digits' (part of scikit-learn), 'mnist DIR', 'fashion-mnist DIR', or "
        "another name with a folder of such IDX files, gzipped or not, or 'png DIR': PNG images "
        "in folders named like their classes, or with a table labels.csv (file,label)",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=Literal["train", "test"], default="train",
        help="which files of an IDX folder: train-... or t10k-...",
    )  # fmt: skip
    parser.add_argument("--count", type=int, help="the first so many images (default: all)")
    parser.add_argument("--views", type=int, default=1, help="fits of each image")
    parser.add_argument(
        "--augment", nargs=3, type=float, default=None, metavar=("DEGREES", "SHIFT", "SCALE"),
        help="move the image of every view after the first at random by at most so much: rotation, "
        "shift (the image is 2 wide), relative size and shear; 15 0.12 0.15 is a mild choice",
    )  # fmt: skip
    parser.add_argument(
        "--widths", nargs="+", type=int,
        help="layer sizes from the 2 coordinates to the channels (default: 2 32 32 and the "
        "channels of the images)",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=int, default=0,
        help="ReLU networks on so many Fourier features, which are the first layer, in place of "
        "SIRENs",
    )
    parser.add_argument(
        "--feature_scale", type=float,
        help="of the Fourier features, in periods over the image (default: 2 for images up to 16 "
        "pixels wide, else 4)",
    )  # fmt: skip
    parser.add_argument(
        "--architectures", type=int, default=1,
        help="draw so many architectures from --depth and --width at random, and give each network "
        "one of them",
    )
    parser.add_argument(
        "--depth", nargs=2, type=int, default=[1, 3], help="fewest and most hidden layers"
    )
    parser.add_argument(
        "--width", nargs=2, type=int, default=[8, 48], help="smallest and largest hidden layer"
    )
    parser.add_argument(
        "--w0", type=float,
        help="frequency of the sines (default: 10 for images up to 16 pixels wide, else 30)",
    )
    parser.add_argument(
        "--steps", type=int,
        help="most optimiser steps (default: 150 for images up to 16 pixels wide, else 300)",
    )
    parser.add_argument(
        "--psnr", type=float, help="a network is done as soon as it has reached so many dB"
    )
    parser.add_argument(
        "--init", type=Literal["independent", "shared"], default="independent",
        help="whether each network has first weights of its own, or all the same",
    )  # fmt: skip
    parser.add_argument(
        "--lr", type=float,
        help="learning rate at the start (default: 0.001; of ReLU networks 0.02, or 0.01 for "
        "images up to 16 pixels wide)",
    )  # fmt: skip
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
    parser.add_argument("--device", type=str, default="cpu", help="what the networks are fitted on")
    add_threads(parser, "all cores there are; the result does not depend on it")
    add_output(parser)
    return parser
