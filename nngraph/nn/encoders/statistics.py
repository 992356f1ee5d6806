"""Statistics of parameters as features: of whole tensors, and of the weights at each neuron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Topology

__all__ = ["SHARES", "ParameterStatistics", "edge_statistics", "group_statistics"]

#: Quantiles that are taken: the extremes, the quartiles and the median.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Mean, standard deviation and the quantiles.
_COUNT = 2 + len(SHARES)


class ParameterStatistics(nn.Module):
    r"""Linear maps of the mean, standard deviation and quartiles of sets of parameters.

    .. math::
        x_i &= S^- s(w_{i \cdot}) + S^+ s(w_{\cdot i}) + S^0 s(b_{g(i)}) \\
        e_k &= S s(w_k)

    with s of the weights into and out of neuron i, of the columns of its group g(i), and of the
    weights of block k; each tap and each column by itself. Those of one neuron are features of it
    and move with it.

    Args:
        taps, columns: of the networks.
        channels, edge_channels: C and C_e; without edge channels there is no e.

    Shape:
        weights ``[*, E, taps]``, columns ``[*, N, F]`` -> x ``[*, N, C]``, and of the blocks
        ``[*, K, C_e]`` or ``None``.
    """

    def __init__(self, taps: int, columns: int, channels: int, edge_channels: int) -> None:
        super().__init__()

        def linear(size: int, out: int) -> nn.Linear:
            return nn.Linear(_COUNT * size, out, bias=False)

        self.incoming, self.outgoing = linear(taps, channels), linear(taps, channels)
        self.groups = linear(columns, channels)
        self.blocks = linear(taps, edge_channels) if edge_channels else None

    def nodes(self, topology: Topology, weights: Tensor, columns: Tensor) -> Tensor:
        """Return x."""
        own: Tensor = self.groups(group_statistics(topology, columns))
        incoming: Tensor = self.incoming(edge_statistics(topology, weights, "target"))
        outgoing: Tensor = self.outgoing(edge_statistics(topology, weights, "source"))
        return incoming + outgoing + kernels.spread_groups(topology, own)

    def edges(self, topology: Topology, weights: Tensor) -> Tensor:
        """Return e of each block."""
        assert self.blocks is not None
        return self.blocks(edge_statistics(topology, weights, "block"))  # type: ignore[no-any-return]


def edge_statistics(topology: Topology, e: Tensor, side: kernels.Side) -> Tensor:
    """Return mean, deviation and quartiles of edges: ``[*, E, C] -> [*, N, 7 C]``, or of blocks."""
    moments = [kernels.reduce(topology, e, side, op) for op in ("mean", "std")]
    return torch.cat([*moments, kernels.quantiles(topology, e, side, SHARES).flatten(-2)], dim=-1)


def group_statistics(topology: Topology, x: Tensor) -> Tensor:
    """Return mean, deviation and quartiles of each group: ``[*, N, C] -> [*, G, 7 C]``."""
    mean = kernels.pool_groups(topology, x)
    variance = kernels.pool_groups(topology, (x - kernels.spread_groups(topology, mean)).square())
    varies = variance > 0
    # Its slope is 0 where nothing varies.
    deviation = variance.where(varies, torch.ones_like(variance)).sqrt() * varies
    quantiles = kernels.quantiles_of_groups(topology, x, SHARES).flatten(-2)
    return torch.cat([mean, deviation, quantiles], dim=-1)
