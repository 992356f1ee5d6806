"""Pooling of edges that is not linear, for nonlinear layers: maximum and attention.

The linear layers average, because only sums and means are linear; nothing that the basis says holds
for the poolings here. They commute with relabelling all the same, since they read sets.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph.topology import Topology
from nngraph.nn.shared import SharedEquivariantLinear

__all__ = ["EdgePooling", "SharedPoolingLayer"]


class EdgePooling(nn.Module):
    r"""Pool the edges into or out of each neuron, or of each block.

    - ``"mean"``: the average, linear;
    - ``"max"``: the largest value of each channel;
    - ``"attention"``: :math:`\sum_j a_{ij} e_{ij}` with
      :math:`a_{ij} = \mathrm{softmax}_j(q_h \cdot e_{ij})`, one score per head, each for its share
      of the channels.

    Args:
        channels: C, of the edges.
        op: which of the three.
        heads: of the attention; divides C.

    Shape:
        edge_attr ``[*, E, C]`` -> ``[*, N, C]`` for ``"source"`` and ``"target"``, 0 at neurons
        without such an edge; ``[*, K, C]`` for ``"block"``.
    """

    def __init__(
        self,
        channels: int,
        op: Literal["mean", "max", "attention"] = "mean",
        heads: int = 1,
    ) -> None:
        super().__init__()
        if op not in ("mean", "max", "attention"):
            raise ValueError(f"op is {op!r}; expected 'mean', 'max' or 'attention'.")
        if heads < 1 or channels % heads:
            raise ValueError(f"heads is {heads}; expected a divisor of the {channels} channels.")
        self.op, self.heads = op, heads
        self.score = nn.Linear(channels, heads, bias=False) if op == "attention" else None

    def forward(
        self, topology: Topology, edge_attr: Tensor, to: Literal["source", "target", "block"]
    ) -> Tensor:
        index, size = _rows(topology, to)
        if self.op == "max":
            return _largest(edge_attr, index, size)
        if self.score is not None:
            return self._attend(edge_attr, index, size)
        if to == "block":
            return kernels.pool_blocks(topology, edge_attr)
        return kernels.reduce(topology, edge_attr, to, "mean")

    def _attend(self, e: Tensor, index: Tensor, size: int) -> Tensor:
        assert self.score is not None
        score = self.score(e)
        # Shifting a softmax changes nothing, so the shift has no gradient.
        peak = _largest(score.detach(), index, size)
        weight = (score - peak.index_select(-2, index)).exp()
        values = torch.unflatten(e, -1, (self.heads, -1)) * weight.unsqueeze(-1)
        shape = (*e.shape[:-2], size, e.shape[-1])
        total = e.new_zeros(shape).index_add(-2, index, values.flatten(-2).to(e.dtype))
        norm = e.new_zeros(*shape[:-1], self.heads).index_add(-2, index, weight.to(e.dtype))
        norm = norm.clamp(min=torch.finfo(norm.dtype).tiny).unsqueeze(-1)
        return (torch.unflatten(total, -1, (self.heads, -1)) / norm).flatten(-2)


class SharedPoolingLayer(SharedEquivariantLinear):
    """The shared layer with maxima or attention in place of the means over edges; not linear.

    Args:
        pooling: ``"max"`` or ``"attention"``; ``"mean"`` is the linear layer itself.
        heads: of the attention; divides ``in_channels``.
        in_channels, out_channels, levels, bias, backend: as there.

    Shape:
        on any topology: x ``[*, N, C_in]``, edge_attr ``[*, E, C_in]`` -> the same with C_out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pooling: Literal["mean", "max", "attention"] = "max",
        heads: int = 1,
        levels: int = 2,
        bias: bool = True,
        backend: str = "auto",
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


def _rows(topology: Topology, to: str) -> tuple[Tensor, int]:
    if to == "block":
        return topology.edge_block, len(topology.block_size)
    if to not in ("source", "target"):
        raise ValueError(f"to is {to!r}; expected 'source', 'target' or 'block'.")
    return topology.target if to == "target" else topology.source, topology.num_nodes


def _largest(e: Tensor, index: Tensor, size: int) -> Tensor:
    """Largest value of each channel per row, 0 in rows that nothing reaches."""
    out = e.new_zeros(*e.shape[:-2], size, e.shape[-1])
    at = index.unsqueeze(-1).expand_as(e)
    return out.scatter_reduce(-2, at, e, "amax", include_self=False)
