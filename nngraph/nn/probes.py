"""Probe features: how the networks that are read respond to learned inputs, neuron by neuron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.graph.topology import Topology
from nngraph.nn.features import Features, Networks
from nngraph.nn.levels import at_inputs, at_outputs
from nngraph.nn.metanetwork import Column, Metanetwork, mlp

__all__ = ["ProbeNetwork", "Probes"]


class Probes(nn.Module):
    r"""Run the networks at P learned inputs: the response of every neuron to each of them.

    .. math::
        h_i(p) = a_{g(i)}\Big(b_i + \sum_{j \to i} w_{ij} h_j(p)\Big), \qquad
        h_{\text{input}}(p) = u_p

    A message pass with the raw weights, one channel per probe; mixed batches run side by side.

    Args:
        architecture: gives the number of inputs d_0.
        count: P.
        spread: the probes start uniform in ``[-spread, spread]^{d_0}``.

    Shape:
        features of any batch -> per level the responses ``[*, n_l, P]`` of its neurons.
    """

    def __init__(self, architecture: Architecture, count: int, spread: float = 0.9) -> None:
        super().__init__()
        self.points = nn.Parameter(
            torch.empty(architecture.widths[0], count).uniform_(-spread, spread)
        )

    def forward(self, features: Features) -> list[Tensor]:
        topology = features.topology
        lead = features.x.shape[:-2]
        state = at_inputs(topology, self.points).expand(*lead, -1, -1)
        levels = [state]
        for level in range(1, len(topology.level_nodes)):
            values = kernels.propagate_level(topology, level, features.weight, state)
            values = values + kernels.take(features.bias, topology.level_nodes[level])
            for activation, rows in topology.level_activations[level]:
                if rows is None:
                    values = activation(values)
                else:
                    values = values.index_copy(
                        -2, rows, activation(values.index_select(-2, rows))
                    )
            state = values
            levels.append(state)
        return levels

    @staticmethod
    def at_outputs(topology: Topology, responses: list[Tensor], size: int) -> Tensor:
        """Return the responses of the output neurons, ``[networks, size * P]``."""
        return at_outputs(topology, [(i, responses[i]) for i in topology.output_rows], size)


class ProbeNetwork(Metanetwork):
    r"""A plain network on the answers of the networks at learned inputs; it reads no weights.

    .. math:: \mathrm{MLP}\big((f_\theta(u_1), \dots, f_\theta(u_P) - \mu) / \sigma\big)

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
    many = False
    symmetry = "all: reads functions alone"
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
        # In parts: the responses of all neurons of many networks at once are gigabytes.
        parts = [networks]
        if isinstance(networks, NeuralGraphStack):
            parts = [networks[i : i + 256] for i in range(0, len(networks), 256)]
        answers = torch.cat([self._answers(part) for part in parts])
        self.mean.copy_(answers.mean())
        self.deviation.copy_(answers.std().clamp(min=1e-12))

    def _answers(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        topology = features.topology
        return self.probes.at_outputs(topology, self.probes(features), self.outputs)

    def forward(self, networks: Networks) -> Tensor:
        answers: Tensor = self.readout((self._answers(networks) - self.mean) / self.deviation)
        return answers
