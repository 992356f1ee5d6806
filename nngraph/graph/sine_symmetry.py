r"""Sign flips and phase steps: the symmetry of sine neurons beyond relabelling.

A neuron :math:`a_i = \sin(w_0 (w_i \cdot x + b_i))` with outgoing weights :math:`v_i` keeps its
network's function under

- the sign flip :math:`(w_i, b_i, v_i) \to (-w_i, -b_i, -v_i)`;
- the phase step :math:`(b_i, v_i) \to (b_i + k \pi / w_0, (-1)^k v_i)` for whole k,

each neuron on its own. That of all activations is in :mod:`nngraph.graph.neuron_symmetry`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nngraph.graph.architecture import Architecture
from nngraph.graph.neuron_symmetry import hidden_layers, sample_moves, set_phases, set_signs

__all__ = ["SineSymmetry", "canonicalise_sines"]


class SineSymmetry:
    """The group of sign flips and phase steps of the sine neurons of a chain.

    Layers of other activations are left as they are. A layer without a bias has no phase steps.

    Raises:
        ArchitectureError: if the architecture is not a chain of affine maps.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        hidden_layers(architecture)  # refuses what is no chain

    def sample(
        self,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        max_steps: int = 2,
    ) -> dict[str, Tensor]:
        """Apply an independent random sign and up to ``max_steps`` phase steps to every neuron.

        The parameters may have leading dimensions ``[*, *shape]``; each network gets its own.
        """
        return sample_moves(
            self.architecture, parameters, max_steps=max_steps, symmetries=["phase"],
            generator=generator,
        )  # fmt: skip


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
    for layer in hidden_layers(architecture, ["phase"]):
        set_phases(values, layer)
        set_signs(values, layer)
    return values
