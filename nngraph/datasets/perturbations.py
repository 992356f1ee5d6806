"""Random changes of weights: noise, dropout, and rescalings that leave the function alone."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch_geometric.transforms import BaseTransform

from nngraph.graph import NeuralGraph, NeuralGraphStack, sample_moves

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
        return networks.with_parameters(values)


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
        return networks.with_parameters(values)


class ScaleNeurons(BaseTransform):  # type: ignore[misc]
    r"""Rescale hidden neurons at random where their activation allows it: the function stays.

    What comes into neuron i, weights and bias, is multiplied by :math:`s_i`, and what goes out of
    it is divided. :math:`s_i` is positive for positively homogeneous activations such as ReLU, a
    sign for odd ones such as tanh and sine, both for a linear neuron, and 1 for all others. Phases
    of sine neurons are stepped by half periods too.

    Draws from torch's global generator.

    Args:
        spread: positive factors are in [1 / spread, spread], log-uniform.
        max_steps: phases take so many half periods at most, either way.

    Raises:
        ValueError: if the spread is below 1, or steps are below 0.
        ArchitectureError: if a network is not a chain of affine maps.
    """

    def __init__(self, spread: float = 2.0, max_steps: int = 2) -> None:
        if not 1 <= spread < math.inf:
            raise ValueError(f"spread is {spread!r}; expected a finite number of at least 1.")
        if max_steps < 0:
            raise ValueError(f"max_steps is {max_steps!r}; expected a number from 0.")
        self.spread, self.max_steps = spread, max_steps

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with rescaled neurons, each network by its own draw."""
        values = sample_moves(
            networks.architecture, networks.parameters(), spread=self.spread,
            max_steps=self.max_steps,
        )  # fmt: skip
        return networks.with_parameters(values)
