"""Encoders: from the weights and biases of networks to the first states of neurons and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.graph import BLOCK_KINDS, Topology
from nngraph.nn.common.levels import join_levels
from nngraph.nn.common.scales import TensorScales, fan_in
from nngraph.nn.encoders.ordered_pass import OrderedPass, node_entries
from nngraph.nn.encoders.positions import (
    ActivationFeatures,
    ColumnFeatures,
    HiddenPositions,
    InputPositions,
    KernelSizes,
    Lookup,
    OutputPositions,
    PositionKind,
    make_rows,
)
from nngraph.nn.encoders.statistics import ParameterStatistics
from nngraph.nn.features import Features, SizeLimits


@dataclass(frozen=True)
class EncoderOptions:
    """What the first states hold besides scaled parameters.

    Args:
        positions: p of input and output neurons: learned, ``"sinusoidal"`` to serve networks of
            more inputs and outputs than those it is built for, or none.
        levels: p and q of the layer as counted from the inputs, from the outputs, from both, so
            that the last layers of deeper networks are known as such, or none.
        activations: p of the activation.
        kinds: which parameters a neuron has (a bias, a running mean, ...), and what the tensor of a
            weight is: dense, a kernel, grouped, the scale of a norm, a residual.
        kernel_sizes: q of the sizes of the kernel.
        statistics: adds :class:`~nngraph.nn.encoders.statistics.ParameterStatistics`.
        frequencies: number of :class:`FourierFeatures` beside the scaled parameters.
        bandwidth, seed: of these.
        ordered: whether neurons start from an :class:`~nngraph.nn.OrderedPass`.
        messages: channels of its messages.
        unit_weights: whether e starts from weights in units of their tensor, or from those that are
            the matrices of a pass, smaller by the root of the fan-in.
        fan_in: as of :class:`~nngraph.nn.TensorScales`: networks of other widths look alike.
        break_symmetry: adds positions of hidden neurons, which is **not equivariant**;
            ``breaks_symmetry`` of the encoder switches them off again.

    """

    positions: PositionKind | Literal["none"] = "learned"
    levels: Literal["inputs", "outputs", "both", "none"] = "inputs"
    activations: bool = True
    kinds: bool = False
    kernel_sizes: bool = False
    statistics: bool = False
    frequencies: int = 0
    bandwidth: float = 1.0
    seed: int = 0
    ordered: bool = False
    messages: int = 64
    unit_weights: bool = True
    fan_in: bool = False
    break_symmetry: bool = False

    def __post_init__(self) -> None:
        if self.levels not in ("inputs", "outputs", "both", "none"):
            raise ValueError(
                f"levels is {self.levels!r}; expected 'inputs', 'outputs', 'both' or 'none'."
            )


class NetworkEncoder(nn.Module):
    r"""First states of neurons and weights: their scaled parameters, and where they stand.

    .. math::
        x_i &= X [\hat b_i, \text{has bias}] + p_{\text{input } i} + p_{\text{output } i}
            + p_{\text{level}} + p_{\text{activation}} \\
        e_{ij} &= E \hat w_{ij} + q_{\text{level}}

    with parameters in units of their tensor's root mean square over the training set. Positions of
    hidden neurons say nothing and are not read, so that the states commute with relabelling. Every
    term p and q can be left out, and others added.

    Args:
        channels, edge_channels: C and C_e; without edge channels there are no states of weights.
        max_levels: levels that are told apart; deeper ones count as the last.
        options: what else the states hold.

    Shape:
        features of any batch -> x ``[*, N, C]``, e ``[*, E, C_e]`` or ``None``.

    Raises:
        ArchitectureError: if a network has more inputs, outputs, taps or columns than it reads.
    """

    def __init__(
        self,
        limits: SizeLimits,
        channels: int,
        edge_channels: int,
        max_levels: int = 16,
        options: EncoderOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or EncoderOptions()
        taps, columns = limits.taps, limits.columns
        depth, waves = min(limits.levels, max_levels), 2 * options.frequencies
        tables = [table for end, table in _LEVELS.items() if options.levels in (end, "both")]
        positions = options.positions
        self.channels, self.unit_weights = channels, options.unit_weights
        self.scales = TensorScales(limits, options.fan_in)
        self.ordered = None
        if options.ordered:
            kind: PositionKind = "learned" if positions == "none" else positions
            self.ordered = OrderedPass(limits, channels, options.messages, max_levels, kind)
        # An ordered pass over MLPs has read all that their neurons have.
        reads_own = not (options.ordered and limits.chains) or options.frequencies > 0
        self.own = nn.Linear(2 * columns + waves, channels) if reads_own else None
        self.positions = nn.ModuleDict()
        if positions != "none":
            inputs = make_rows(positions, limits.inputs, channels)
            self.positions["inputs"] = InputPositions(inputs)
            outputs = make_rows(positions, limits.outputs, channels)
            self.positions["outputs"] = OutputPositions(outputs)
        for name, of_neuron, _ in tables:
            self.positions[name] = Lookup(depth, channels, of_neuron)
        if options.activations:
            self.positions["activations"] = ActivationFeatures(channels)
        if options.kinds:
            self.positions["columns"] = ColumnFeatures(channels)
        if options.break_symmetry:
            self.positions["hidden"] = HiddenPositions(channels)
        self.edge = nn.Linear(taps + waves, edge_channels) if edge_channels else None
        self.block_positions = nn.ModuleDict()
        for name, _, of_block in tables if edge_channels else ():
            self.block_positions[name] = Lookup(depth, edge_channels, of_block)
        if edge_channels and options.kinds:
            kinds = Lookup(len(BLOCK_KINDS), edge_channels, lambda graph: graph.blocks.kind)
            self.block_positions["kinds"] = kinds
        if edge_channels and options.kernel_sizes:
            self.block_positions["kernel_sizes"] = KernelSizes(edge_channels)
        self.statistics = None
        if options.statistics:
            self.statistics = ParameterStatistics(taps, columns, channels, edge_channels)
        self.node_waves, self.edge_waves = (
            FourierFeatures(size, options.frequencies, options.bandwidth, options.seed + i)
            if options.frequencies
            else None
            for i, size in enumerate((columns, taps))
        )

    @property
    def breaks_symmetry(self) -> bool:
        """Whether positions of hidden neurons are read; can be set with ``break_symmetry``."""
        return "hidden" in self.positions and self._hidden.active

    @breaks_symmetry.setter
    def breaks_symmetry(self, active: bool) -> None:
        if "hidden" in self.positions:
            self._hidden.active = active
        elif active:
            raise ValueError(
                "the encoder has no positions of hidden neurons; build it with break_symmetry=True."
            )

    @property
    def _hidden(self) -> HiddenPositions:
        return cast(HiddenPositions, self.positions["hidden"])

    def forward(self, features: Features) -> tuple[Tensor, Tensor | None]:
        topology = features.topology
        taps, columns = self.scales.all(features)
        x, _ = self.nodes(topology, taps, columns)
        return x, self.edges(topology, taps)

    def nodes(
        self, topology: Topology, taps: Tensor, columns: Tensor
    ) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Return x of scaled parameters, and what reaches the outputs in an ordered pass."""
        terms, outputs = [], []
        if self.ordered is not None:
            levels, outputs = self.ordered(topology, taps, columns)
            first = topology.levels[0].nodes
            shape = (*columns.shape[:-2], first.count * first.size, self.channels)
            terms.append(join_levels(topology, [columns.new_zeros(shape), *levels]))
        if self.own is not None:
            waves = [] if self.node_waves is None else [self.node_waves(columns)]
            terms.append(self.own(torch.cat([node_entries(topology, columns), *waves], dim=-1)))
        if self.statistics is not None:
            terms.append(self.statistics.nodes(topology, self._units(topology, taps), columns))
        if len(self.positions):
            # Those first: they are the same for all networks of a stack.
            terms.append(reduce(torch.add, [place(topology) for place in self.positions.values()]))
        return reduce(torch.add, terms), outputs

    def edges(self, topology: Topology, taps: Tensor) -> Tensor | None:
        """Return e of scaled weights."""
        if self.edge is None:
            return None
        own = self._units(topology, taps) if self.unit_weights else taps
        if self.edge_waves is not None:
            own = torch.cat([own, self.edge_waves(own)], dim=-1)
        e: Tensor = self.edge(own)
        blocks = self.blocks(topology, taps)
        return e if blocks is None else e + kernels.gather(topology, blocks, "block")

    def blocks(self, topology: Topology, taps: Tensor) -> Tensor | None:
        """Return what e has of its block, ``[K, C_e]``, or with statistics ``[*, K, C_e]``."""
        terms = [position(topology) for position in self.block_positions.values()]
        if self.statistics is not None:
            terms.append(self.statistics.edges(topology, self._units(topology, taps)))
        return reduce(torch.add, terms) if terms else None

    def _units(self, topology: Topology, taps: Tensor) -> Tensor:
        """Return weights in units of their tensor, whatever the fan-in."""
        return taps * fan_in(topology, taps.dtype)


