"""What stands between linear layers: functions, normalisation and dropout that keep the symmetry.

All act on ``(x, edge_attr)`` and commute with relabelling: functions of single entries, or of
statistics of a whole tensor. Statistics are never those of one hidden neuron or entry, which trade
places when neurons are relabelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import Architecture, Topology


class Pointwise(nn.Module):
    """Apply a function, such as ``torch.relu``, to every feature of every neuron and edge.

    Shape:
        x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> the same.
    """

    def __init__(self, function: Callable[[Tensor], Tensor] = nn.functional.silu) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(x), self.function(edge_attr)


class ChannelNorm(nn.Module):
    """Normalise the channels of each neuron and of each edge by themselves, then scale and shift.

    Layer norm with one scale and shift per channel for all neurons, and one for all edges.

    Shape:
        x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nodes = nn.LayerNorm(channels)
        self.edges = nn.LayerNorm(channels)

    def forward(self, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        return self.nodes(x), self.edges(edge_attr)


class TensorNorm(nn.Module):
    r"""Normalise each parameter tensor by the mean and variance of its entries.

    .. math:: \hat A_c = \gamma_{A,c} \frac{A_c - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta_{A,c}

    Two kinds of statistics, both of whole tensors:

    - ``"network"``: of all entries and channels of the tensor in one network;
    - ``"batch"``: per channel of all entries of the tensor in all networks of the batch; in
      evaluation, the running means of training, as batch norm has them.

    Each neuron group counts as one tensor of nodes; neurons without a bias take part with what
    features they have, and leave as 0.

    ``momentum`` is the share of the newest batch in these.

    Shape:
        x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> the same.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        architecture: Architecture,
        channels: int,
        statistics: Literal["network", "batch"] = "network",
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if statistics not in ("network", "batch"):
            raise ValueError(f"statistics is {statistics!r}; expected 'network' or 'batch'.")
        self.topology = Topology.of(architecture)
        self.statistics, self.momentum, self.eps = statistics, momentum, eps
        #: groups first, then blocks
        tensors = len(architecture.groups) + len(architecture.blocks)
        self.weight = nn.Parameter(torch.ones(tensors, channels))
        self.bias = nn.Parameter(torch.zeros(tensors, channels))
        self.register_buffer("running_mean", torch.zeros(tensors, channels))
        self.register_buffer("running_variance", torch.ones(tensors, channels))

    def forward(self, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        topology = self.topology.to(x.device)
        sizes = [len(topology.groups.size), len(topology.blocks.size)]
        scale: Tensor = self.weight
        shift: Tensor = self.bias
        if self.statistics == "batch":
            mean, variance = self._moments(topology, x, edge_attr)
            scale = scale * (variance + self.eps).rsqrt()
            shift = shift - mean * scale
        groups, blocks = zip(*(torch.split(v, sizes) for v in (scale, shift)), strict=True)
        if self.statistics == "network":
            return normalise_tensors(topology, x, edge_attr, groups, blocks, self.eps)
        node_scale, node_shift = (kernels.broadcast(v, topology.nodes.group) for v in groups)
        edge_scale, edge_shift = (kernels.gather(topology, v, "block") for v in blocks)
        x = (x * node_scale + node_shift) * topology.nodes.has_bias.to(x.dtype).unsqueeze(-1)
        return x, edge_attr * edge_scale + edge_shift

    def _moments(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel of each tensor over a batch, ``[tensors, C]``."""
        if not self.training:
            return self.running_mean, self.running_variance
        axes = list(range(x.dim() - 2))

        def average(x: Tensor, edge_attr: Tensor) -> Tensor:
            pooled = (
                kernels.pool(x, topology.nodes.group),
                kernels.reduce(topology, edge_attr, "block", "mean"),
            )
            values = torch.cat(pooled, dim=-2)
            return values.mean(axes) if axes else values

        mean = average(x, edge_attr)
        groups = len(topology.groups.size)
        # Around the mean, not E[A^2] - E[A]^2, which cancels.
        variance = average(
            (x - kernels.broadcast(mean[:groups], topology.nodes.group)).square(),
            (edge_attr - kernels.gather(topology, mean[groups:], "block")).square(),
        )
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_variance.lerp_(variance.to(self.running_variance), self.momentum)
        return mean, variance


def normalise_tensors(
    topology: Topology,
    x: Tensor,
    edge_attr: Tensor,
    groups: tuple[Tensor, Tensor],
    blocks: tuple[Tensor, Tensor],
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Standardise each tensor of each network over its entries and channels; scale and shift.

    Scales and shifts are ``[G, C]`` of each group and ``[K, C]`` of each block. x of neurons
    without a bias takes part, and leaves as 0.
    """
    edge_attr = kernels.normalise_blocks(topology, edge_attr, *blocks, eps)
    mean = kernels.pool(x, topology.nodes.group).mean(-1, keepdim=True)
    apart = x - kernels.broadcast(mean, topology.nodes.group)
    variance = kernels.pool(apart.square(), topology.nodes.group).mean(-1, keepdim=True)
    scale, shift = groups
    x = apart * kernels.broadcast(scale * (variance + eps).rsqrt(), topology.nodes.group)
    x = x + kernels.broadcast(shift, topology.nodes.group)
    return x * topology.nodes.has_bias.to(x.dtype).unsqueeze(-1), edge_attr


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Set entries to 0 with probability p in training and scale the others up, as torch does.

    On a CPU by uniform numbers: torch's own draws there, one Bernoulli variable at a time, took six
    times as long, longer than the products around them.
    """
    if not (training and 0 < p < 1 and x.device.type == "cpu"):
        return nn.functional.dropout(x, p, training)
    # In float32 whatever the dtype: uniform numbers of 8 bits are seldom where they should be.
    kept = torch.rand(x.shape).ge_(p).div_(1 - p)
    return x * kept.to(x.dtype)


class Dropout(nn.Dropout):
    """:func:`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class FeatureDropout(nn.Module):
    """Set features to 0 at random in training and scale the others up; the identity in evaluation.

    Args:
        p: share that is set to 0.
        whole_channels: drop a channel of all neurons and edges of a network together, so that each
            pass is exactly equivariant; else each entry by itself: equivariant in distribution.
            Where edges have another number of channels than neurons, their draw is their own.

    Shape:
        x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> the same. Leading axes are networks, each with
        a draw of its own; a ragged batch has one draw for all of its networks' channels.
    """

    def __init__(self, p: float = 0.1, whole_channels: bool = False) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p is {p!r}; expected a share from 0 to below 1.")
        self.p, self.whole_channels = p, whole_channels

    def forward(self, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        if not self.whole_channels:
            return dropout(x, self.p, self.training), dropout(edge_attr, self.p, self.training)
        if not (self.training and self.p):
            return x, edge_attr
        scale = self._drawn(x)
        same = x.shape[-1] == edge_attr.shape[-1]
        return x * scale, edge_attr * (scale if same else self._drawn(edge_attr))

    def _drawn(self, like: Tensor) -> Tensor:
        """Return the factors of the channels of each network, ``[*, 1, C]``."""
        kept = torch.full((*like.shape[:-2], 1, like.shape[-1]), 1 - self.p, device=like.device)
        return (kept.bernoulli() / (1 - self.p)).to(like.dtype)
