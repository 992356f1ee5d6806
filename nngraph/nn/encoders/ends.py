"""First states in which every weight knows the neurons at its ends."""

from __future__ import annotations

from torch import Tensor, nn

from nngraph import kernels
from nngraph.nn.common.extent import Extent
from nngraph.nn.encoders.network import NetworkEncoder
from nngraph.nn.features import Features

__all__ = ["EndEncoder"]


class EndEncoder(nn.Module):
    r"""A :class:`~nngraph.nn.NetworkEncoder` whose weights hear of the neurons that they join.

    .. math:: e_{ij} \leftarrow e_{ij} + A x_j + B x_i

    The place of an input or output is then known at the weights that touch it, also to layers that
    do not read neurons without a bias, or treat inputs and outputs as relabelled.

    Args:
        extent, channels, edge_channels, max_levels: as there; both kinds of states are wanted.

    Shape:
        features of any batch -> x ``[*, N, C]``, e ``[*, E, C_e]``.
    """

    def __init__(
        self, extent: Extent, channels: int, edge_channels: int, max_levels: int = 16
    ) -> None:
        super().__init__()
        self.encoder = NetworkEncoder(extent, channels, edge_channels, max_levels)
        self.source = nn.Linear(channels, edge_channels, bias=False)
        self.target = nn.Linear(channels, edge_channels, bias=False)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        x, e = self.encoder(features)
        return x, kernels.edge_affine(features.topology, e, self.source(x), self.target(x))
