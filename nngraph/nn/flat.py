"""The baseline that knows no symmetry: a plain network on the flattened weights."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.kernels.entries import restore_edges
from nngraph.nn.features import Networks
from nngraph.nn.metanetwork import Column, Metanetwork, mlp
from nngraph.nn.scales import TensorScales, fan_in

__all__ = ["FlatNetwork"]


class FlatNetwork(Metanetwork):
    """An MLP on all weights and biases in a row; relabelling the neurons changes its answers.

    A baseline: reads networks of the one architecture it was built for.

    Args:
        hidden: width of its three hidden layers.
        dropout: between them.

    Shape:
        networks -> ``[networks, num_outputs]``.
    """

    invariant = False
    many = False
    symmetry = "none"

    def __init__(
        self, architecture: Architecture, num_outputs: int, hidden: int = 512, dropout: float = 0.2
    ) -> None:
        super().__init__(architecture, num_outputs)
        self.scales = TensorScales(self.extent)
        size = architecture.num_edges + architecture.num_nodes
        self.readout = mlp([size, hidden, hidden, hidden, num_outputs], dropout)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "generic weights-only"

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        topology = features.topology
        if other := [a for a in topology.architectures if a.widths != self.architecture.widths]:
            raise ArchitectureError(
                f"FlatNetwork was built for {self.architecture} and reads no other; got {other[0]}."
            )
        weight, bias = self.scales(features)
        # Entries in units of their tensor, whatever the fan-in.
        weight = weight * fan_in(topology, weight.dtype).squeeze(-1)
        # From the order of shapes back to that of networks.
        weight = restore_edges(topology, weight)
        shape = (topology.num_graphs * bias.shape[:-2].numel(), -1)
        entries = [weight.reshape(shape), bias.reshape(shape)]
        return self.readout(torch.cat(entries, dim=-1))  # type: ignore[no-any-return]
