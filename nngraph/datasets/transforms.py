"""Transforms of networks: PyG transforms that act on one graph or on a whole stack alike.

Those that are random draw from torch's global generator, as PyG's own do, for each network anew.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    Symmetry,
    canonicalise_neurons,
    chain_layers,
    sample_moves,
    sample_scales,
    scale_parameters,
)

_Networks = TypeVar("_Networks", NeuralGraph, NeuralGraphStack)
#: Parameters by name, ``[*shape]`` of a graph and ``[B, *shape]`` of a stack.
Values = dict[str, Tensor]


class ParameterTransform(BaseTransform):  # type: ignore[misc]
    """A transform that changes the parameters of networks and nothing else."""

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with changed parameters."""
        changed = self._changed(networks.architecture, dict(networks.parameters()))
        return networks.with_parameters(changed)

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        raise NotImplementedError


class Relabel(BaseTransform):  # type: ignore[misc]
    """Relabel the hidden neurons of each network at random: the function does not change."""

    def forward(self, networks: _Networks) -> _Networks:
        """Return a graph or a stack with its neurons relabelled, each network by its own draw."""
        symmetry = Symmetry(networks.architecture)
        if isinstance(networks, NeuralGraphStack):
            relabellings = symmetry.sample_stack(len(networks))
            return relabellings.act_on_stack(networks)  # type: ignore[return-value]
        return symmetry.sample().act_on_graph(networks)


class CanonicaliseSines(ParameterTransform):
    """Bring sine neurons to canonical sign and phase: the function does not change.

    See :func:`nngraph.graph.canonicalise_neurons`. Neurons of other activations stay.
    """

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        return canonicalise_neurons(architecture, values, ["phase"])


class InputMotion(ParameterTransform):
    r"""Move the image that a network of 2 coordinates represents, exactly, by its first layer.

    A network :math:`f` becomes :math:`f(R x + t)`: :math:`W_1 \to W_1 R`,
    :math:`b_1 \to b_1 + W_1 t`, for a random rotation, scaling and shear R and shift t of its own.

    Args:
        rotation: largest angle, in degrees.
        shift: largest shift along each axis, in coordinates (the image is 2 wide).
        scale: largest relative change of size along each axis, and largest shear.
        mirror: whether images are mirrored too, left to right (the first input), with chance 1/2.

    Raises:
        ArchitectureError: if a network has not two inputs, or its first layer has no bias.
    """

    def __init__(
        self, rotation: float = 15.0, shift: float = 0.12, scale: float = 0.15, mirror: bool = False
    ) -> None:
        self.rotation, self.shift, self.scale, self.mirror = rotation, shift, scale, mirror

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        if (names := moved_layer(architecture)) is None:
            raise ArchitectureError(
                f"the architecture {architecture} cannot be moved: expected a chain of two inputs, "
                "the coordinates, whose first layer has a bias."
            )
        weight, bias = (values[name] for name in names)

        def draw(size: float) -> Tensor:
            return (torch.rand(weight.shape[:-2], device=weight.device) * 2 - 1).to(weight) * size

        angle = draw(math.radians(self.rotation))
        wide, high, shear = 1 + draw(self.scale), 1 + draw(self.scale), draw(self.scale)
        rows = [angle.cos() * wide, shear - angle.sin(), angle.sin(), angle.cos() * high]
        motion = torch.stack(rows, dim=-1).reshape(*angle.shape, 2, 2)
        if self.mirror:
            side = draw(1.0).sign()
            motion = motion * torch.stack([side, torch.ones_like(side)], dim=-1).unsqueeze(-1)
        shift = torch.stack([draw(self.shift), draw(self.shift)], dim=-1)
        changed = weight @ motion, bias + (weight @ shift.unsqueeze(-1)).squeeze(-1)
        return values | dict(zip(names, changed, strict=True))


class WeightNoise(ParameterTransform):
    r"""Add Gaussian noise to every parameter: :math:`W \to W + s\,r(W)\,\epsilon`.

    :math:`r(W)` is the root mean square of the tensor in its own network, so that the noise is
    relative, and :math:`\epsilon` is drawn for every entry.

    Args:
        strength: s, 0 for none.

    Raises:
        ValueError: if it is negative.
    """

    def __init__(self, strength: float = 0.05) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength is {strength!r}; expected a finite number from 0.")
        self.strength = strength

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        for parameter in architecture.parameters:
            if parameter.integer:
                continue
            value = values[parameter.name]
            axes = tuple(range(-len(parameter.shape), 0))
            size = value.square().mean(dim=axes, keepdim=True).sqrt() if axes else value.abs()
            values[parameter.name] = value + self.strength * size * torch.randn_like(value)
        return values


class DropWeights(ParameterTransform):
    """Set weights to 0 at random; edges and biases stay, since edges come from the architecture.

    Args:
        probability: that a weight is dropped, below 1.
        rescale: whether others are divided by ``1 - probability``: inputs keep their means.

    Raises:
        ValueError: if the probability is not in [0, 1).
    """

    def __init__(self, probability: float = 0.1, rescale: bool = True) -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"probability is {probability!r}; expected a number in [0, 1).")
        self.probability = probability
        self.rescale = rescale

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        factor = 1 / (1 - self.probability) if self.rescale else 1.0
        for name in sorted({b.parameter.name for b in architecture.blocks if not b.identity}):
            kept = torch.rand_like(values[name]) >= self.probability
            values[name] = values[name] * kept * factor
        return values


class ScaleNeurons(ParameterTransform):
    r"""Rescale hidden neurons at random where that is known to be allowed: the function stays.

    What comes into neuron i, weights and bias, is multiplied by :math:`s_i`, and what goes out of
    it is divided. :math:`s_i` is positive for positively homogeneous activations such as ReLU, a
    sign for odd ones such as tanh and sine, both for a linear neuron, and 1 for all others. Phases
    of sine neurons are stepped by half periods too. So it is for chains; for networks of any other
    architecture the scales and signs are those that it states, as ``converters.to_graph`` derives
    them.

    Args:
        spread: positive factors are in [1 / spread, spread], log-uniform.
        max_steps: phases take so many half periods at most, either way.

    Raises:
        ValueError: if the spread is below 1, or steps are below 0.
        ArchitectureError: if an architecture states none, and is not a chain of affine maps.
    """

    def __init__(self, spread: float = 2.0, max_steps: int = 2) -> None:
        if not 1 <= spread < math.inf:
            raise ValueError(f"spread is {spread!r}; expected a finite number of at least 1.")
        if max_steps < 0:
            raise ValueError(f"max_steps is {max_steps!r}; expected a number from 0.")
        self.spread, self.max_steps = spread, max_steps

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        if not architecture.scales:
            return sample_moves(architecture, values, spread=self.spread, max_steps=self.max_steps)
        first = architecture.parameters[0]
        lead = values[first.name].shape[: -len(first.shape) or None]
        drawn = sample_scales(architecture, lead, self.spread)
        return scale_parameters(architecture, values, drawn)


def moved_layer(architecture: Architecture) -> tuple[str, str] | None:
    """Names of the weight and the bias that :class:`InputMotion` changes, of a chain of two inputs.

    ``None`` for networks of other kinds, or without that bias.
    """
    if not architecture.is_chain or architecture.widths[0] != 2:
        return None
    first = chain_layers(architecture)[0]
    return None if first.bias is None else (first.weight, first.bias)
