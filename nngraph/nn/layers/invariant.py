"""The complete affine map from weights to vectors that no relabelling changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nngraph.graph import Architecture
from nngraph.kernels import PermuteIO, Terms, pool_globally
from nngraph.nn.layers.equivariant import stacked_features


class InvariantLinear(nn.Module):
    r"""The general affine function of parameters that relabelling neurons leaves unchanged.

    .. math:: y = \Theta \big[\mathrm{mean}_{\text{permuted axes}} A\big]_A + \beta

    Each tensor is averaged over its permuted axes and keeps its free ones: S numbers per channel,
    and one weight for each. Reads every edge once.

    Args:
        architecture: of the networks.
        in_channels: C_in per parameter.
        out_features: length of the answer.
        permute_io: as in :class:`~nngraph.nn.layers.equivariant.EquivariantLinear`.
        bias: whether there is a constant.

    Shape:
        x ``[*, N, C_in]``, edge_attr ``[*, E, C_in]`` -> ``[*, out_features]``; flat features of a
        PyG batch of B networks -> ``[B, out_features]``.

    Raises:
        ArchitectureError: if groups share a neuron space.
        InvalidGraphError: if features do not fit the architecture.
    """

    def __init__(
        self,
        architecture: Architecture,
        in_channels: int,
        out_features: int,
        permute_io: PermuteIO = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.terms = Terms.of(architecture, permute_io)
        self.in_channels, self.out_features = in_channels, out_features
        self.weight = nn.Parameter(torch.empty(out_features, self.terms.num_slots * in_channels))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw normal weights of variance one over the number of pooled inputs; constants 0."""
        self.weight.normal_(0, 1 / math.sqrt(max(self.weight.shape[1], 1)))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor, edge_attr: Tensor) -> Tensor:
        nodes, edges = stacked_features(self.architecture, x, edge_attr, self.in_channels)
        pooled = pool_globally(self.terms, nodes, edges)
        out = nn.functional.linear(pooled, self.weight, self.bias)
        is_flat = x.shape[-2] != self.architecture.num_nodes
        lead = (*x.shape[:-2], -1) if is_flat else x.shape[:-2]
        return out.reshape(*lead, self.out_features)

    def extra_repr(self) -> str:
        return (
            f"{self.architecture}, in_channels={self.in_channels}, "
            f"out_features={self.out_features}, permute_io={self.terms.permute_io!r}"
        )
