"""Pooling for nonlinear layers: mean and sum, maximum, attention, nodes for whole tensors.

The linear layers average, because only sums and means are linear; nothing that the basis says holds
for the others here. They commute with relabelling all the same, since they read sets.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.layers.shared import SharedEquivariantLinear

PoolingKind = Literal["mean", "sum", "max", "attention"]


class EdgePooling(nn.Module):
    r"""Pool the edges into or out of each neuron, or of each block.

    - ``"mean"``: the average, linear; as large on wide networks as on narrow ones;
    - ``"sum"``: linear, and counts the edges;
    - ``"max"``: the largest value of each channel;
    - ``"attention"``: :math:`\sum_j a_{ij} e_{ij}` with
      :math:`a_{ij} = \mathrm{softmax}_j(q_h \cdot e_{ij})`, one score per head, each for its share
      of the channels.

    Args:
        channels: C, of the edges.
        op: which of the four.
        heads: of the attention; divides C.

    Shape:
        edge_attr ``[*, E, C]`` -> ``[*, N, C]`` for ``"source"`` and ``"target"``, 0 at neurons
        without such an edge; ``[*, K, C]`` for ``"block"``.
    """

    def __init__(self, channels: int, op: PoolingKind = "mean", heads: int = 1) -> None:
        super().__init__()
        if op not in get_args(PoolingKind):
            raise ValueError(f"op is {op!r}; expected 'mean', 'sum', 'max' or 'attention'.")
        if heads < 1 or channels % heads:
            raise ValueError(f"heads is {heads}; expected a divisor of the {channels} channels.")
        self.op, self.heads = op, heads
        self.score = nn.Linear(channels, heads, bias=False) if op == "attention" else None

    def forward(self, topology: Topology, edge_attr: Tensor, to: kernels.Side) -> Tensor:
        if self.score is not None:
            return kernels.attend(topology, edge_attr, self.score(edge_attr), to)
        return kernels.reduce(topology, edge_attr, to, cast(kernels.Reduction, self.op))


class SharedPoolingLayer(SharedEquivariantLinear):
    """The shared layer with maxima or attention in place of the means over edges; not linear.

    Args:
        pooling, heads: of the :class:`EdgePooling`; ``"mean"`` is the linear layer itself.
        levels, bias, backend: as there.
    """

    def __init__(
        self, in_channels: int, out_channels: int,
        pooling: Literal["mean", "max", "attention"] = "max", heads: int = 1, levels: int = 2,
        bias: bool = True, backend: str = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, levels, bias, backend)
        self.incoming, self.outgoing, self.within = (
            EdgePooling(in_channels, pooling, heads) for _ in range(3)
        )

    def _pool_edges(self, topology: Topology, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.incoming(topology, e, "target"),
            self.outgoing(topology, e, "source"),
            self.within(topology, e, "block"),
        )


class TensorNodes(nn.Module):
    r"""One node for every weight tensor and neuron group, which hears of all others of its network.

    .. math::
        z_k &= \sigma(P\, \mathrm{mean}_{ij \in k}\, e_{ij} + p) \quad\text{or}\quad
        z_k = \sigma(Q\, \mathrm{mean}_{i \in k}\, x_i + q) \\
        u_k &= D z_k + G\, \mathrm{mean}_{k'} z_{k'} + d

    with k a block or a group and k' running over both. The maps are shared and the last mean is
    over the tensors of a network, so that widths and depth are free.

    Args:
        channels, edge_channels: C, C_e; without edge channels groups alone have a node.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]`` -> u of groups ``[*, G, C]``, of blocks ``[*, K, C]``.
    """

    def __init__(self, channels: int, edge_channels: int) -> None:
        super().__init__()
        self.groups = nn.Linear(channels, channels)
        self.blocks = nn.Linear(edge_channels, channels) if edge_channels else None
        self.update = nn.Linear(2 * channels, channels)

    def forward(self, topology: Topology, x: Tensor, e: Tensor | None) -> tuple[Tensor, Tensor]:
        z, graph = self.groups(kernels.pool(x, topology.nodes.group)), topology.groups.graph
        if e is not None and self.blocks is not None:
            z = torch.cat([z, self.blocks(kernels.reduce(topology, e, "block", "mean"))], dim=-2)
            graph = graph.joined(topology.blocks.graph)
        z = nn.functional.silu(z)
        summary = kernels.broadcast(kernels.pool(z, graph), graph)
        u = self.update(torch.cat([z, summary], dim=-1))
        groups = len(topology.groups.size)
        return u[..., :groups, :], u[..., groups:, :]
