r"""How the hidden neurons of a chain can be moved besides being relabelled, its function kept.

A neuron i with incoming weights and bias :math:`(w_i, b_i)`, outgoing weights :math:`v_i` and an
activation a lets them be

- scaled, :math:`(q w_i, q b_i, v_i / q)`, where :math:`a(q u) = q a(u)`;
- stepped, :math:`(w_i, b_i + k \pi / w_0, (-1)^k v_i)` for whole k, where a is a sine,

each neuron on its own. Which factors q there are, and whether there are steps, is what
:attr:`nngraph.graph.Activation.symmetry` says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from nngraph.graph.activations import NeuronSymmetry
from nngraph.graph.architecture import Architecture
from nngraph.graph.chain import ChainLayer, chain_layers

#: Symmetries with positive scales, and those with signs.
SCALED: frozenset[NeuronSymmetry] = frozenset({"positive_scale", "any_scale"})
SIGNED: frozenset[NeuronSymmetry] = frozenset({"sign", "any_scale", "phase"})


@dataclass(frozen=True)
class HiddenNeurons(ChainLayer):
    """A layer of hidden neurons: their group, and the weight by which they lead on."""

    group: int
    outgoing: str

    @property
    def symmetry(self) -> NeuronSymmetry:
        """That of its neurons."""
        return self.activation.symmetry


def hidden_layers(
    architecture: Architecture, symmetries: Collection[NeuronSymmetry] | None = None
) -> list[HiddenNeurons]:
    """Return the hidden layers of a chain, inputs first; ``symmetries`` takes some alone."""
    layers = chain_layers(
        architecture, "Its neurons cannot be rescaled: it states no scales, and signs, scales and "
        "phases follow from activations for chains alone. Relabel them, or match them up to "
        "relabelling; an architecture from converters.to_graph states what is derived.",
    )  # fmt: skip
    return [
        HiddenNeurons(layer.weight, layer.bias, layer.activation, group, after.weight)
        for group, (layer, after) in enumerate(pairwise(layers), start=1)
        if architecture.groups[group].role == "hidden"
        and (symmetries is None or layer.activation.symmetry in symmetries)
    ]


def move_neurons(
    values: dict[str, Tensor], layer: HiddenNeurons, factor: Tensor, steps: Tensor | None = None
) -> None:
    """Scale the neurons of one layer and step their phases, ``[*, d]`` each, in ``values``.

    Neurons without a bias take no steps.
    """
    values[layer.weight] = values[layer.weight] * factor.unsqueeze(-1)
    if layer.bias is not None:
        values[layer.bias] = values[layer.bias] * factor
        if steps is not None:
            step = steps * (math.pi / layer.activation["w0"])
            values[layer.bias] = values[layer.bias] + step
            factor = factor * (1 - 2 * torch.remainder(steps, 2))
    values[layer.outgoing] = values[layer.outgoing] / factor.unsqueeze(-2)


def sample_moves(
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    *,
    spread: float = 2.0,
    max_steps: int = 2,
    symmetries: Collection[NeuronSymmetry] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Move every hidden neuron at random by all that its activation allows.

    Args:
        architecture: a chain of affine maps.
        parameters: by name, ``[*, *shape]``; each network is moved by its own draw.
        spread: positive factors are in [1 / spread, spread], log-uniform.
        max_steps: phases take so many half periods at most, either way.
        symmetries: those of neurons that are moved; default all.
        generator: source of randomness; default torch's global one.

    Raises:
        ArchitectureError: if the architecture is no chain of affine maps.
    """
    values = dict(parameters)
    for layer in hidden_layers(architecture, symmetries):
        like = values[layer.weight][..., 0]
        # Of each neuron of each network: how large, which sign, how many steps.
        size, sign, step = torch.rand(3, *like.shape, generator=generator, dtype=torch.float64)
        factor, steps = torch.ones_like(size), None
        if layer.symmetry in SCALED:
            factor = ((size * 2 - 1) * math.log(spread)).exp()
        if layer.symmetry in SIGNED:
            factor = torch.where(sign < 0.5, -factor, factor)
        if layer.symmetry == "phase":
            steps = ((step * (2 * max_steps + 1)).floor() - max_steps).to(like)
        move_neurons(values, layer, factor.to(like), steps)
    return values


def canonicalise_neurons(
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    symmetries: Collection[NeuronSymmetry] | None = None,
) -> dict[str, Tensor]:
    r"""Bring every neuron to one representative under phase steps and sign flips, function kept.

    Layer by layer, inputs first: the phase :math:`w_0 b` of sines comes into
    :math:`[-\pi/2, \pi/2)` by phase steps; then the sign, where neurons may change theirs, makes
    the bias positive, or, where there is none or it is 0, the incoming weight of largest magnitude,
    in whatever order the neurons stand. Two networks that differ by these moves alone have equal
    canonical forms up to rounding, save on the boundary, which random weights do not meet.

    Args and errors are those of :func:`sample_moves`.
    """
    values = dict(parameters)
    for layer in hidden_layers(architecture, symmetries):
        if layer.symmetry == "phase" and layer.bias is not None:
            phase = values[layer.bias] * (layer.activation["w0"] / math.pi)
            move_neurons(values, layer, torch.ones_like(phase), -torch.floor(phase + 0.5))
        if layer.symmetry in SIGNED:
            weight = values[layer.weight]
            # Not the first weight, which changes places when the neurons before are relabelled.
            largest = weight.abs().argmax(-1, keepdim=True)
            key = weight.gather(-1, largest).squeeze(-1)
            if layer.bias is not None:
                bias = values[layer.bias]
                key = torch.where(bias == 0, key, bias)
            move_neurons(values, layer, torch.where(key < 0, -1.0, 1.0).to(key))
    return values
