r"""Sign flips and phase steps: the symmetry of sine neurons beyond relabelling.

A neuron :math:`a_i = \sin(w_0 (w_i \cdot x + b_i))` with outgoing weights :math:`v_i` keeps its
network's function under

- the sign flip :math:`(w_i, b_i, v_i) \to (-w_i, -b_i, -v_i)`;
- the phase step :math:`(b_i, v_i) \to (b_i + k \pi / w_0, (-1)^k v_i)` for whole k,

each neuron on its own. Together with the relabellings they are the group that
:class:`nngraph.nn.SymmetricNetwork` respects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph.architecture import Architecture

__all__ = ["SineSymmetry", "canonicalise_sines"]


@dataclass(frozen=True)
class _SineLayer:
    """Names of the tensors on both sides of one group of sine neurons."""

    incoming: str
    bias: str | None
    outgoing: str
    size: int
    frequency: float


def _sine_layers(architecture: Architecture) -> list[_SineLayer]:
    if not architecture.is_chain:
        raise ArchitectureError(
            f"the architecture {architecture} is not a chain of affine maps; sign flips and phase "
            "steps are known for chains."
        )
    biases = {
        column.group: column.parameter.name
        for column in architecture.columns
        if column.parameter.column == "bias"
    }
    return [
        _SineLayer(
            architecture.blocks[g - 1].parameter.name,
            biases.get(g),
            architecture.blocks[g].parameter.name,
            group.size,
            group.activation["w0"],
        )
        for g, group in enumerate(architecture.groups)
        if group.role == "hidden" and group.activation.name == "sine"
    ]


def _apply(
    values: dict[str, Tensor], layer: _SineLayer, sign: Tensor, steps: Tensor | None
) -> None:
    """Flip and step the neurons of one layer, ``sign`` and ``steps`` ``[*, d]``, in ``values``."""
    values[layer.incoming] = values[layer.incoming] * sign.unsqueeze(-1)
    outgoing = sign
    if layer.bias is not None:
        values[layer.bias] = values[layer.bias] * sign
        if steps is not None:
            values[layer.bias] = values[layer.bias] + steps * (math.pi / layer.frequency)
            outgoing = sign * (1 - 2 * torch.remainder(steps, 2))
    values[layer.outgoing] = values[layer.outgoing] * outgoing.unsqueeze(-2)


class SineSymmetry:
    """The group of sign flips and phase steps of the sine neurons of a chain.

    Layers of other activations are left as they are. A layer without a bias has no phase steps.

    Raises:
        ArchitectureError: if the architecture is not a chain of affine maps.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._layers = _sine_layers(architecture)

    def sample(
        self,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        max_steps: int = 2,
    ) -> dict[str, Tensor]:
        """Apply an independent random sign and up to ``max_steps`` phase steps to every neuron.

        The parameters may have leading dimensions ``[*, *shape]``; each network gets its own.
        """
        values = dict(parameters)
        for layer in self._layers:
            weight = values[layer.incoming]
            shape = weight.shape[:-1]
            sign = torch.randint(0, 2, shape, generator=generator).to(weight) * 2 - 1
            steps = torch.randint(-max_steps, max_steps + 1, shape, generator=generator).to(weight)
            _apply(values, layer, sign, steps)
        return values


def canonicalise_sines(
    architecture: Architecture, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    r"""Bring every sine neuron to one representative under sign flips and phase steps.

    Layer by layer, inputs first: the phase :math:`w_0 b` comes into
    :math:`[-\pi/2, \pi/2)` by phase steps; then the sign makes the bias positive, or, where there
    is none or it is 0, the incoming weight of largest magnitude. This does not depend on the order
    of the neurons. Two networks that differ by the symmetry have equal canonical forms up to
    rounding, save on the boundary, which random weights do not meet. The network's function is
    unchanged.

    ``parameters`` may have leading dimensions ``[*, *shape]``.
    """
    values = dict(parameters)
    for layer in _sine_layers(architecture):
        weight = values[layer.incoming]
        ones = torch.ones_like(weight[..., 0])
        if layer.bias is not None:
            phase = values[layer.bias] * (layer.frequency / math.pi)
            _apply(values, layer, ones, -torch.floor(phase + 0.5))
        # Not the first weight, which changes places when the neurons before are relabelled.
        largest = weight.abs().argmax(-1, keepdim=True)
        key = weight.gather(-1, largest).squeeze(-1)
        if layer.bias is not None:
            bias = values[layer.bias]
            key = torch.where(bias == 0, key, bias)
        _apply(values, layer, torch.where(key < 0, -ones, ones), None)
    return values
