"""A metanetwork of equivariant layers whose parameters serve networks of any architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nngraph.nn.common.pointwise import FeatureDropout, Pointwise
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.encoders.network import EndEncoder
from nngraph.nn.features import Architectures, Networks, States
from nngraph.nn.layers.kinds import TensorKinds
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
    network. Parameters belong to the kinds of tensors, and pairs of them, of the architectures that
    it is built for; those of others count as the nearest. The layers treat inputs and outputs as
    relabelled; the :class:`~nngraph.nn.EndEncoder` gives their places back as features, by which
    the functions between the layers tell them apart.

    Args:
        channels: C per bias, and of what is known of whole tensors.
        edge_channels: C_e per weight; C by default, as published. Products of weights are nearly
            all of the work, those of tensors nearly all of the parameters.
        layers: number of equivariant layers.
        levels: distances from the inputs and outputs that layers tell apart.
        readout: of the :class:`~nngraph.nn.ReadoutOptions`: ``dropout`` is also the share of
            channels dropped after each layer, and ``max_levels`` holds for the encoder too.

    Source:
        NFN-NP with encoded inputs and outputs (Zhou et al., 2023); kinds of tensors are ours.
    """

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 32, layers: int = 3,
        levels: int = 2, edge_channels: int | None = None, **readout: Any,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers is {layers}; expected at least 1.")
        read = ReadoutOptions(**readout)
        own = channels if edge_channels is None else edge_channels
        check_sizes(edge_channels=own)
        super().__init__(architecture, num_outputs, channels, own, read)
        first = min(channels, 2 * _ENOUGH), min(own, _ENOUGH)
        self.encoder = EndEncoder(self.limits, *first, read.max_levels)
        kinds = TensorKinds.of(self.architectures, levels)
        sizes = [first, *[(channels, own)] * layers]
        self.linear = nn.ModuleList(
            SharedEquivariantLinear(x, channels, kinds=kinds, edge_channels=(e, own))
            for x, e in sizes[:-1]
        )
        self.norms = nn.ModuleList(
            SharedTensorNorm(channels, kinds=kinds, edge_channels=own) for _ in range(layers)
        )
        # In place: a norm does not need its own result.
        self.activation = Pointwise(torch.relu_)
        self.dropout = FeatureDropout(read.dropout, whole_channels=True)

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        topology = features.topology
        x, e = self.encoder(features)
        for linear, norm in zip(self.linear, self.norms, strict=True):
            x, e = linear(topology, x, e)
            x, e = self.dropout(*self.activation(*norm(topology, x, e)))
        return States(features, x, e)


#: Channels of a weight: there is no more than this to encode of a parameter and its place.
_ENOUGH = 64
