"""What the command line understands of training: its commands, their options and meaning."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser

from nngraph.cli.parser_parts import add_output, add_threads, new_parser

__all__ = ["compare_parser", "eval_parser", "models_parser", "train_parser"]


def train_parser(with_settings: bool) -> ArgumentParser:
    """Return the parser of ``train``.

    Args:
        with_settings: whether the settings are read off the library, which imports torch.
    """
    parser = new_parser(
        "Train a metanetwork on the networks of a zoo: 'classify' tells their classes, 'predict' "
        "any fact that the zoo knows (--task_options.fact optimiser; default its target, such as "
        "the test accuracy), 'edit' changes what networks of images draw (--task_options.edit "
        "erode --task_options.readout '{rank: 8}'; default dilate), 'contrast' learns embeddings "
        "without labels, 'match' states by which 'nngraph match --method embeddings' finds neurons "
        "again in other networks. 'nngraph models' tells the models; results are compared within a "
        "column only. An interrupted run goes on when the same command is given again; under "
        "torchrun the processes train one model. Example: nngraph train predict --model "
        "message-passing --zoo zoos/cnns --task_options.fact test_accuracy --run runs/first"
    )
    parser.add_argument("task", type=str, help=_tasks() if with_settings else "what to train for")
    parser.add_argument(
        "--run", type=str, default=None,
        help="folder of the run: settings, metrics, model, report (default: runs/ZOO-TASK-MODEL)",
    )  # fmt: skip
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file of the options below, as --print_config writes it; later options win",
    )
    if with_settings:
        from nngraph.tasks import TrainSettings

        parser.add_class_arguments(TrainSettings, skip={"task"})
    parser.add_argument(
        "--curves", action="store_true", help="draw the learning curves to curves.png at the end"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write the metrics for TensorBoard besides"
    )
    add_threads(parser)
    add_output(parser)
    return parser


def _tasks() -> str:
    """Return the tasks and what each asks, in its own words."""
    from nngraph.tasks import TASKS

    lines = [f"{name}: {(task.__doc__ or '').splitlines()[0]}" for name, task in TASKS.items()]
    return " ".join(lines)


def eval_parser() -> ArgumentParser:
    """Return the parser of ``eval``."""
    parser = new_parser(
        "Judge a trained metanetwork, with its best parameters, on networks of a zoo."
    )
    parser.add_argument("run", type=str, help="folder of the run")
    parser.add_argument(
        "--zoo", type=str, default=None, help="folder of the zoo (default: the one of the run)"
    )
    parser.add_argument(
        "--split", type=Literal["train", "val", "test", "all"], default="test",
        help="which networks of the zoo",
    )  # fmt: skip
    parser.add_argument(
        "--relabel", action="store_true",
        help="relabel the neurons of every network first, and say how many answers stay; exit "
        "code 1 if one of a model that knows the symmetry does not",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the relabelling")
    parser.add_argument("--batch_size", type=int, default=512, help="networks at once")
    add_threads(parser)
    add_output(parser, progress=False)
    return parser


def models_parser() -> ArgumentParser:
    """Return the parser of ``models``."""
    parser = new_parser(
        "Tell the metanetworks that there are: what each is, what it respects of what leaves the "
        "function of a network unchanged, what it reads, the column of comparisons that it stands "
        "in, and, with its default options, its parameters and the CPU time of a training step on "
        "64 networks 2-32-32-1 (or --widths) with sine neurons, measured now."
    )
    parser.add_argument(
        "--widths", nargs="+", type=int, default=[2, 32, 32, 1],
        help="layer sizes of the example, inputs first",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=64, help="networks of the step")
    add_threads(parser, "1")
    add_output(parser, progress=False)
    return parser


def compare_parser() -> ArgumentParser:
    """Return the parser of ``compare``."""
    parser = new_parser(
        "Compare finished runs: a table for each task, zoo and column (generic weights-only, "
        "activation-structured weights-only, with probes), which are never mixed; mean and "
        "standard deviation over the seeds of runs that differ in nothing else. "
        "Example: nngraph compare runs/* --figure curves.png"
    )
    parser.add_argument(
        "runs", nargs="+", type=str, help="folders of runs, or folders that hold such"
    )
    parser.add_argument(
        "--figure", type=str, default=None, metavar="FILE",
        help="draw the learning curves to a .png, .pdf or .svg file",
    )  # fmt: skip
    add_output(parser, progress=False)
    return parser
