"""Attention over the weights: the relational transformer of neural graphs, on real edges alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.features import Architectures
from nngraph.nn.models.layered import EdgeStep, LayeredNetwork, columns


class RelationalLayer(nn.Module):
    r"""Attention of each neuron to those that it is joined with, modulated by the weights.

    .. math::
        q_{ij} &= Q \hat x_i + Q_e e_{ij}, \qquad k_{ij} = K \hat x_j + K_e e_{ij}, \qquad
        v_{ij} = V \hat x_j \odot V_e e_{ij} + V'_e e_{ij} \\
        a_{ij} &= \mathrm{softmax}_j\big(q_{ij} \cdot k_{ij} / \sqrt{d}\big), \qquad
        x_i \leftarrow x_i + O \big[\textstyle\sum_j a_{ij} v_{ij}, \sum_k a'_{ki} v'_{ki}\big] \\
        x_i &\leftarrow x_i + \mathrm{MLP}(\hat x_i), \qquad
        e_{ij} \leftarrow e_{ij} + \sigma(D \hat e_{ij} + F x_j + G x_i)

    over the edges j -> i that there are, once in their direction and, primed, against it, with maps
    of their own; head by head. Of the size of the edges only scores are stored, one per head:
    queries, keys and values are made in tiles.

    Args:
        heads, head_channels: of the attention of each direction, and d.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]`` -> the same.
    """

    heads: Tensor

    def __init__(
        self, channels: int, edge_channels: int, heads: int, head_channels: int,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(heads=heads, head_channels=head_channels)
        inner = 2 * heads * head_channels  # of both directions
        self.head_channels = head_channels
        # Which channels are those of each head: sums and copies of narrow rows by a product.
        each = torch.eye(2 * heads).repeat_interleave(head_channels, dim=1)
        self.register_buffer("heads", each, persistent=False)
        self.norm, self.middle_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, inner) for _ in range(3))
        # Of the edges: what joins sources and targets in the scores, and V_e, V'_e. Where there is
        # no bias, that of a map of neurons does the same.
        self.at_source, self.at_target, self.shift = (
            nn.Linear(edge_channels, inner, bias=False) for _ in range(3)
        )
        self.scale = nn.Linear(edge_channels, inner)
        self.out = nn.Linear(inner, channels)
        self.middle = mlp([channels, 2 * channels, channels], dropout)
        self.edges = EdgeStep(channels, edge_channels)

    def forward(self, topology: Topology, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        normal = self.norm(x)
        # Along an edge its target asks its source, and the source asks the target.
        (q, q_back), (k, k_back), (v, v_back) = (
            read(normal).chunk(2, dim=-1) for read in (self.query, self.key, self.value)
        )
        (scores,) = kernels.map_edges(
            topology, _scores, e,
            torch.cat([k, q_back], dim=-1), torch.cat([q, k_back], dim=-1),
            [self.heads / self.head_channels**0.5, *columns(self.at_source, self.at_target)],
        )  # fmt: skip
        there, back = scores.chunk(2, dim=-1)
        shares = (
            kernels.softmax(topology, there, "target"), kernels.softmax(topology, back, "source"),
        )  # fmt: skip
        none = torch.zeros_like(v)
        at_target, at_source = kernels.map_edges(
            topology, _values, torch.cat([*shares, e], dim=-1),
            torch.cat([v, none], dim=-1), torch.cat([none, v_back], dim=-1),
            [self.heads, *columns(self.scale, self.shift)], to=("target", "source"),
        )  # fmt: skip
        # Both ends hear the values of both directions: to part them here is cheaper than on edges.
        received = at_target[..., : v.shape[-1]], at_source[..., v.shape[-1] :]
        x = x + self.out(torch.cat(received, dim=-1))
        x = x + self.middle(self.middle_norm(x))
        return x, self.edges(topology, x, e).edges


def _scores(
    e: Tensor, source: Tensor, target: Tensor,
    heads: Tensor, at_source: Tensor, at_target: Tensor,
) -> tuple[Tensor]:  # fmt: skip
    """Scores of each head of both directions."""
    return (((source + e @ at_source) * (target + e @ at_target)) @ heads.mT,)


def _values(
    e: Tensor, source: Tensor, target: Tensor,
    heads: Tensor, scale: Tensor, bias: Tensor, shift: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Values of both directions times the shares of their heads, which stand before e."""
    shares, e = e[..., : len(heads)], e[..., len(heads) :]
    values = (source + target) * (e @ scale + bias) + e @ shift
    values = values * (shares @ heads)
    return values, values


class RelationalNetwork(LayeredNetwork):
    r"""NG-T: a transformer whose attention follows the weights of the networks.

    ``layers`` of :class:`RelationalLayer` on the first states of an encoder, and a read-out.

    Where it differs from the released code: attention is over the edges that there are, in O(E)
    time, and not over all pairs of neurons; a weight has one state, which the attention of both
    directions reads; norms stand before the maps.

    Args:
        channels, edge_channels, layers: sizes of the states, and number of layers.
        heads, head_channels: of the attention of each direction.
        dropout, common: in the layers and the read-out; and further options of a
            :class:`~nngraph.nn.LayeredNetwork`.

    Source:
        Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of Neural
        Networks", ICLR 2024, after Diao and Loynd, "Relational Attention", ICLR 2023.
    """

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 64,
        edge_channels: int = 8, heads: int = 4, head_channels: int = 4, layers: int = 3,
        dropout: float = 0.1, **common: Any,
    ) -> None:
        made = [
            RelationalLayer(channels, edge_channels, heads, head_channels, dropout)
            for _ in range(layers)
        ]
        super().__init__(
            architecture, num_outputs, channels, edge_channels, made, dropout=dropout, **common
        )
