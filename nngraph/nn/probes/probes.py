"""Probe features: how the networks that are read respond to learned inputs, neuron by neuron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, Topology
from nngraph.nn.common.levels import at_outputs
from nngraph.nn.common.scales import Standardised
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.features import Architectures, Features, several
from nngraph.nn.probes.running import ChainRunner, Runner

#: Images up to this wide are made by the first map of a generator at once.
_SMALL = 4


class LearnedInputs(nn.Module):
    """P inputs, every number of them learned: ``-> [P, *shape]``.

    Coordinates ``(d_0,)`` start uniform in ``[-spread, spread]``; images ``(C, H, W)`` normal.
    """

    #: Factor of the learning rate.
    rate = 1.0

    def __init__(self, count: int, shape: tuple[int, ...], spread: float = 0.9) -> None:
        super().__init__()
        self.shape = shape
        points = torch.empty(math.prod(shape), count)
        self.points = nn.Parameter(
            points.uniform_(-spread, spread) if len(shape) == 1 else points.normal_()
        )

    def forward(self) -> Tensor:
        return self.points.T.reshape(-1, *self.shape)


class GeneratedInputs(nn.Module):
    r"""P inputs that one deep linear generator makes of P learned latents: ``-> [P, *shape]``.

    .. math:: u_p = G_k \cdots G_2 G_1 z_p

    Without activations the maps can make no more than one linear map could; what they do is to
    share and to bias: all probes lie in one space of few dimensions. For images they are transposed
    convolutions, which make neighbouring pixels alike; for coordinates they are matrices.

    Args:
        count: P.
        shape, spread: as of :class:`LearnedInputs`.
        latent: numbers that a probe is made of.
        width: channels that the last map reads; those before read twice as many, and so on.

    Source:
        Kahana et al., "Deep Linear Probe Generators for Weight Space Learning", ICLR 2025.
    """

    def __init__(
        self,
        count: int,
        shape: tuple[int, ...],
        spread: float = 0.9,
        latent: int = 32,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.latents = nn.Parameter(torch.randn(count, latent))
        image = len(shape) == 3
        self.maps = _image_maps(shape, latent, width) if image else nn.Sequential(
            _linear(latent, 4 * width), _linear(4 * width, 2 * width),
            _linear(2 * width, math.prod(shape)),
        )  # fmt: skip
        # The deviation of the uniform distribution that free coordinates start from.
        self.scale = 1.0 if image else spread / 3**0.5

    def forward(self) -> Tensor:
        made: Tensor = self.maps(self.latents)
        if len(self.shape) == 3:
            made = made[..., : self.shape[1], : self.shape[2]]
        return self.scale * made.reshape(-1, *self.shape)


def _image_maps(shape: tuple[int, ...], latent: int, width: int) -> nn.Sequential:
    """Make a small image with many channels, and double its sides until it is large enough."""
    channels, *size = shape
    doublings = max(0, math.ceil(math.log2(max(size) / _SMALL)))
    first = [math.ceil(n / 2**doublings) for n in size]
    widths = [width * 2**i for i in reversed(range(doublings))] + [channels]
    maps: list[nn.Module] = [
        _linear(latent, widths[0] * math.prod(first)),
        nn.Unflatten(1, (widths[0], *first)),
    ]
    for before, after in pairwise(widths):
        map = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        maps.append(_keeping(map, 4 * before))  # a pixel hears of 2 x 2 of the smaller image
    return nn.Sequential(*maps)


def _linear(inputs: int, outputs: int) -> nn.Module:
    return _keeping(nn.Linear(inputs, outputs), inputs)


def _keeping(map: nn.Linear | nn.ConvTranspose2d, fan_in: int) -> nn.Module:
    """Start with weights that keep the deviation of what is mapped; torch's own make it vanish."""
    nn.init.normal_(map.weight, 0, fan_in**-0.5)
    assert map.bias is not None
    nn.init.zeros_(map.bias)
    return map


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
        runner: runs the networks; by default chains of affine maps alone are run. For trained
            classifiers of a zoo take :func:`nngraph.zoo.runner_of`, for others a
            :class:`~nngraph.nn.ModuleRunner`.
        generator: whether a deep linear generator makes the inputs from latents of their own
            (:class:`~nngraph.nn.probes.probes.GeneratedInputs`); otherwise they are free.

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
        check_sizes(probes=count)
        self.runner = _chain_runner(several(architecture)) if runner is None else runner
        make = GeneratedInputs if generator else LearnedInputs
        self.inputs = make(count, self.runner.input_shape, spread)

    @torch.no_grad()
    def start_at(self, points: Tensor) -> None:
        """Let free inputs start at points ``[P, d_0]``, and move a tenth as fast as all else."""
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
