"""A metanetwork of complete equivariant layers: what the basis gives, with functions in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph.architecture import Architecture
from nngraph.nn.equivariant import EquivariantLinear
from nngraph.nn.features import Networks
from nngraph.nn.invariant import InvariantLinear
from nngraph.nn.metanetwork import Column, Metanetwork
from nngraph.nn.pointwise import FeatureDropout, Pointwise, TensorNorm
from nngraph.nn.scales import TensorScales, fan_in
from nngraph.nn.terms import PermuteIO

__all__ = ["EquivariantNetwork"]


class EquivariantNetwork(Metanetwork):
    """Equivariant linear layers, normalisation per tensor, ReLU, dropout; an invariant head.

    For networks of one architecture. Every linear map that respects relabelling is within each
    layer's reach, so nothing about networks is built in but the symmetry.

    Args:
        channels: C per parameter.
        layers: number of equivariant layers.
        permute_io: as in :class:`~nngraph.nn.equivariant.EquivariantLinear`.
        dropout: share of features dropped after each layer.

    Shape:
        networks -> ``[networks, num_outputs]``.

    Source:
        the architecture of DWSNets (Navon et al., 2023), on complete layers.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_outputs: int,
        channels: int = 32,
        layers: int = 3,
        permute_io: PermuteIO = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(architecture, num_outputs)
        if layers < 1:
            raise ValueError(f"layers is {layers}; expected at least 1.")
        self.scales = TensorScales(self.extent)
        self.linear = nn.ModuleList(
            EquivariantLinear(architecture, channels if i else 1, channels, permute_io)
            for i in range(layers)
        )
        self.norms = nn.ModuleList(TensorNorm(architecture, channels) for _ in range(layers))
        self.activation = Pointwise(torch.relu)
        self.dropout = FeatureDropout(dropout)
        self.head = InvariantLinear(architecture, channels, num_outputs, permute_io)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "generic weights-only"

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        topology = features.topology
        own = _tensors(self.architecture)
        if other := [a for a in dict.fromkeys(topology.architectures) if _tensors(a) != own]:
            raise ArchitectureError(
                f"EquivariantNetwork was built for {self.architecture} and reads no other; got "
                f"{other[0]}. SharedEquivariantLinear serves networks of any widths."
            )
        weight, bias = self.scales(features)
        # Entries in units of their tensor, whatever the fan-in.
        x, edge_attr = bias, weight.unsqueeze(-1) * fan_in(topology, weight.dtype)
        for linear, norm in zip(self.linear, self.norms, strict=True):
            x, edge_attr = self.dropout(*self.activation(*norm(*linear(x, edge_attr))))
        answers: Tensor = self.head(x, edge_attr)
        return answers.reshape(-1, self.num_outputs)


def _tensors(architecture: Architecture) -> list[object]:
    """Return all that the layers are made for, without names and activations."""
    return [(p.shape, p.axes, p.column) for p in architecture.parameters]
