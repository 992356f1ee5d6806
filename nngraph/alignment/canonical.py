r"""Neurons of chains beyond relabelling: one form of each network, and signs that are matched.

Of all scales that an activation allows, one is taken: the balanced one, where the parameters of
what comes in and of what goes out of a neuron have one norm. That is the form of least norm, which
weight decay leads to. Signs are set by what comes in, or matched, which finds the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nngraph.graph import (
    SCALED,
    SIGNED,
    Architecture,
    HiddenNeurons,
    NeuralGraph,
    canonicalise_neurons,
    hidden_layers,
    move_neurons,
)

#: Sweeps over the layers until every scale is 1 to rounding; a dozen or two are common.
_MAX_SWEEPS = 500


def signed_spaces(architecture: Architecture) -> tuple[str, ...]:
    """Return the spaces of a chain whose neurons may change sign, function kept."""
    signed = {layer.group for layer in hidden_layers(architecture, SIGNED)}
    groups: dict[str, list[int]] = {}
    for number, group in enumerate(architecture.groups):
        if isinstance(group.space, str):
            groups.setdefault(group.space, []).append(number)
    # Groups that share a space change sign together.
    return tuple(space for space, own in groups.items() if signed.issuperset(own))


def flip_signs(network: NeuralGraph, signs: Mapping[str, Tensor]) -> NeuralGraph:
    """Return the network with the signs of neurons flipped, by space ``[d]`` of 1 and -1."""
    values = network.parameters()
    for layer in hidden_layers(network.architecture):
        space = network.architecture.groups[layer.group].space
        if isinstance(space, str) and space in signs:
            move_neurons(values, layer, signs[space].to(values[layer.weight]))
    return network.with_parameters(values)


def canonical_form(network: NeuralGraph) -> NeuralGraph:
    r"""Return the network of the same function with canonical scales, phases and signs of neurons.

    Each neuron is moved by what its activation allows
    (:attr:`nngraph.graph.Activation.symmetry`). Those with a scale, such as ReLU and linear ones,
    are scaled until for each of them

    .. math:: \|w_{in}\|^2 + b^2 = \|w_{out}\|^2

    save that a neuron with nothing on one side keeps its scale. Phases and signs then come into the
    form of :func:`~nngraph.graph.canonicalise_neurons`.

    Two networks that differ by such moves alone have one canonical form up to rounding, if no
    neuron has nothing on one side; and relabelling commutes with it.

    Raises:
        ArchitectureError: if the architecture is no chain of affine maps.
    """
    values = dict(network.parameters())
    _balance(values, hidden_layers(network.architecture, SCALED))
    # After the scales, which decide what weights are largest.
    return network.with_parameters(canonicalise_neurons(network.architecture, values))


def _balance(values: dict[str, Tensor], layers: Sequence[HiddenNeurons]) -> None:
    """Scale the neurons of some layers until all are balanced."""
    for _ in range(_MAX_SWEEPS if layers else 0):
        largest = 0.0
        for layer in layers:
            before = values[layer.weight].square().sum(-1)
            if layer.bias is not None:
                before = before + values[layer.bias].square()
            after = values[layer.outgoing].square().sum(-2)
            held = (before == 0) | (after == 0)
            factor = torch.where(held, 1.0, after / torch.where(held, 1.0, before)) ** 0.25
            move_neurons(values, layer, factor)
            largest = max(largest, float((factor - 1).abs().max()))
        if largest < 4 * torch.finfo(factor.dtype).eps:
            return
