"""The baseline of statistics: an MLP on means, variances and quantiles of each tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nngraph.nn.common.mlp import mlp
from nngraph.nn.encoders.statistics import NetworkStatistics
from nngraph.nn.features import Architectures, Networks
from nngraph.nn.models.base import Metanetwork, Traits
from nngraph.nn.probes.probes import StandardAnswers
from nngraph.nn.probes.running import Runner


class StatisticsNetwork(Metanetwork):
    r"""An MLP on the statistics of each tensor: invariant, and blind to how neurons are joined.

    .. math:: \mathrm{MLP}\big((s(\theta) - \mu) / \sigma\big)

    with the :class:`~nngraph.nn.encoders.statistics.NetworkStatistics` s of all tensors.

    The baseline of accuracy prediction, for networks of any architectures. With ``probes`` it is
    told their :class:`~nngraph.nn.probes.probes.StandardAnswers` besides.

    Args:
        hidden, dropout: width of the MLP, and dropout in it.
        probes: number of learned inputs at which the networks are run; 0 reads weights only.
        runner, generator: of the :class:`~nngraph.nn.Probes`.

    Source:
        StatNN of Unterthiner et al., "Predicting Neural Network Accuracy from Weights", 2020.
    """

    traits = Traits(takes_runner=True)

    def __init__(
        self, architecture: Architectures, num_outputs: int, hidden: int = 256,
        dropout: float = 0.1, probes: int = 0, runner: Runner | None = None,
        generator: bool = False,
    ) -> None:
        super().__init__(architecture, num_outputs)
        if generator and not probes:
            raise ValueError("generator=True makes probes; probes, their number, is missing.")
        self.statistics = NetworkStatistics(self.architectures)
        outputs = self.limits.outputs
        run: dict[str, Any] = {"runner": runner, "generator": generator, "size": outputs}
        self.probes = StandardAnswers(architecture, probes, **run) if probes else None
        read = self.statistics.width + probes * outputs
        self.traits = self.traits.changed(probes)
        self.readout = mlp([read, hidden, hidden, num_outputs], dropout)

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        read = [self.statistics(features)]
        if self.probes is not None:
            read.append(self.probes.answers(features))
        return self.readout(torch.cat(read, dim=-1))  # type: ignore[no-any-return]
