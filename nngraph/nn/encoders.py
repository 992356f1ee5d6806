"""Encoders: from the weights and biases of networks to the first states of neurons and weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import ACTIVATIONS
from nngraph.graph.topology import Topology
from nngraph.nn.features import Features
from nngraph.nn.metanetwork import Extent, TensorScales, at_inputs, fan_in
from nngraph.nn.ordered_pass import node_entries

__all__ = ["NetworkEncoder", "activation_kinds", "by_output"]


class NetworkEncoder(nn.Module):
    r"""First states of neurons and weights: their scaled parameters, and where they stand.

    .. math::
        x_i &= X [\hat b_i, \text{has bias}] + p_{\text{input } i} + p_{\text{output } i}
            + p_{\text{level}} + p_{\text{activation}} \\
        e_{ij} &= E \hat w_{ij} + q_{\text{level}}

    with parameters in units of their tensor's root mean square over the training set. Places of
    hidden neurons say nothing and are not read, so that the states commute with relabelling.

    Args:
        extent: of the networks to read.
        channels, edge_channels: C and C_e; without edge channels there are no states of weights.
        max_levels: levels that are told apart; deeper ones count as the last.

    Shape:
        features of any batch -> x ``[*, N, C]``, e ``[*, E, C_e]`` or ``None``.
    """

    def __init__(
        self, extent: Extent, channels: int, edge_channels: int, max_levels: int = 16
    ) -> None:
        super().__init__()
        self.levels = min(extent.levels, max_levels)
        self.scales = TensorScales(extent)
        self.own = nn.Linear(2 * extent.columns, channels)
        self.input_place = nn.Parameter(torch.randn(extent.inputs, channels))
        self.output_place = nn.Parameter(torch.randn(extent.outputs, channels))
        self.level_place = nn.Parameter(torch.randn(self.levels, channels) * 0.1)
        self.activation_place = nn.Parameter(torch.randn(len(ACTIVATIONS), channels) * 0.1)
        self.edge = nn.Linear(extent.taps, edge_channels) if edge_channels else None
        if edge_channels:
            self.edge_place = nn.Parameter(torch.randn(self.levels, edge_channels) * 0.1)

    def forward(self, features: Features) -> tuple[Tensor, Tensor | None]:
        topology = features.topology
        taps, columns = self.scales.all(features)
        x = self.own(node_entries(topology, columns))
        x = x + self.level_place[topology.node_level.clamp(max=self.levels - 1)]
        x = x + self.activation_place[activation_kinds(topology)]
        x = x + by_output(topology, self.output_place) + _by_input(topology, self.input_place)
        if self.edge is None:
            return x, None
        # Entries in units of their tensor, whatever the fan-in.
        own = self.edge(taps * fan_in(topology, taps.dtype))
        place = self.edge_place[topology.block_level.clamp(max=self.levels - 1)]
        return x, own + kernels.spread_blocks(topology, place)


def _by_input(topology: Topology, table: Tensor) -> Tensor:
    """Give input neuron i of every network row i of a table: ``[d_0, C] -> [N, C]``, else 0."""
    first = at_inputs(topology, table)
    rest = first.new_zeros(topology.num_nodes - len(first), first.shape[-1])
    joined = torch.cat([first, rest])
    return joined if topology.in_level_order else joined.index_select(0, topology.level_order)


def by_output(topology: Topology, table: Tensor) -> Tensor:
    """Give output neuron o of every network row o of a table: ``[d_L, C] -> [N, C]``, else 0.

    Raises:
        ArchitectureError: if a network has more outputs than the table has rows.
    """
    if topology.max_outputs > len(table):
        raise ArchitectureError(
            f"a network has {topology.max_outputs} outputs; the model was built for {len(table)}."
        )
    return pad(table, (0, 0, 0, 1))[topology.output_place]  # the last row is 0


def activation_kinds(topology: Topology) -> Tensor:
    """Index into ``ACTIVATIONS`` of each neuron's activation, ``[N]``."""
    kinds = [list(ACTIVATIONS).index(activation.name) for activation in topology.activations]
    return torch.tensor(kinds, device=topology.node_activation.device)[topology.node_activation]
