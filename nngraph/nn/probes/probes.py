"""Probe features: how the networks that are read respond to learned inputs, neuron by neuron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, Topology
from nngraph.nn.common.levels import at_outputs
from nngraph.nn.common.scales import Standardised
from nngraph.nn.features import Architectures, Features, several
from nngraph.nn.probes.inputs import GeneratedInputs, LearnedInputs
from nngraph.nn.probes.running import ChainRunner, Runner


class Probes(nn.Module):
    r"""Run the networks at P learned inputs: the response of every neuron to each of them.

    .. math:: r_i(p) = h_i(u_p)

    with h_i the activation of neuron i, or its mean over all places where the neuron has many, as a
    channel of a convolution has.

    Args:
        architecture: of the networks to run, one or several.
        count: P.
        spread: probes of chains start uniform in ``[-spread, spread]^{d_0}``, where coordinates
            are; images start normal, as standardised pixels are.
        runner: runs the networks; by default chains of affine maps alone are run. For networks
            of a zoo of trained classifiers take :func:`nngraph.zoo.runner_of`, for others a
            :class:`~nngraph.nn.ModuleRunner`.
        generator: whether a deep linear generator makes the inputs from latents of their own
            (:class:`~nngraph.nn.probes.inputs.GeneratedInputs`); otherwise they are free.

    Shape:
        features of any batch -> per level the responses ``[*, n_l, P]`` of its neurons.

    Raises:
        ArchitectureError: if there is no runner and an architecture is no chain.
    """

    def __init__(
        self,
        architecture: Architectures,
        count: int,
        spread: float = 0.9,
        runner: Runner | None = None,
        generator: bool = False,
    ) -> None:
        super().__init__()
        self.runner = _chain_runner(several(architecture)) if runner is None else runner
        make = GeneratedInputs if generator else LearnedInputs
        self.inputs = make(count, self.runner.input_shape, spread)

    @torch.no_grad()
    def start_at(self, points: Tensor) -> None:
        """Let free inputs start at points ``[P, d_0]``, and move a tenth as fast as all else.

        Raises:
            ValueError: if a generator makes them.
        """
        if not isinstance(self.inputs, LearnedInputs):
            raise ValueError("inputs that a generator makes can be started nowhere else.")
        self.inputs.points.copy_(points.T)
        self.inputs.rate = 0.1

    def forward(self, features: Features) -> list[Tensor]:
        return self.runner.responses(features, self.inputs())

    def outputs(self, features: Features, size: int) -> Tensor:
        """Return the responses of the output neurons alone, ``[networks, size * P]``."""
        return self.runner.outputs(features, self.inputs(), size)

    @staticmethod
    def at_outputs(topology: Topology, responses: list[Tensor], size: int) -> Tensor:
        """Return the responses of the output neurons, ``[networks, size * P]``."""
        return at_outputs(topology, [(i, responses[i]) for i in topology.output_levels], size)


class StandardAnswers(Probes, Standardised):
    r"""The answers of networks at probes, in units of their spread over a training set.

    .. math:: (f_\theta(u_p) - \mu) / \sigma

    with mean and deviation of all answers at the first probes together.

    Args:
        probes, options: of the :class:`Probes`.
        size: outputs of a network at most.

    Shape:
        :meth:`answers`: features of any batch -> ``[networks, size * P]``.
    """

    at_once = 128

    def __init__(self, *probes: Any, size: int, **options: Any) -> None:
        super().__init__(*probes, **options)
        self.size = size
        self.start_units()

    def numbers(self, features: Features) -> Tensor:
        return self.outputs(features, self.size)

    def moments(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return numbers.mean(), numbers.std(correction=0)

    def answers(self, features: Features) -> Tensor:
        """Return the answers in these units, output by output."""
        return self.standard(self.numbers(features))


def _chain_runner(architectures: Sequence[Architecture]) -> Runner:
    if other := [a for a in architectures if not a.is_chain]:
        raise ArchitectureError(
            f"probes run the networks, and how those of the architecture {other[0]} run is not "
            "known: it is not a chain; expected an MLP, or a runner that has their modules: "
            "runner=nngraph.zoo.runner_of(zoo), or a ModuleRunner."
        )
    return ChainRunner(max(architecture.widths[0] for architecture in architectures))
