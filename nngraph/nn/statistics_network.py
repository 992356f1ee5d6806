"""The baseline of statistics: an MLP on means, variances and quantiles of each tensor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nngraph.graph import Architecture
from nngraph.nn.features import Networks
from nngraph.nn.metanetwork import Column, Metanetwork, mlp
from nngraph.nn.network_statistics import NetworkStatistics

__all__ = ["StatisticsNetwork"]


class StatisticsNetwork(Metanetwork):
    r"""An MLP on the statistics of each tensor: invariant, and blind to how neurons are joined.

    .. math:: \mathrm{MLP}\big((s(\theta) - \mu) / \sigma\big)

    with the :class:`~nngraph.nn.network_statistics.NetworkStatistics` s of all tensors.

    The baseline of accuracy prediction. Reads networks of any architecture, also mixed.

    Args:
        hidden: width of the MLP.
        dropout: in it.

    Shape:
        networks -> ``[networks, num_outputs]``.

    Source:
        StatNN of Unterthiner et al., "Predicting Neural Network Accuracy from Weights", 2020.
    """

    chains_only = False

    def __init__(
        self,
        architecture: Architecture | Sequence[Architecture],
        num_outputs: int,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(architecture, num_outputs)
        several = [architecture] if isinstance(architecture, Architecture) else architecture
        self.statistics = NetworkStatistics(several)
        self.readout = mlp([self.statistics.width, hidden, hidden, num_outputs], dropout)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "generic weights-only"

    def forward(self, networks: Networks) -> Tensor:
        return self.readout(self.statistics(self.read(networks)))  # type: ignore[no-any-return]
