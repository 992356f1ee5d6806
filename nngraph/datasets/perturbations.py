"""Random changes of weights: noise, dropout, and rescalings that leave the function alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform

from nngraph.datasets.transforms import with_parameters
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraph, NeuralGraphStack

__all__ = ["DropWeights", "ScaleNeurons", "WeightNoise"]

_Networks = TypeVar("_Networks", NeuralGraph, NeuralGraphStack)


class WeightNoise(BaseTransform):  # type: ignore[misc]
    r"""Add Gaussian noise to every parameter: :math:`W \to W + s\,r(W)\,\epsilon`.

    :math:`r(W)` is the root mean square of the tensor in its own network, so that the noise is
    relative, and :math:`\epsilon` is drawn for every entry from torch's global generator.

    Args:
        strength: s, 0 for none.

    Raises:
        ValueError: if it is negative.
    """

    def __init__(self, strength: float = 0.05) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength is {strength!r}; expected a finite number from 0.")
        self.strength = strength

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with noise, each network by its own draw."""
        values = dict(networks.parameters())
        for parameter in networks.architecture.parameters:
            if parameter.integer:
                continue
            value = values[parameter.name]
            axes = tuple(range(-len(parameter.shape), 0))
            size = value.square().mean(dim=axes, keepdim=True).sqrt() if axes else value.abs()
            values[parameter.name] = value + self.strength * size * torch.randn_like(value)
        noisy: _Networks = with_parameters(networks, values)
        return noisy


class DropWeights(BaseTransform):  # type: ignore[misc]
    """Set weights to 0 at random; edges and biases stay, since edges come from the architecture.

    Args:
        probability: that a weight is dropped, below 1.
        rescale: whether the others are divided by ``1 - probability``, so that every neuron's
            input keeps its mean.

    Raises:
        ValueError: if the probability is not in [0, 1).
    """

    def __init__(self, probability: float = 0.1, rescale: bool = True) -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"probability is {probability!r}; expected a number in [0, 1).")
        self.probability = probability
        self.rescale = rescale

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with dropped weights, each network by its own draw."""
        values = dict(networks.parameters())
        factor = 1 / (1 - self.probability) if self.rescale else 1.0
        weights = {b.parameter.name for b in networks.architecture.blocks if not b.identity}
        for name in sorted(weights):
            kept = torch.rand_like(values[name]) >= self.probability
            values[name] = values[name] * kept * factor
        thinned: _Networks = with_parameters(networks, values)
        return thinned


def _positive(like: Tensor, spread: float) -> Tensor:
    return ((torch.rand_like(like) * 2 - 1) * math.log(spread)).exp()


def _sign(like: Tensor, spread: float) -> Tensor:
    return (torch.rand_like(like) < 0.5).to(like) * 2 - 1


#: Factors s with ``a(s u) = s a(u)`` for every u, by activation; others have none but 1.
_FACTORS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": _positive,
    "leaky_relu": _positive,
    "identity": lambda like, spread: _positive(like, spread) * _sign(like, spread),
    "tanh": _sign,
    "sine": _sign,
}


class ScaleNeurons(BaseTransform):  # type: ignore[misc]
    r"""Rescale hidden neurons at random where their activation allows it: the function stays.

    What comes into neuron i, weights and bias, is multiplied by :math:`s_i`, and what goes out of
    it is divided. :math:`s_i` is positive for ReLU and leaky ReLU, a sign for tanh and sine, both
    for a linear neuron, and 1 for activations that commute with no factor.

    Draws from torch's global generator.

    Args:
        spread: positive factors are in [1 / spread, spread], log-uniform.

    Raises:
        ValueError: if the spread is below 1.
        ArchitectureError: if a network is not a chain of affine maps.
    """

    def __init__(self, spread: float = 2.0) -> None:
        if not 1 <= spread < math.inf:
            raise ValueError(f"spread is {spread!r}; expected a finite number of at least 1.")
        self.spread = spread

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with rescaled neurons, each network by its own draw."""
        architecture = networks.architecture
        _check_chain(architecture)
        values = dict(networks.parameters())
        biases = {c.group: c.parameter.name for c in architecture.columns}
        incoming = {b.target: b.parameter.name for b in architecture.blocks}
        outgoing = {b.source: b.parameter.name for b in architecture.blocks}
        for index, group in enumerate(architecture.groups):
            draw = _FACTORS.get(group.activation.name)
            if group.role != "hidden" or draw is None:
                continue
            # One factor for each neuron of each network: [*, d].
            factor = draw(values[incoming[index]][..., 0], self.spread)
            values[incoming[index]] = values[incoming[index]] * factor.unsqueeze(-1)
            values[outgoing[index]] = values[outgoing[index]] / factor.unsqueeze(-2)
            if index in biases:
                values[biases[index]] = values[biases[index]] * factor
        scaled: _Networks = with_parameters(networks, values)
        return scaled


def _check_chain(architecture: Architecture) -> None:
    dense = all(len(block.parameter.shape) == 2 for block in architecture.blocks)
    if not architecture.is_chain or not dense or architecture.column_names != ("bias",):
        raise ArchitectureError(
            f"neurons of {architecture} cannot be rescaled: expected a chain of affine maps, with "
            "no node parameters but biases."
        )
