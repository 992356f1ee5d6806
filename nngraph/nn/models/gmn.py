"""Graph metanetworks: edges, neurons and one node for the whole network update in turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.mlp import mlp
from nngraph.nn.features import Architectures
from nngraph.nn.models.layered import EdgeStep, LayeredNetwork


class GraphLayer(nn.Module):
    r"""A round in which weights, neurons and the network hear of one another.

    .. math::
        e_{ij} &\leftarrow e_{ij} + \sigma(A \hat e_{ij} + B \hat x_j + C \hat x_i + U \hat u) \\
        x_i &\leftarrow x_i + \mathrm{MLP}\big[\hat x_i, \mathrm{mean}_j\, e_{ij},
            \mathrm{mean}_k\, e_{ki}, \hat u\big] \\
        u &\leftarrow u + \mathrm{MLP}\big[\hat u, \mathrm{mean}_i\, x_i,
            \mathrm{mean}_k\, \mathrm{mean}_{ij \in k}\, e_{ij}\big]

    with k the blocks: tensors count alike, whatever their size. The new state of a weight is its
    message, to both of its ends; a linear map after it, as the last one of an MLP for the messages
    would be, commutes with the mean and is the first one of the neuron's. So nothing of the size
    of the edges is made but e.

    Args:
        is_last: whether no layer follows that would hear of u, which then stays as it is.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]``, u ``[*, networks, C]`` -> the same.
    """

    def __init__(
        self, channels: int, edge_channels: int, dropout: float = 0.0, is_last: bool = False
    ) -> None:
        super().__init__()
        self.norm, self.graph_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.edges = EdgeStep(channels, edge_channels)
        self.block = nn.Linear(channels, edge_channels, bias=False)
        self.update = mlp([2 * channels + 2 * edge_channels, 2 * channels, channels], dropout)
        self.graph = None
        if not is_last:
            self.graph = mlp([2 * channels + edge_channels, channels, channels], dropout)

    def forward(
        self, topology: Topology, x: Tensor, e: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        normal, whole = self.norm(x), self.graph_norm(u)
        blocks = kernels.broadcast(self.block(whole), topology.blocks.graph)
        found = self.edges(topology, normal, e, blocks)
        messages = kernels.broadcast(whole, topology.nodes.graph)
        received = [normal, found.incoming, found.outgoing, messages]
        x = x + self.update(torch.cat(received, dim=-1))
        if self.graph is None:
            return x, found.edges, u
        pooled = [
            whole,
            kernels.pool(x, topology.nodes.graph),
            kernels.pool(found.blocks, topology.blocks.graph),
        ]
        return x, found.edges, u + self.graph(torch.cat(pooled, dim=-1))


class GraphMetanetwork(LayeredNetwork):
    r"""GMN: a graph network with states of neurons, of weights and of the whole network.

    ``layers`` of :class:`GraphLayer` on the first states of an encoder, and a read-out; u starts
    from a learned vector. Of the model of the paper, with u and messages in both directions, which
    the released code leaves out.

    Args:
        channels, edge_channels, layers: sizes of the states, and number of layers.
        dropout, common: in the layers and the read-out; and further options of a
            :class:`~nngraph.nn.LayeredNetwork`.

    Source:
        Lim et al., "Graph Metanetworks for Processing Diverse Neural Architectures", ICLR 2024.
    """

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 64,
        edge_channels: int = 16, layers: int = 4, dropout: float = 0.1, **common: Any,
    ) -> None:
        made = [
            GraphLayer(channels, edge_channels, dropout, is_last=i == layers - 1)
            for i in range(layers)
        ]
        super().__init__(
            architecture, num_outputs, channels, edge_channels, made, dropout=dropout, **common
        )
        self.whole = nn.Parameter(torch.randn(1, channels))

    def first(self, topology: Topology, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        return x, e, self.whole.expand(*x.shape[:-2], topology.num_graphs, -1)
