"""The baseline that knows no symmetry: a plain network on the flattened weights."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.nn.features import Networks, input_features
from nngraph.nn.metanetwork import Column, Metanetwork, TensorScales, mlp

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

    def __init__(
        self, architecture: Architecture, num_outputs: int, hidden: int = 512, dropout: float = 0.2
    ) -> None:
        super().__init__(architecture, num_outputs)
        self.scales = TensorScales(architecture)
        size = architecture.num_edges + architecture.num_nodes
        self.readout = mlp([size, hidden, hidden, hidden, num_outputs], dropout)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "generic weights-only"

    def forward(self, networks: Networks) -> Tensor:
        features = input_features(networks)
        if features.topology.num_graphs > 1:
            entries = set(features.topology.architectures) | {self.architecture}
            if len(entries) > 1:
                raise ArchitectureError(
                    f"FlatNetwork reads networks of {self.architecture} alone; the batch has others."
                )
            raise ArchitectureError(
                "FlatNetwork reads stacks; make one with NeuralGraphStack, or read graphs one by one."
            )
        if features.topology.single.widths != self.architecture.widths:
            raise ArchitectureError(
                f"FlatNetwork was built for {self.architecture}; got {features.topology.single}."
            )
        weight, bias = self.scales(features)
        fan_in = features.topology.in_degree[features.topology.target].to(weight.dtype)
        entries_in_a_row = torch.cat([weight * fan_in.sqrt(), bias.squeeze(-1)], dim=-1)
        # One row per network, also for a single graph, which has no leading shape.
        return self.readout(  # type: ignore[no-any-return]
            entries_in_a_row.reshape(-1, entries_in_a_row.shape[-1])
        )
