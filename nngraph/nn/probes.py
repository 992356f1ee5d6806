"""Probe features: the responses of the networks that are read to learned inputs, neuron by neuron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Architecture
from nngraph.nn.features import Features, Networks, input_features
from nngraph.nn.metanetwork import Column, Metanetwork, at_inputs, at_outputs, mlp

__all__ = ["ProbeNetwork", "Probes"]


class Probes(nn.Module):
    r"""Run the networks at P learned inputs: the response of every neuron to each of them.

    .. math:: h_i(p) = a_{g(i)}\Big(b_i + \sum_{j \to i} w_{ij} h_j(p)\Big), \qquad h_{\text{input}}(p) = u_p

    A message pass with the raw weights, one channel per probe; mixed batches run side by side.

    Args:
        architecture: gives the number of inputs d_0.
        count: P.
        spread: the probes start uniform in ``[-spread, spread]^{d_0}``.

    Shape:
        features of any batch -> ``[*, N, P]``.
    """

    def __init__(self, architecture: Architecture, count: int, spread: float = 0.9) -> None:
        super().__init__()
        self.points = nn.Parameter(
            torch.empty(architecture.widths[0], count).uniform_(-spread, spread)
        )

    def forward(self, features: Features) -> Tensor:
        topology = features.topology
        state = at_inputs(topology, self.points, features.x.shape[:-2])
        responses = state
        for level, nodes, kinds in zip(
            topology.levels, topology.level_nodes[1:], topology.level_activations[1:], strict=True
        ):
            sums = kernels.propagate(topology, features.weight, state, buckets=level)
            values = kernels.take(sums, nodes) + kernels.take(features.bias, nodes)
            for activation, rows in kinds:
                if rows is None:
                    values = activation(values)
                else:
                    values = values.index_copy(
                        -2, rows, activation(values.index_select(-2, rows))
                    )
            state = kernels.place(topology, values, nodes)
            responses = responses + state
        return responses


class ProbeNetwork(Metanetwork):
    r"""A plain network on the answers of the networks at learned inputs; it reads no weights.

    .. math:: \mathrm{MLP}ig((f_	heta(u_1), \dots, f_	heta(u_P) - \mu) / \sigmaig)

    The baseline that any model with probes has to beat. Invariant to everything that leaves the
    function of a network unchanged. Reads chains of any width, depth and activation.

    Args:
        probes: number P of learned inputs.
        hidden: width of the MLP.
        dropout: in the MLP.

    Shape:
        networks -> ``[networks, num_outputs]``.

    Source:
        the construction of ProbeGen's baseline, learned probes (Kahana et al., 2025).
    """

    reads_signs = False
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        architecture: Architecture,
        num_outputs: int,
        probes: int = 196,
        hidden: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(architecture, num_outputs)
        self.probes = Probes(architecture, probes)
        self.outputs = architecture.widths[-1]
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.readout = mlp([probes * self.outputs, hidden, hidden, num_outputs], dropout)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "with probes"

    @torch.no_grad()
    def fit_statistics(self, networks: Networks) -> None:
        """Set mean and deviation of the answers at the first probes; call once, before training."""
        answers = self._answers(networks)
        self.mean.copy_(answers.mean())
        self.deviation.copy_(answers.std().clamp(min=1e-12))

    def _answers(self, networks: Networks) -> Tensor:
        features = input_features(networks)
        topology = features.topology
        answers = kernels.take(self.probes(features), topology.output_nodes)
        return at_outputs(topology, [(topology.output_nodes, answers)], self.outputs)

    def forward(self, networks: Networks) -> Tensor:
        answers: Tensor = self.readout((self._answers(networks) - self.mean) / self.deviation)
        return answers
