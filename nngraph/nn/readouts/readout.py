"""Read-outs: from the states of neurons and weights to one answer per network.

A *summary* is a module from states to ``[networks, size]`` that does not change when neurons are
relabelled; a read-out is an MLP on some of them side by side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Topology
from nngraph.nn.common.levels import at_outputs, level_means
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.features import SizeLimits

ReadoutKind = Literal["mean", "attention", "outputs"]


class Summary(nn.Module, ABC):
    """What a read-out keeps of the states of each network: ``size`` numbers.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]`` or ``None`` -> ``[networks, size]``. Where the means of e
        over blocks are known already, ``blocks`` ``[*, K, C_e]``, e is not read.
    """

    size: int

    @abstractmethod
    def forward(
        self, topology: Topology, x: Tensor, e: Tensor | None, blocks: Tensor | None = None
    ) -> Tensor: ...


class LevelMeans(Summary):
    r"""Means over each level's neurons and weights, side by side.

    .. math::
        \mathrm{mean}_{i \in l} x_i, \; \mathrm{mean}_{ij \in l} e_{ij} \qquad (l = 0, 1, \dots)

    Levels deeper than ``levels`` count as the last.
    """

    def __init__(self, levels: int, channels: int, edge_channels: int) -> None:
        super().__init__()
        self.levels, self.size = levels, levels * (channels + edge_channels)

    def forward(
        self, topology: Topology, x: Tensor, e: Tensor | None, blocks: Tensor | None = None
    ) -> Tensor:
        groups = kernels.pool(x, topology.nodes.group)
        parts = [level_means(groups, topology.groups, self.levels)]
        if (blocks := _block_means(topology, e, blocks)) is not None:
            parts.append(level_means(blocks, topology.blocks, self.levels))
        return torch.cat(parts, dim=-1)


class LayerwiseMeans(Summary):
    r"""Mean over all layers of one map of each layer's mean: no parameter depends on the depth.

    .. math::
        \mathrm{mean}_g\, \sigma(A\, \mathrm{mean}_{i \in g} x_i + a), \;
        \mathrm{mean}_k\, \sigma(B\, \mathrm{mean}_{ij \in k} e_{ij} + b)

    with g the groups of neurons and k the blocks of weights of a network, ``hidden`` features each.
    """

    def __init__(self, channels: int, edge_channels: int, hidden: int) -> None:
        super().__init__()
        self.groups = nn.Linear(channels, hidden)
        self.blocks = nn.Linear(edge_channels, hidden) if edge_channels else None
        self.size = hidden * (2 if edge_channels else 1)

    def forward(
        self, topology: Topology, x: Tensor, e: Tensor | None, blocks: Tensor | None = None
    ) -> Tensor:
        layers = nn.functional.silu(self.groups(kernels.pool(x, topology.nodes.group)))
        parts = [kernels.pool(layers, topology.groups.graph)]
        blocks = _block_means(topology, e, blocks)
        if blocks is not None and self.blocks is not None:
            layers = nn.functional.silu(self.blocks(blocks))
            parts.append(kernels.pool(layers, topology.blocks.graph))
        return torch.cat(parts, dim=-1).reshape(-1, self.size)


class Attention(Summary):
    r"""Averages by learned attention, over all neurons and over all weights of a network.

    .. math::
        \sum_i a_i x_i, \quad a_i &= \mathrm{softmax}_i (q_h \cdot x_i) \\
        \sum_k a_k z_k, \quad a_k &= \mathrm{softmax}_k (s_h \cdot z_k), \quad
        z_k = \sum_{ij \in k} a_{ij} e_{ij}, \quad
        a_{ij} = \mathrm{softmax}_{ij \in k} (r_h \cdot e_{ij})

    A weight first attends within its block k, then blocks do. Each of the queries h has an even
    share of the channels, of which they are the greatest common divisor with ``queries``; no
    parameter depends on widths or depth. One pass over neurons and weights.
    """

    def __init__(self, channels: int, edge_channels: int, queries: int = 4) -> None:
        super().__init__()
        if queries < 1:
            raise ValueError(f"queries is {queries}; expected at least 1.")
        self.size = channels + edge_channels

        def query(size: int) -> nn.Linear | None:
            return nn.Linear(size, math.gcd(queries, size), bias=False) if size else None

        self.neurons, self.weights, self.blocks = map(
            query, (channels, edge_channels, edge_channels)
        )

    def forward(
        self, topology: Topology, x: Tensor, e: Tensor | None, blocks: Tensor | None = None
    ) -> Tensor:
        assert self.neurons is not None
        parts = [kernels.attend_members(x, self.neurons(x), topology.nodes.graph)]
        if e is not None and self.weights is not None and self.blocks is not None:
            z = kernels.attend(topology, e, self.weights(e), "block")
            parts.append(kernels.attend_members(z, self.blocks(z), topology.blocks.graph))
        return torch.cat(parts, dim=-1).reshape(-1, self.size)


class OutputStates(Summary):
    """The states of the output neurons side by side; 0 where a network has fewer than ``outputs``.

    Raises:
        ArchitectureError: if a network has more.
    """

    def __init__(self, outputs: int, channels: int) -> None:
        super().__init__()
        self.outputs, self.channels, self.size = outputs, channels, outputs * channels

    def forward(
        self, topology: Topology, x: Tensor, e: Tensor | None, blocks: Tensor | None = None
    ) -> Tensor:
        ends = [(i, kernels.take(x, topology.levels[i].nodes)) for i in topology.output_levels]
        return at_outputs(topology, ends, self.outputs, self.channels, x)


@dataclass(frozen=True)
class ReadoutOptions:
    """What a :class:`Readout` reads of the states.

    Args:
        hidden, dropout: width of the MLP, and dropout in it.
        max_levels: levels that are told apart; deeper ones count as the last.
        readout: one of the three of a :class:`Readout`.
        layerwise: :class:`LayerwiseMeans` in place of :class:`LevelMeans`: for any depth.
        outputs: whether the output neurons are read one by one, whose number is then bounded.
        queries: of the attention.

    Raises:
        ValueError: if the name is unknown, or nothing is left to be read.
    """

    hidden: int = 256
    dropout: float = 0.1
    max_levels: int = 16
    readout: ReadoutKind = "mean"
    layerwise: bool = False
    outputs: bool = True
    queries: int = 4

    def __post_init__(self) -> None:
        check_sizes(max_levels=self.max_levels)
        if self.readout not in get_args(ReadoutKind):
            raise ValueError(
                f"readout is {self.readout!r}; expected one of "
                f"{', '.join(map(repr, get_args(ReadoutKind)))}."
            )
        if self.layerwise and self.readout != "mean":
            raise ValueError(
                f"layerwise=True was given with readout={self.readout!r}, which has no means; "
                "expected 'mean'. No parameter of 'attention' and 'outputs' depends on the depth."
            )
        if self.readout == "outputs" and not self.outputs:
            raise ValueError(
                "readout='outputs' was given with outputs=False, which leaves nothing to read."
            )


class Readout(nn.Module):
    r"""An MLP on summaries of the states of each network.

    ================  =========================================================================
    ``"mean"``        :class:`LevelMeans`, and :class:`OutputStates`
    ``"attention"``   :class:`Attention`, and :class:`OutputStates`
    ``"outputs"``     :class:`OutputStates` alone
    ================  =========================================================================

    Args:
        limits: of the networks to read.
        channels, edge_channels: C and C_e of the states; C_e is 0 where there are none of weights.
        num_outputs: length of the answer.
        options: what is read.
        extra: numbers per network that the caller brings besides.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]`` or ``None`` -> ``[networks, num_outputs]``.

    Raises:
        ArchitectureError: if outputs alone are to be read of networks that have none.
    """

    def __init__(
        self, limits: SizeLimits, channels: int, edge_channels: int, num_outputs: int,
        options: ReadoutOptions | None = None, extra: int = 0,
    ) -> None:
        super().__init__()
        options = options or ReadoutOptions()
        if options.readout == "outputs" and not limits.outputs:
            raise ArchitectureError(
                "readout='outputs' was asked for networks without output neurons; expected "
                "'mean' or 'attention'."
            )
        summaries: list[Summary] = []
        if options.readout == "attention":
            summaries.append(Attention(channels, edge_channels, options.queries))
        elif options.layerwise:
            summaries.append(LayerwiseMeans(channels, edge_channels, options.hidden))
        elif options.readout == "mean":
            levels = min(limits.levels, options.max_levels)
            summaries.append(LevelMeans(levels, channels, edge_channels))
        if options.outputs:
            summaries.append(OutputStates(limits.outputs, channels))
        self.summaries = nn.ModuleList(summaries)
        #: D, of :meth:`pooled`
        self.size = sum(summary.size for summary in summaries) + extra
        widths = [self.size, options.hidden, options.hidden, num_outputs]
        self.mlp = mlp(widths, options.dropout)

    def pooled(
        self,
        topology: Topology,
        x: Tensor,
        e: Tensor | None,
        blocks: Tensor | None = None,
        extra: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return what the MLP reads, ``[networks, D]``: the same for relabelled networks.

        ``blocks`` are means of e over blocks, ``[*, K, C_e]``, where they are known; ``extra`` is
        what the caller brings besides, ``[networks, *]`` each.
        """
        parts = [summary(topology, x, e, blocks) for summary in self.summaries]
        return torch.cat([*parts, *extra], dim=-1)

    def forward(self, topology: Topology, x: Tensor, e: Tensor | None) -> Tensor:
        return self.mlp(self.pooled(topology, x, e))  # type: ignore[no-any-return]


def _block_means(topology: Topology, e: Tensor | None, blocks: Tensor | None) -> Tensor | None:
    if blocks is None and e is not None:
        return kernels.reduce(topology, e, "block", "mean")
    return blocks
