r"""Symmetry of neurons beyond relabelling, for chains: signs that are matched, scales that are set.

An odd activation (tanh, sine) gives its neurons a sign, ReLU a positive scale. Signs are finite,
and matching finds the best; of all scales one is taken: the balanced one, where the parameters of
what comes in and of what goes out of a neuron have one norm. That is the form of least norm, which
weight decay leads to, so that trained networks change little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraph
from nngraph.graph.sine_symmetry import canonicalise_sines

__all__ = ["canonical_form", "flip_signs", "signed_spaces"]

_ODD = ("tanh", "sine", "identity")
_SCALED = ("relu", "leaky_relu", "identity")
#: Sweeps over the layers until every scale is 1 to rounding; a dozen or two are common.
_MAX_SWEEPS = 500


@dataclass(frozen=True)
class _Layer:
    """A hidden group of a chain, and the names of the parameters on both of its sides."""

    space: str
    activation: str
    incoming: str
    bias: str | None
    outgoing: str


def _hidden_layers(architecture: Architecture) -> Iterator[_Layer]:
    if not architecture.is_chain or architecture.column_names != ("bias",):
        raise ArchitectureError(
            f"the architecture {architecture} is not a chain of affine maps with biases alone; "
            "signs and scales of neurons are known for chains. Match up to relabelling."
        )
    biases = {column.group: column.parameter.name for column in architecture.columns}
    for place, group in enumerate(architecture.groups):
        if group.role == "hidden" and isinstance(group.space, str):
            incoming, outgoing = architecture.blocks[place - 1], architecture.blocks[place]
            yield _Layer(
                group.space, group.activation.name, incoming.parameter.name, biases.get(place),
                outgoing.parameter.name,
            )  # fmt: skip


def signed_spaces(architecture: Architecture) -> tuple[str, ...]:
    """Return the spaces whose neurons may change sign, function kept.

    Raises:
        ArchitectureError: if the architecture is no chain of affine maps.
    """
    return tuple(s.space for s in _hidden_layers(architecture) if s.activation in _ODD)


def flip_signs(network: NeuralGraph, signs: Mapping[str, Tensor]) -> NeuralGraph:
    """Return the network with the signs of neurons flipped, by space ``[d]`` of 1 and -1."""
    values = network.parameters()
    for layer in _hidden_layers(network.architecture):
        if layer.space in signs:
            _scale(values, layer, signs[layer.space].to(values[layer.incoming]))
    return network.with_parameters(values)


def _scale(values: dict[str, Tensor], layer: _Layer, factor: Tensor) -> None:
    values[layer.incoming] = values[layer.incoming] * factor.unsqueeze(-1)
    if layer.bias is not None:
        values[layer.bias] = values[layer.bias] * factor
    values[layer.outgoing] = values[layer.outgoing] / factor


def canonical_form(network: NeuralGraph) -> NeuralGraph:
    r"""Return the network of the same function with canonical phases and scales of its neurons.

    Phases and signs of sine neurons as :func:`~nngraph.graph.sine_symmetry.canonicalise_sines`
    does. ReLU, leaky ReLU and linear neurons are scaled until for each of them

    .. math:: \|w_{in}\|^2 + b^2 = \|w_{out}\|^2.

    A neuron with nothing on one side stays. Two networks that differ by such scales alone have one
    canonical form up to rounding, and relabelling commutes with it.

    Raises:
        ArchitectureError: if the architecture is no chain of affine maps.
    """
    layers = [s for s in _hidden_layers(network.architecture) if s.activation in _SCALED]
    values = canonicalise_sines(network.architecture, network.parameters())
    small = 4 * torch.finfo(next(iter(values.values())).dtype).eps
    for _ in range(_MAX_SWEEPS):
        largest = 0.0
        for layer in layers:
            before = values[layer.incoming].square().sum(-1)
            if layer.bias is not None:
                before = before + values[layer.bias].square()
            after = values[layer.outgoing].square().sum(-2)
            held = (before == 0) | (after == 0)
            factor = torch.where(held, 1.0, after / torch.where(held, 1.0, before)) ** 0.25
            _scale(values, layer, factor)
            largest = max(largest, float((factor - 1).abs().max()))
        if largest < small:
            break
    return network.with_parameters(values)
