"""What all metanetworks share: their face, per-tensor scales, read-outs by layer and position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.graph.topology import Topology
from nngraph.nn.features import Features, Networks, input_features
from nngraph.nn.pointwise import Dropout

__all__ = [
    "Column",
    "Extent",
    "Metanetwork",
    "TensorScales",
    "at_inputs",
    "at_outputs",
    "fan_in",
    "join_levels",
    "level_means",
    "mlp",
]

#: What a model may use; results of different columns are never mixed in one comparison.
Column = Literal["generic weights-only", "activation-structured weights-only", "with probes"]


@dataclass(frozen=True)
class Extent:
    """The most of what a model meets in the networks it is built for.

    Attributes:
        inputs, outputs: neurons of the largest first group, and of all outputs.
        levels: of neurons.
        columns, taps: features of nodes and of edges.
        chains: whether all are chains of affine maps.
    """

    inputs: int
    outputs: int
    levels: int
    columns: int
    taps: int
    chains: bool

    @classmethod
    def of(cls, architectures: Sequence[Architecture]) -> Extent:
        """Take the most of several architectures."""
        topologies = [Topology.of(a) for a in architectures]
        return cls(
            max(t.max_inputs for t in topologies),
            max(t.max_outputs for t in topologies),
            max(len(t.level_nodes) for t in topologies),
            max(len(a.column_names) for a in architectures),
            max(a.num_taps for a in architectures),
            all(a.is_chain for a in architectures),
        )


class Metanetwork(nn.Module, ABC):
    """A model that reads networks and answers for each of them.

    Called on a :class:`~nngraph.graph.NeuralGraphStack`, on a PyG ``Batch`` of neural graphs, or on
    one graph; returns ``[networks, num_outputs]``.

    Args:
        architecture: the networks it is built for, one architecture or several: sizes of inputs and
            outputs and depth. Deeper and wider networks are read too, where a model says so.
        num_outputs: length of the answer.

    Raises:
        ArchitectureError: if an architecture is no chain of affine maps and the model reads no
            others (``chains_only``).
    """

    def __init__(
        self, architecture: Architecture | Sequence[Architecture], num_outputs: int
    ) -> None:
        super().__init__()
        several = [architecture] if isinstance(architecture, Architecture) else list(architecture)
        if not several:
            raise ArchitectureError("a metanetwork was given no architecture; expected one.")
        if self.chains_only and (other := [a for a in several if not a.is_chain]):
            raise ArchitectureError(
                f"{type(self).__name__} was given the architecture {other[0]}, whose blocks "
                "are not a chain; expected an MLP."
            )
        self.architecture = several[0]
        self.extent = Extent.of(several)
        self.num_outputs = num_outputs

    def read(self, networks: Networks) -> Features:
        """Bring networks to the features that a model works on.

        Raises:
            ArchitectureError: if one is no chain of affine maps and the model reads no others.
        """
        features = input_features(networks)
        if self.chains_only and not features.topology.chains:
            other = [a for a in features.topology.architectures if not a.is_chain]
            raise ArchitectureError(
                f"{type(self).__name__} was called on a network of the architecture "
                f"{other[0]}, which is not a chain; expected MLPs. MessagePassingNetwork "
                "reads others."
            )
        return features

    #: Whether it reads chains of affine maps alone.
    chains_only: ClassVar[bool] = True

    #: Whether it can be given a ``runner``, by which networks that are no chains are run at probes.
    takes_runner: ClassVar[bool] = False

    #: Whether relabelling the hidden neurons of a network leaves its answer as it is.
    invariant: ClassVar[bool] = True
    #: Whether the answer changes with the signs and phases of sine neurons, so that a canonical
    #: form of them helps.
    reads_signs: ClassVar[bool] = True

    @property
    @abstractmethod
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""

    @property
    def bears_bfloat16(self) -> bool:
        """Whether eight bits of mantissa are enough; not where phases of tens of radians count."""
        return self.reads_signs and self.column != "with probes"

    def fit_statistics(self, networks: Networks) -> None:
        """Set the scales of the input features from training networks; call once, before training.

        Statistics are per tensor, never per entry: entries of a tensor trade places when neurons
        are relabelled.
        """
        for module in self.modules():
            if isinstance(module, TensorScales):
                module.fit(networks)


class TensorScales(nn.Module):
    r"""Weights and biases in units of their tensor's root mean square over a training set.

    .. math::
        \hat W_l = W_l / (\mathrm{rms}(W_l) \sqrt{d_{l-1}}), \qquad
        \hat b_l = b_l / \mathrm{rms}(b_l)

    One scale per layer and kind of tensor, so that relabelling neurons changes nothing; a scale and
    no shift, so that signs keep their meaning. A layer beyond the depth it was made for takes the
    last scale; a tensor that is all zero takes scale 1.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self.extent = extent
        self.register_buffer("weight", torch.ones(extent.levels))
        self.register_buffer("bias", torch.ones(extent.levels, extent.columns))

    def _slot(self, level: Tensor) -> Tensor:
        return level.clamp(max=len(self.weight) - 1)

    @torch.no_grad()
    def fit(self, networks: Networks) -> None:
        """Set the scales from networks."""
        features = input_features(networks)
        topology = features.topology
        edges, nodes = self._padded(features)
        kinds = (
            (self.weight.unsqueeze(-1), kernels.pool_blocks(topology, edges.square()),
             topology.block_level),
            (self.bias, kernels.pool_groups(topology, nodes.square()), topology.group_level),
        )  # fmt: skip
        for scale, power, level in kinds:
            power = power.flatten(0, -3).mean(0) if power.dim() > 2 else power
            # Taps share one scale: they are entries of one tensor.
            power = power if scale.shape[-1] == power.shape[-1] else power.sum(-1, keepdim=True)
            total = torch.zeros_like(scale).index_add(0, self._slot(level), power.to(scale))
            count = torch.bincount(self._slot(level), minlength=len(scale)).clamp(min=1)
            rms = (total / count.unsqueeze(-1)).sqrt()
            scale.copy_(torch.where(rms > 0, rms, torch.ones_like(rms)))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return scaled weights ``[*, E]`` and biases ``[*, N, 1]`` of chains."""
        weight, columns = self.all(features)
        return weight[..., 0], columns[..., :1]

    def _padded(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return edge and node features with as many taps and columns as the model has."""
        sizes = self.extent.taps, self.extent.columns
        for what, value, size in zip(
            ("taps on edges", "columns on nodes"), (features.taps, features.x), sizes, strict=True
        ):
            if value.shape[-1] > size:
                raise ArchitectureError(
                    f"the networks have {value.shape[-1]} {what}; the model was built for {size}. "
                    "Build it with all architectures that it shall read."
                )
        edges, nodes = (
            pad(value, (0, size - value.shape[-1]))
            for value, size in zip((features.taps, features.x), sizes, strict=True)
        )
        return edges, nodes

    def all(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return scaled weights ``[*, E, taps]`` and columns ``[*, N, F]``."""
        topology = features.topology
        edges, nodes = self._padded(features)
        dtype = features.x.dtype
        per_block = self.weight[self._slot(topology.block_level)].to(dtype).unsqueeze(-1)
        scale = kernels.spread_blocks(topology, per_block) * fan_in(topology, dtype)
        return edges / scale, nodes / self.bias[self._slot(topology.node_level)].to(dtype)


def fan_in(topology: Topology, dtype: torch.dtype) -> Tensor:
    """Return the root of the number of edges into each edge's target, ``[E, 1]``."""
    root = topology.in_degree.to(dtype).sqrt().unsqueeze(-1)
    return kernels.gather(topology, root, "target")


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Return linear maps of these sizes with SiLU and dropout between them."""
    layers: list[nn.Module] = []
    for i, (size, following) in enumerate(pairwise(sizes)):
        if i:
            layers += [nn.SiLU(), Dropout(dropout)]
        layers.append(nn.Linear(size, following))
    return nn.Sequential(*layers)


def level_means(topology: Topology, values: Tensor, level: Tensor, slots: int, size: Tensor,
                graph: Tensor) -> Tensor:  # fmt: skip
    """Average node or edge features over each layer of each network: ``-> [networks, slots * C]``.

    Args:
        values: ``[*, K, C]``, mean features of each group or block.
        level: ``[K]`` layer of each; those beyond the last slot share it.
        size: ``[K]`` number of neurons or edges behind each mean.
        graph: ``[K]`` network of each.
    """
    index = graph * slots + level.clamp(max=slots - 1)
    weight = size.to(values.dtype)
    total = torch.zeros(topology.num_graphs * slots, dtype=values.dtype, device=values.device)
    share = weight / total.index_add(0, index, weight)[index]
    shape = (*values.shape[:-2], topology.num_graphs * slots, values.shape[-1])
    pooled = values.new_zeros(shape).index_add(-2, index, values * share.unsqueeze(-1))
    return pooled.reshape(-1, slots * values.shape[-1])


def at_inputs(topology: Topology, table: Tensor) -> Tensor:
    """Give input neuron i of every network row i of a table: ``-> [n, C]`` at the level 0 neurons.

    Neurons there that relabelling moves have no place, and get 0.

    Raises:
        ArchitectureError: if a network has more inputs than the table ``[d_0, C]`` has rows.
    """
    if topology.max_inputs > len(table):
        raise ArchitectureError(
            f"a network has {topology.max_inputs} inputs; the model was built for {len(table)}."
        )
    first = topology.level_nodes[0]
    if topology.num_graphs == 1 and first.count * first.size == len(table) == topology.max_inputs:
        return table
    moves = kernels.take(topology.node_moves.unsqueeze(-1), first)
    place = kernels.take(topology.node_position.unsqueeze(-1), first)
    return table[place.masked_fill(moves, 0)[:, 0]] * ~moves


def at_outputs(
    topology: Topology, levels: list[tuple[int, Tensor]], size: int, channels: int | None = None
) -> Tensor:
    """Set the features of the output neurons side by side: ``-> [networks, size * C]``.

    Outputs are not permuted, so their place tells them apart; a network with fewer than ``size``
    outputs has 0 at the others.

    Args:
        levels: the levels that have output neurons, each with features ``[*, n, c]`` of all of its
            neurons.
        channels: C, default the most of any level; missing channels are 0.

    Raises:
        ArchitectureError: if a network has more than ``size`` outputs.
    """
    if topology.max_outputs > size:
        raise ArchitectureError(
            f"a network has {topology.max_outputs} outputs; the model was built for {size}."
        )
    channels = channels or max(values.shape[-1] for _, values in levels)
    padded = [
        values if values.shape[-1] == channels else pad(values, (0, channels - values.shape[-1]))
        for _, values in levels
    ]
    if topology.num_graphs == 1 and topology.max_outputs == size == padded[0].shape[-2]:
        return padded[0].reshape(-1, size * channels)
    index = topology.node_graph * size + topology.output_place
    shape = (*padded[0].shape[:-2], topology.num_graphs * size, channels)
    placed = padded[0].new_zeros(shape)
    for (level, _), values in zip(levels, padded, strict=True):
        rows = topology.output_rows[level]
        nodes = topology.level_nodes[level]
        place = kernels.take(index.unsqueeze(-1), nodes)[rows, 0]
        placed = placed.index_copy(-2, place, values.index_select(-2, rows))
    return placed.reshape(-1, size * channels)


def join_levels(topology: Topology, levels: list[Tensor]) -> Tensor:
    """Put the features of all levels' neurons together: ``[*, n_l, C]`` each ``-> [*, N, C]``."""
    joined = torch.cat(levels, dim=-2)
    if topology.in_level_order:
        return joined
    return joined.index_select(-2, topology.level_order)
