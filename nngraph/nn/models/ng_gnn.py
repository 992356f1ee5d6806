"""Message passing with messages that the weights modulate: the graph network of neural graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.features import Architectures, several
from nngraph.nn.models.layered import EdgeStep, LayeredNetwork, columns


class FilmLayer(nn.Module):
    r"""A round of messages modulated by the edges, aggregated in several ways, in both directions.

    .. math::
        m_{ij} &= \gamma(e_{ij}) \odot \sigma(B \hat x_i + C \hat x_j) + \beta(e_{ij}) \\
        x_i &\leftarrow x_i + \mathrm{MLP}\big[\hat x_i, \textstyle\bigoplus_j m_{ij},
            \bigoplus_k m'_{ki}\big] \\
        e_{ij} &\leftarrow e_{ij} + \sigma(D \hat e_{ij} + F x_j + G x_i)

    with :math:`\gamma, \beta` linear, :math:`\bigoplus` the aggregations side by side, and m' the
    messages against the direction of the edges, with maps of their own. The products of the neurons
    are made once per neuron. The aggregations read every message, which are therefore stored.

    Args:
        messages: channels of the messages of each direction.
        aggregations: of :func:`nngraph.kernels.reduce`.
        mean_log_degree: if given, each aggregation is received three times, multiplied by 1, by
            :math:`\log(d + 1) / \delta` and by its inverse, where d is the number of messages and
            :math:`\delta` this number.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]`` -> the same.
    """

    def __init__(
        self, channels: int, edge_channels: int, messages: int,
        aggregations: Sequence[kernels.Reduction] = ("mean", "std", "max", "min"),
        mean_log_degree: float | None = None, dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(messages=messages)
        if not aggregations:
            raise ValueError("aggregations are none; expected one at least.")
        self.aggregations, self.mean_log_degree = tuple(aggregations), mean_log_degree
        self.norm = nn.LayerNorm(channels)
        self.source = nn.Linear(channels, 2 * messages, bias=False)
        self.target = nn.Linear(channels, 2 * messages)
        self.scale = nn.Linear(edge_channels, 2 * messages)
        self.shift = nn.Linear(edge_channels, 2 * messages, bias=False)  # update has one
        with torch.no_grad():
            self.scale.bias.add_(1)  # messages are there before edges say anything
        received = 2 * len(self.aggregations) * messages * (1 if mean_log_degree is None else 3)
        self.update = mlp([channels + received, 2 * channels, channels], dropout)
        self.edges = EdgeStep(channels, edge_channels)

    def forward(self, topology: Topology, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        normal = self.norm(x)
        forwards, backwards = kernels.map_edges(
            topology, _modulated, e, self.source(normal), self.target(normal),
            columns(self.scale, self.shift), to=("edge", "edge"),
        )  # fmt: skip
        received = [
            self._received(topology, forwards, "target"),
            self._received(topology, backwards, "source"),
        ]
        x = x + self.update(torch.cat([normal, *received], dim=-1))
        return x, self.edges(topology, x, e).edges

    def _received(self, topology: Topology, messages: Tensor, end: kernels.End) -> Tensor:
        received = kernels.aggregate(topology, messages, end, self.aggregations)
        if self.mean_log_degree is None:
            return received
        degree = topology.nodes.in_degree if end == "target" else topology.nodes.out_degree
        scale = (degree.to(received.dtype).log1p() / self.mean_log_degree).unsqueeze(-1)
        inverse = 1 / scale.where(scale > 0, torch.ones_like(scale))
        return torch.cat([received, received * scale, received * inverse], dim=-1)


def _modulated(
    e: Tensor, source: Tensor, target: Tensor, scale: Tensor, bias: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
    """Messages of both directions."""
    messages = (e @ scale + bias) * silu(source + target) + e @ shift
    return messages.chunk(2, dim=-1)


class FilmNetwork(LayeredNetwork):
    r"""NG-GNN: principal neighbourhood aggregation with edges that modulate messages.

    ``layers`` of :class:`FilmLayer` on the first states of an encoder, and a read-out; the messages
    of a first layer hold the products of weights and neurons that a forward pass is made of.

    Where it differs from the released code: the graph holds the edges that there are, also those
    whose weight is 0, and not all pairs; a weight has one state for the messages of both
    directions; states of weights are normalised and added to, where an update without norm
    replaces them there, which neither deep stacks nor weights of another scale bear.

    Args:
        channels, edge_channels, messages, layers: of neurons, weights, and messages of each
            direction; and number of layers.
        aggregations: of messages.
        scalers: whether aggregations are also received times the logarithm of the number of
            messages, and its inverse: for zoos of many architectures, whose widths differ.
        dropout, common: in the layers and the read-out; and further options of a
            :class:`~nngraph.nn.LayeredNetwork`.

    Source:
        Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural
        Networks", ICLR 2024; aggregations and scalers: Corso et al., NeurIPS 2020.
    """

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 64,
        edge_channels: int = 8, messages: int = 16, layers: int = 3,
        aggregations: Sequence[kernels.Reduction] = ("mean", "std", "max", "min"),
        scalers: bool = False, dropout: float = 0.1, **common: Any,
    ) -> None:
        degree = _mean_log_degree(architecture) if scalers else None
        made = [
            FilmLayer(channels, edge_channels, messages, aggregations, degree, dropout)
            for _ in range(layers)
        ]
        super().__init__(
            architecture, num_outputs, channels, edge_channels, made, dropout=dropout, **common
        )


def _mean_log_degree(architecture: Architectures) -> float:
    """Mean of log(number of messages + 1) over the neurons of some architectures."""
    topologies = [Topology.of(one) for one in several(architecture)]
    total = sum(float(t.nodes.in_degree.double().log1p().sum()) for t in topologies)
    return max(total / sum(t.num_nodes for t in topologies), math.log(2))
