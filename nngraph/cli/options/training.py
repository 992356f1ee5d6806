"""Options of the commands of training, and of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from nngraph.cli.options.deriving import Argument
from nngraph.cli.options.shared import ProgressOption, Reports, Threads
from nngraph.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Demo(Threads, ProgressOption, Reports):
    """Fit small networks to digits, train metanetworks to name the digit from the weights.

    The networks are fitted to the 1,797 digits of scikit-learn and turned into graphs, which are
    checked to run as the networks do; metanetworks and baselines are trained, the neurons of every
    test network relabelled, and all of it drawn. Takes some minutes on two cores; run again after
    an interruption it goes on where it was. Exit code 1 if a graph does not run as its network, or
    an invariant model changes an answer.

    Args:
        out: folder for networks, runs, report and figure (default: out/demo, with --quick
            out/demo-quick)
        seed: seed of everything random
        quick: a few images and steps, some seconds: shows that everything runs, not what it learns
    """

    out: str | None = None
    seed: int = 0
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Train(TrainSettings, Threads, ProgressOption, Reports):
    """Train a metanetwork on the networks of a zoo.

    'classify' tells their classes, 'predict' any fact that the zoo knows (--task_options.fact
    optimiser; default its target, such as the test accuracy), 'edit' changes what networks of
    images draw (--task_options.edit erode --task_options.readout '{rank: 8}'; default dilate),
    'contrast' learns embeddings without labels, 'match' states by which 'nngraph match --method
    embeddings' finds neurons again in other networks. 'nngraph models' tells the models; results
    of one access only, what models may use, are compared. An interrupted run goes on when the same
    command is given again; under torchrun the processes train one model. Example: nngraph train
    predict --model message-passing --zoo zoos/cnns --task_options.fact test_accuracy --run
    runs/first

    Args:
        task: what to train for
        run: folder of the run: settings, metrics, model, report (default: runs/ZOO-TASK-MODEL)
        curves: draw the learning curves to curves.png at the end
        tensorboard: write the metrics for TensorBoard besides
        return_memory: return what a step frees to the system, in place of keeping it for the next
            one, which is faster (with the GNU C library; with others nothing changes)
    """

    task: Argument[str] = field()
    run: str | None = None
    curves: bool = False
    tensorboard: bool = False
    return_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Eval(Threads, Reports):
    """Judge a trained metanetwork, with its best parameters, on networks of a zoo.

    Args:
        run: folder of the run
        zoo: folder of the zoo (default: the one of the run)
        split: which networks of the zoo
        relabel: relabel the neurons of every network first, and say how many answers stay; exit
            code 1 if one of a model that knows the symmetry does not
        seed: seed of the relabelling
        batch_size: networks at once
    """

    run: Argument[str]
    zoo: str | None = None
    split: Literal["train", "val", "test", "all"] = "test"
    relabel: bool = False
    seed: int = 0
    batch_size: int = 512


@dataclass(frozen=True, kw_only=True)
class Models(Threads, Reports):
    """Tell the metanetworks that there are.

    What each is, what it respects of what leaves the function of a network unchanged, what it
    reads, its access (only models that may use the same are compared), and, with its default
    options, its parameters and the CPU time of a training step on 64 networks 2-32-32-1 (or
    --widths) with sine neurons, measured now.

    Args:
        widths: layer sizes of the example, inputs first
        batch_size: networks of the step
        threads: threads to compute on (default: 1, of which the times are)
    """

    widths: list[int] = field(default_factory=lambda: [2, 32, 32, 1])
    batch_size: int = 64
    most_threads: ClassVar[int | None] = 1


@dataclass(frozen=True, kw_only=True)
class Compare(Reports):
    """Compare finished runs: a table for each task, zoo and column.

    Columns (generic weights-only, activation-structured weights-only, with probes) are never mixed;
    mean and standard deviation are over the seeds of runs that differ in nothing else. Example:
    nngraph compare runs/* --figure curves.png

    Args:
        runs: folders of runs, or folders that hold such
        figure: draw the learning curves to a .png, .pdf or .svg file
    """

    runs: Argument[list[str]]
    figure: Annotated[str | None, "FILE"] = None
