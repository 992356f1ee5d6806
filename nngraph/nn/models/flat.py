"""The baseline that knows no symmetry: a plain network on the flattened weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, join_networks, split_networks
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.scales import TensorScales, fan_in
from nngraph.nn.features import Architectures, Networks
from nngraph.nn.models.base import Metanetwork, Traits


class FlatNetwork(Metanetwork):
    """An MLP on all weights and biases in a row; relabelling the neurons changes its answers.

    A baseline: reads networks of the architectures it was built for. The rows of smaller networks
    are filled up with 0, so that a place in the row means one thing in one architecture and another
    in the next: what such a model can do on mixed architectures is all that is claimed for it.

    Args:
        hidden, dropout: width of its three hidden layers, and dropout between them.
    """

    traits = Traits(symmetry="none", invariant=False)

    def __init__(
        self, architecture: Architectures, num_outputs: int, hidden: int = 512, dropout: float = 0.2
    ) -> None:
        super().__init__(architecture, num_outputs)
        self.scales = TensorScales(self.limits)
        self.layouts = {_layout(a) for a in self.architectures}
        floats = [[p for p in a.parameters if p.integer is None] for a in self.architectures]
        self.size = max(sum(p.numel for p in own) for own in floats)
        self.readout = mlp([self.size, hidden, hidden, hidden, num_outputs], dropout)

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        topology = features.topology
        if other := [a for a in set(topology.architectures) if _layout(a) not in self.layouts]:
            raise ArchitectureError(
                f"FlatNetwork was built for {len(self.layouts)} architectures such as "
                f"{self.architecture} and reads no other; got {other[0]}."
            )
        taps, columns = self.scales.all(features)
        # Entries in units of their tensor, whatever the fan-in.
        taps = taps * fan_in(topology, taps.dtype)
        rows = []
        for part in split_networks(topology, columns, taps):
            row = torch.cat([value.flatten(1) for value in part.parameters.values()], dim=1)
            rows.append(pad(row, (0, self.size - row.shape[1])))
        return self.readout(join_networks(topology, rows))  # type: ignore[no-any-return]


def _layout(architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    """Return what decides the places in a row: the shapes of all tensors."""
    return tuple(parameter.shape for parameter in architecture.parameters)
