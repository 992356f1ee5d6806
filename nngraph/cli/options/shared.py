"""Options that several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from nngraph.cli.options.deriving import Each


@dataclass(frozen=True, kw_only=True)
class Reports:
    """A command that tells a result.

    Args:
        json: write one JSON document to stdout and nothing else
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ProgressOption:
    """A command that shows how far it is.

    Args:
        quiet: no progress bars on stderr
    """

    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Threads:
    """A command that computes.

    Args:
        threads: threads to compute on (default: cores there are, at most 4)
    """

    threads: int | None = None
    #: More than these do not help.
    most_threads: ClassVar[int | None] = 4


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What a state dict does not say of hidden layers.

    Args:
        activation: of the hidden layers, which a state dict does not say: one name, or one per
            hidden layer: relu, leaky_relu, elu, gelu, gelu_tanh, silu, sigmoid, softplus, tanh,
            sine, identity, or another of nngraph.graph.ACTIVATIONS (default: relu)
        w0: frequency of sine layers; needed for these
    """

    activation: list[str] | None = None
    w0: float | None = None


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A network that can be run.

    Args:
        inputs: an example input of a network that can be run, such as 1x3x224x224, 1x16:int64, or
            1x16:int64:50257 for whole numbers below that; once for each input (of an .onnx file the
            shapes that it declares are the default)
        output: a value of an .onnx file that the network returns, in place of all its outputs; once
            for each
        verify: prove the symmetry on the network itself, in float64; exit code 1 if it fails
        strict: refuse operations that have no rule, which otherwise fix what they touch
    """

    inputs: Annotated[Each[str], "SHAPE[:DTYPE[:BELOW]]"] = None
    output: Annotated[Each[str], "NAME"] = None
    verify: bool = False
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class Runnable(Traced):
    """A network that can be run, or a checkpoint of any architecture.

    Args:
        architecture: of the network whose weights the file holds: what inspect or convert wrote
            with --json; every parameter is checked by name and shape
    """

    architecture: Annotated[str | None, "FILE.json"] = None


@dataclass(frozen=True, kw_only=True)
class Specified:
    """Checkpoints of any architecture, and what each axis of their tensors counts.

    Args:
        module: the network that the weights are of: package.module:factory, a module or a function
            without arguments that returns one, of which the spec is derived (this imports and runs
            that code); without it and --spec the files are of MLPs
        inputs: an example input of the module, such as 1x3x224x224, 1x16:int64, or 1x16:int64:50257
            for whole numbers below that; once for each input
        spec: spec of the networks, as nngraph spec wrote it, in place of the module
        prefix: what stands before the names in the files, where several prefixes fit
    """

    module: Annotated[str | None, "PACKAGE.MODULE:FACTORY"] = None
    inputs: Annotated[Each[str], "SHAPE[:DTYPE[:BELOW]]"] = None
    spec: Annotated[str | None, "FILE.json"] = None
    prefix: str | None = None
