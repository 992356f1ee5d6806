"""The neural functional transformer: rows and columns of weights attend to one another."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.pointwise import FeatureDropout
from nngraph.nn.encoders.network import EndEncoder
from nngraph.nn.features import Architectures, Networks, States
from nngraph.nn.models.base import StateNetwork
from nngraph.nn.readouts.readout import ReadoutOptions


class TensorAttention(nn.Module):
    r"""Attention among the means of all tensors of a network.

    .. math:: u_k = \sum_{k'} \mathrm{softmax}_{k'}(q_k \cdot k_{k'} / \sqrt{c}) \, v_{k'}

    with k and k' the blocks and groups of one network, and q, k, v linear in the means, by head.

    Shape:
        means of blocks ``[*, K, C]`` and of groups ``[*, G, C]`` -> the same.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(channels, 3 * channels)

    def forward(self, topology: Topology, blocks: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.read(torch.cat([blocks, groups], dim=-2))
        # Each network's tokens in seats of its own, so that no other network's are looked at.
        seat = _seats(topology)
        seats = (topology.num_graphs, topology.max_tensors)
        placed = tokens.new_zeros(*tokens.shape[:-2], math.prod(seats), tokens.shape[-1])
        placed = torch.unflatten(placed.index_copy(-2, seat, tokens), -2, seats)
        taken = torch.zeros(math.prod(seats), dtype=torch.bool, device=seat.device)
        taken = taken.index_fill(0, seat, True).reshape(seats)
        q, k, v = torch.unflatten(placed, -1, (3, self.heads, -1)).unbind(-3)
        score = torch.einsum("...ahc,...bhc->...hab", q, k) / q.shape[-1] ** 0.5
        weight = score.masked_fill(~taken[:, None, None], -torch.inf).softmax(-1)
        u = torch.einsum("...hab,...bhc->...ahc", weight, v).flatten(-2).flatten(-3, -2)
        u = u.index_select(-2, seat)
        count = len(topology.blocks.size)
        return u[..., :count, :], u[..., count:, :]


def _seats(topology: Topology) -> Tensor:
    """Give the blocks and groups of each network places of its own, ``[K + G]``."""
    graph = torch.cat([topology.blocks.graph.index, topology.groups.graph.index])
    order = graph.argsort(stable=True)
    counts = graph.new_zeros(topology.num_graphs).index_add(0, graph, torch.ones_like(graph))
    first = counts.cumsum(0) - counts
    own = graph[order]
    rank = torch.arange(len(graph), device=graph.device) - first[own]
    seat = own * topology.max_tensors + rank
    return torch.empty_like(seat).index_copy(0, order, seat)


class SetAttentionLayer(nn.Module):
    r"""Attention among the rows, columns and biases at each layer of neurons, and among tensors.

    .. math::
        e_{ij} &\leftarrow e_{ij} + O\, \sigma\big(A [\hat e_{ij}, y^{col}_{ij}, y^{row}_{ij}]
            + U u_{k(ij)}\big) \\
        x_i &\leftarrow x_i + O'\, \sigma\big(A' [\hat x_i, y_i] + U' u_{k(i)}\big)

    with y the answers of :func:`nngraph.kernels.row_column_attention` to queries, keys and values
    that are linear in the states normalised over channels, :math:`\hat e` and :math:`\hat x`: a
    weight is in a column of its block, which meets others at its target's group, and in a row,
    which does at its source's. u are the answers of :class:`TensorAttention`.

    Args:
        heads: that share the channels.
        keys: channels of the queries, and of the keys; a token has them at each neuron.
        expansion: width of the maps' inside, in C.

    Shape:
        on any topology: x ``[*, N, C]``, e ``[*, E, C]`` -> the same.

    Raises:
        ValueError: if the heads do not divide the channels and the keys.

    Source:
        weight-space self-attention (Zhou et al., NeurIPS 2023b), its attention over all weights
        being among the means of tensors. Keys narrower than values are ours.
    """

    def __init__(self, channels: int, heads: int = 2, keys: int = 4, expansion: int = 2) -> None:
        super().__init__()
        if heads < 1 or channels % heads or keys % heads:
            raise ValueError(
                f"heads is {heads}; expected a divisor of the {channels} channels and of the "
                f"{keys} channels of keys."
            )
        self.heads, self.keys = heads, keys
        inside = expansion * channels
        self.node_norm, self.edge_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.node_read = nn.Linear(channels, 2 * keys + channels)
        self.edge_read = nn.Linear(channels, 2 * keys + channels)
        self.tensors = TensorAttention(channels, heads)
        self.groups = nn.Linear(channels, inside, bias=False)
        self.blocks = nn.Linear(channels, inside, bias=False)
        self.node_in, self.node_out = nn.Linear(2 * channels, inside), nn.Linear(inside, channels)
        self.edge_in, self.edge_out = nn.Linear(3 * channels, inside), nn.Linear(inside, channels)

    def forward(self, topology: Topology, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        own_x, own_e = self.node_norm(x), self.edge_norm(e)
        column, row, node = kernels.row_column_attention(
            topology, self.edge_read(own_e), self.node_read(own_x), self.keys, self.heads
        )
        blocks, groups = self.tensors(
            topology,
            kernels.reduce(topology, own_e, "block", "mean"),
            kernels.pool(own_x, topology.nodes.group),
        )
        messages = kernels.broadcast(self.groups(groups), topology.nodes.group)
        x = x + self.node_out(silu(self.node_in(torch.cat([own_x, node], dim=-1)) + messages))
        messages = kernels.gather(topology, self.blocks(blocks), "block")
        received = self.edge_in(torch.cat([own_e, column, row], dim=-1))
        return x, e + self.edge_out(silu(received + messages))


class SetAttentionNetwork(StateNetwork):
    r"""A neural functional transformer: states by attention among rows and columns.

    .. math:: (x, e)^0 = \mathrm{encode}(\text{networks}), \qquad
        (x, e)^{t+1} = \mathrm{layer}^t((x, e)^t)

    with the :class:`~nngraph.nn.EndEncoder` and the :class:`SetAttentionLayer`.

    Reads networks of any architecture, also in one batch, as far as it was built for them. Its time
    grows as the third power of their width: every column attends to every other one.

    Args:
        channels: C, of neurons and of weights.
        layers, heads, keys, expansion: number of layers, and those of each.
        readout: of the :class:`~nngraph.nn.ReadoutOptions`: ``dropout`` is also the share of
            channels dropped after each layer, and ``max_levels`` holds for the encoder too.

    Source:
        Zhou et al., "Neural Functional Transformers", NeurIPS 2023.
    """

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 16, layers: int = 2,
        heads: int = 2, keys: int = 4, expansion: int = 2, **readout: Any,
    ) -> None:
        read = ReadoutOptions(**readout)
        super().__init__(architecture, num_outputs, channels, channels, read)
        self.encoder = EndEncoder(self.limits, channels, channels, read.max_levels)
        self.layers = nn.ModuleList(
            SetAttentionLayer(channels, heads, keys, expansion) for _ in range(layers)
        )
        self.dropout = FeatureDropout(read.dropout, whole_channels=True)

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        x, e = self.encoder(features)
        for layer in self.layers:
            x, e = self.dropout(*layer(features.topology, x, e))
        return States(features, x, e)