class EndEncoder(nn.Module):
    r"""A :class:`~nngraph.nn.NetworkEncoder` whose weights hear of the neurons that they join.

    .. math:: e_{ij} \leftarrow e_{ij} + A x_j + B x_i

    The position of an input or output is then known at the weights that touch it, also to layers
    that do not read neurons without a bias, or treat inputs and outputs as relabelled.
    """

    def __init__(
        self, limits: SizeLimits, channels: int, edge_channels: int, max_levels: int = 16
    ) -> None:
        super().__init__()
        self.encoder = NetworkEncoder(limits, channels, edge_channels, max_levels)
        self.source = nn.Linear(channels, edge_channels, bias=False)
        self.target = nn.Linear(channels, edge_channels, bias=False)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        x, e = self.encoder(features)
        return x, kernels.edge_affine(features.topology, e, self.source(x), self.target(x))


class FourierFeatures(nn.Module):
    r"""Random Fourier features: numbers that differ little are told apart.

    .. math:: \gamma(v) = [\cos 2 \pi B v, \; \sin 2 \pi B v], \qquad B_{kc} \sim N(0, \beta^2)

    B, of ``count`` rows, is drawn once from its seed, and kept in the state dict; the bandwidth
    :math:`\beta` is in periods per unit of v.

    Shape:
        ``[*, size]`` -> ``[*, 2 count]``.

    Source:
        Rahimi and Recht, 2007; on weights as in neural graphs (Kofinas et al., 2024).
    """

    frequency: Tensor

    def __init__(self, size: int, count: int, bandwidth: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        frequency = torch.randn(count, size, generator=generator) * bandwidth
        self.register_buffer("frequency", frequency)

    def forward(self, values: Tensor) -> Tensor:
        angle = 2 * math.pi * nn.functional.linear(values, self.frequency)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


#: End from which levels are counted -> name of their table, and which row of it each neuron
#: ``[N]``, and each block ``[K]``, takes.
_LEVELS: dict[str, tuple[str, Callable[[Topology], Tensor], Callable[[Topology], Tensor]]] = {
    "inputs": ("levels", lambda graph: graph.nodes.level, lambda graph: graph.blocks.level),
    "outputs": (
        "depths_from_output",
        lambda graph: graph.nodes.depth_from_output,
        lambda graph: graph.nodes.depth_from_output[graph.blocks.target],
    ),
}
