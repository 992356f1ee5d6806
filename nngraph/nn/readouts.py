"""Read-outs: from the states of neurons and weights to one answer per network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph.topology import Topology
from nngraph.nn.metanetwork import Extent, at_outputs, level_means, mlp

__all__ = ["Readout"]


class Readout(nn.Module):
    r"""An MLP on the means over each level's neurons and weights, and on each output neuron.

    .. math:: y = \mathrm{MLP}\big[\mathrm{mean}_{i \in l} x_i, \mathrm{mean}_{ij \in l} e_{ij}
        \,(l = 0, 1, \dots), \; x_o \,(o \text{ an output})\big]

    Args:
        extent: of the networks to read.
        channels, edge_channels: C and C_e of the states; C_e is 0 where there are none of weights.
        num_outputs: length of the answer.
        hidden, dropout: width of the MLP, and dropout in it.
        max_levels: levels that are told apart; deeper ones count as the last.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]`` or ``None`` -> ``[networks, num_outputs]``.
    """

    def __init__(
        self,
        extent: Extent,
        channels: int,
        edge_channels: int,
        num_outputs: int,
        hidden: int = 256,
        dropout: float = 0.1,
        max_levels: int = 16,
    ) -> None:
        super().__init__()
        self.levels = min(extent.levels, max_levels)
        self.outputs = extent.outputs
        read = self.levels * (channels + edge_channels) + self.outputs * channels
        self.mlp = mlp([read, hidden, hidden, num_outputs], dropout)

    def pooled(self, topology: Topology, x: Tensor, e: Tensor | None) -> Tensor:
        """Return what the MLP reads, ``[networks, D]``: the same for relabelled networks."""
        parts = [
            level_means(
                topology, kernels.pool_groups(topology, x), topology.group_level, self.levels,
                topology.group_size, topology.group_graph,
            )
        ]  # fmt: skip
        if e is not None:
            parts.append(
                level_means(
                    topology, kernels.pool_blocks(topology, e), topology.block_level, self.levels,
                    topology.block_size, topology.block_graph,
                )
            )  # fmt: skip
        ends = [(i, kernels.take(x, topology.level_nodes[i])) for i in topology.output_rows]
        if ends:
            parts.append(at_outputs(topology, ends, self.outputs))
        else:  # no output neurons, as where the last weight is that of the first layer again
            parts.append(x.new_zeros(len(parts[0]), self.outputs * x.shape[-1]))
        return torch.cat(parts, dim=-1)

    def forward(self, topology: Topology, x: Tensor, e: Tensor | None) -> Tensor:
        return self.mlp(self.pooled(topology, x, e))  # type: ignore[no-any-return]
