"""What ``nngraph match`` understands."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser

from nngraph.cli.parser_parts import add_activation, add_output, add_threads, new_parser

__all__ = ["match_parser"]


def match_parser() -> ArgumentParser:
    """Return the parser of ``match``."""
    parser = new_parser(
        "Find the relabelling of the neurons of a second network that brings it closest to a "
        "first: how far apart the two are before and after, and, with --data, the barrier of the "
        "loss on the straight path between them. Of any architecture; runs on data, signs and "
        "canonical forms are for MLPs. "
        "Example: nngraph match one.pt other.pt --data test.safetensors --out aligned.safetensors"
    )
    parser.add_argument("first", type=str, help="graph file or state dict; stays as it is")
    parser.add_argument("second", type=str, help="graph file or state dict; is relabelled")
    parser.add_argument(
        "--method", type=Literal["weights", "activations", "sinkhorn", "embeddings"],
        default="weights",
        help="weights: by assignment, space after space; activations: correlations on the inputs "
        "of --data; sinkhorn: descent on soft permutations, on the loss midway with --data; "
        "embeddings: states that the model of --run gives the neurons",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=str, default=None, metavar="FILE",
        help="write the second network, relabelled, to a graph file ending in .safetensors",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=str, default=None, metavar="FILE",
        help="safetensors file with inputs [P, d] and answers: classes [P] (whole numbers), or "
        "numbers [P, outputs]",
    )  # fmt: skip
    parser.add_argument(
        "--run", type=str, default=None, metavar="FOLDER", help="trained model, for embeddings"
    )
    parser.add_argument(
        "--signs", action="store_true",
        help="match neurons of odd activations, such as tanh and sine, up to their sign (weights, "
        "activations)",
    )  # fmt: skip
    parser.add_argument(
        "--canonicalise", action="store_true",
        help="bring both networks to canonical scales (ReLU), phases (sine) and signs (tanh) first",
    )  # fmt: skip
    parser.add_argument(
        "--starts", type=int, default=3, help="starts of the descent on weights; the best is kept"
    )
    parser.add_argument("--steps", type=int, default=200, help="steps of the descent of sinkhorn")
    parser.add_argument(
        "--architecture", type=str, default=None, metavar="FILE.json",
        help="of the networks whose weights the files hold: what inspect or convert wrote with "
        "--json",
    )  # fmt: skip
    add_activation(parser)
    parser.add_argument(
        "--figure", type=str, default=None, metavar="FILE",
        help="draw the matching, and the path with --data, to a .png, .pdf or .svg file",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the random starts")
    add_threads(parser)
    add_output(parser, progress=False)
    return parser
