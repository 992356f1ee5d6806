"""One message pass in the order of computation: the encoder of the general metanetwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.levels import at_inputs
from nngraph.nn.encoders.positions import LearnedRows, PositionKind, SinusoidalRows
from nngraph.nn.features import SizeLimits


class OrderedPass(nn.Module):
    r"""One message pass in the order of computation, with the raw weights as its matrices.

    .. math::
        h_i = \tanh(B_l \tanh(A_l [\textstyle\sum_j \hat w_{ij} M_{l-1} h_j,
            \hat b_i, \text{has bias}]))

    Layer by layer from the inputs, so that a neuron hears of everything before it in one pass at
    the cost of one forward pass of the networks, times channels. A layer beyond the depth it was
    made for takes the last maps. Kernels with taps pass messages by several learned sums of their
    taps, each for its share of the channels.

    Args:
        channels: C, of the states.
        messages: channels of the messages.
        max_levels: number of sets of maps at most.
        positions: what inputs start from: learned, unit vectors at first, or sinusoidal, for any.

    Shape:
        weight ``[*, E, taps]``, columns ``[*, N, F]`` -> states ``[*, n_l, C]`` of the neurons of
        each level from 1, and for the levels that have outputs the sums that reach them.
    """

    def __init__(
        self,
        limits: SizeLimits,
        channels: int,
        messages: int,
        max_levels: int = 16,
        positions: PositionKind = "learned",
    ) -> None:
        super().__init__()
        # As many channels as inputs keep all of a row of the first weight. A neuron that hears of
        # several levels hears of all in the same channels.
        learned = positions == "learned"
        width = min(limits.inputs, messages) if limits.chains and learned else messages
        self.inputs = (
            LearnedRows(torch.eye(limits.inputs, width)) if learned else SinusoidalRows(width)
        )
        if isinstance(self.inputs, LearnedRows) and limits.inputs > messages:
            nn.init.orthogonal_(self.inputs.table)
        self.chains = limits.chains
        own = 2 * limits.columns
        #: channels of the sums that reach the outputs
        self.width = max(messages, width) + own
        levels = min(max(limits.levels - 1, 2), max_levels)
        if not limits.chains:
            # Inputs of an MLP have no parameters; constants and embeddings stand there elsewhere.
            self.first = nn.Linear(own, width)
        if limits.taps > 1:
            self.reads = nn.Parameter(torch.randn(limits.taps, min(limits.taps, 4)))
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear((messages if i else width) + own, channels), nn.Tanh(),
                nn.Linear(channels, channels), nn.Tanh(),
            )
            for i in range(levels)
        )
        # Nothing hears the last layer: a map for it would never learn.
        maps = [nn.Linear(channels, messages, bias=False) for _ in range(levels - 1)]
        self.messages = nn.ModuleList(maps)
        for map in maps:
            nn.init.normal_(map.weight, 0, 4.0 / channels**0.5)
        # Slopes and offsets are spread over the range of the inputs: with offsets near 0 all
        # functions are steps at the same position, and learning is several times slower.
        for i, layer in enumerate(self.layers):
            first = cast(nn.Linear, cast(nn.Sequential, layer)[0])
            slope, offset = (10.0, 4.0) if i == 0 else (0.5, 2.0)
            nn.init.normal_(first.weight, 0, slope / (first.in_features - own) ** 0.5)
            nn.init.normal_(first.weight[:, -own:], 0, 2.0)
            nn.init.normal_(first.bias, 0, offset)

    def forward(
        self, topology: Topology, weight: Tensor, columns: Tensor
    ) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
        entries = node_entries(topology, columns)
        table = self.inputs(topology.max_inputs)
        first = at_inputs(topology, table).expand(*columns.shape[:-2], -1, -1)
        if not self.chains:
            first = first + self.first(kernels.take(entries, topology.levels[0].nodes))
        messages = [first]
        reads = (weight @ self.reads if weight.shape[-1] > 1 else weight).unbind(-1)
        states, outputs = [], []
        for level in range(1, len(topology.levels)):
            sums = self._received(topology, level, reads, messages)
            sums = torch.cat([sums, kernels.take(entries, topology.levels[level].nodes)], dim=-1)
            if level in topology.output_levels:
                outputs.append((level, sums))
            last = min(level, len(self.layers)) - 1
            states.append(self.layers[last](sums))
            if level + 1 < len(topology.levels):
                messages.append(self.messages[min(level, len(self.messages)) - 1](states[-1]))
        return states, outputs

    def _received(
        self, topology: Topology, level: int, reads: Sequence[Tensor], messages: list[Tensor]
    ) -> Tensor:
        """Pass the messages of earlier levels on, each share of the channels by its own weights."""
        if len(reads) == 1:
            return kernels.propagate_level(topology, level, reads[0], messages)
        shares = [torch.tensor_split(message, len(reads), dim=-1) for message in messages]
        sums = [
            kernels.propagate_level(topology, level, weight, [share[i] for share in shares])
            for i, weight in enumerate(reads)
        ]
        return torch.cat(sums, dim=-1)


def node_entries(topology: Topology, columns: Tensor) -> Tensor:
    """Return the columns of the nodes and which of them a parameter fills: ``[*, N, 2 F]``."""
    filled = topology.nodes.mask.to(columns.dtype)
    filled = pad(filled, (0, columns.shape[-1] - filled.shape[-1])).expand_as(columns)
    return torch.cat([columns, filled], dim=-1)
