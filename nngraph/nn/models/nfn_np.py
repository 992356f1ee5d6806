"""A metanetwork of equivariant layers whose parameters serve networks of any architecture."""

from __future__ import annotations

import torch
from torch import nn

from nngraph.nn.common.pointwise import FeatureDropout, Pointwise
from nngraph.nn.encoders.network import EndEncoder
from nngraph.nn.features import Architectures, Networks, States
from nngraph.nn.layers.shared import SharedEquivariantLinear, SharedTensorNorm
from nngraph.nn.models.base import StateNetwork
from nngraph.nn.readouts.readout import ReadoutOptions


class SharedEquivariantNetwork(StateNetwork):
    r"""Equivariant layers with inputs and outputs relabelled too: any architectures in one batch.

    .. math::
        (x, e)^0 = \mathrm{encode}(\text{networks}), \qquad
        (x, e)^{t+1} = \mathrm{ReLU}\big(\mathrm{norm}(\Theta^t (x, e)^t + \beta^t)\big)

    with :math:`\Theta` a :class:`~nngraph.nn.SharedEquivariantLinear`, complete for networks of at
    most ``2 * levels`` weights (all :math:`4 L^2 + 10 L - 4` maps), and norms per tensor of each
    network. The layers treat inputs and outputs as relabelled; the
    :class:`~nngraph.nn.EndEncoder` gives their places back as features, by which the functions
    between the layers tell them apart.

    Args:
        channels: C per parameter.
        layers: number of equivariant layers.
        levels: distances from the inputs and outputs that layers tell apart.
        dropout: share of channels dropped after each layer, and of features in the read-out.
        hidden: width of the read-out.
        max_levels: levels that the encoder and the read-out tell apart.

    Source:
        NFN-NP with encoded inputs and outputs (Zhou et al., 2023); kinds of tensors in place of
        tensors are ours.
    """

    def __init__(
        self,
        architecture: Architectures,
        num_outputs: int,
        channels: int = 32,
        layers: int = 3,
        levels: int = 2,
        dropout: float = 0.1,
        hidden: int = 256,
        max_levels: int = 16,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers is {layers}; expected at least 1.")
        readout = ReadoutOptions(hidden, dropout, max_levels)
        super().__init__(architecture, num_outputs, channels, channels, readout)
        self.encoder = EndEncoder(self.limits, channels, channels, max_levels)
        self.linear = nn.ModuleList(
            SharedEquivariantLinear(channels, channels, levels) for _ in range(layers)
        )
        self.norms = nn.ModuleList(SharedTensorNorm(channels, levels) for _ in range(layers))
        # In place: a norm does not need its own result.
        self.activation = Pointwise(torch.relu_)
        self.dropout = FeatureDropout(dropout, whole_channels=True)

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        topology = features.topology
        x, e = self.encoder(features)
        for linear, norm in zip(self.linear, self.norms, strict=True):
            x, e = linear(topology, x, e)
            x, e = self.dropout(*self.activation(*norm(topology, x, e)))
        return States(features, x, e)
