"""What all metanetworks share: their face, per-tensor scales, read-outs by layer and position."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.graph.topology import Nodes, Topology
from nngraph.nn.features import Features, Networks, input_features

__all__ = ["Column", "Metanetwork", "TensorScales", "at_inputs", "at_outputs", "level_means", "mlp", "sum_of"]

#: What a model may use; results of different columns are never mixed in one comparison.
Column = Literal["generic weights-only", "activation-structured weights-only", "with probes"]


class Metanetwork(nn.Module):
    """A model that reads networks and answers for each of them.

    Called on a :class:`~nngraph.graph.NeuralGraphStack`, on a PyG ``Batch`` of neural graphs of any
    chain architectures, or on one graph; returns ``[networks, num_outputs]``.

    Args:
        architecture: the networks it is built for: sizes of inputs and outputs and depth. Deeper and
            wider networks are read too, where a model says so.
        num_outputs: length of the answer.
    """

    def __init__(self, architecture: Architecture, num_outputs: int) -> None:
        super().__init__()
        if not architecture.is_chain:
            raise ArchitectureError(
                f"{type(self).__name__} was given the architecture {architecture}, whose blocks are "
                "not a chain; expected an MLP."
            )
        self.architecture = architecture
        self.num_outputs = num_outputs

    #: Whether relabelling the hidden neurons of a network leaves its answer as it is.
    invariant: ClassVar[bool] = True
    #: Whether the answer changes with the signs and phases of sine neurons, so that a canonical form
    #: of them helps.
    reads_signs: ClassVar[bool] = True

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        raise NotImplementedError

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

    .. math:: \hat W_l = W_l / (\mathrm{rms}(W_l) \sqrt{d_{l-1}}), \qquad \hat b_l = b_l / \mathrm{rms}(b_l)

    One scale per layer and kind of tensor, so that relabelling neurons changes nothing; a scale and
    no shift, so that signs keep their meaning. A layer beyond the depth it was made for takes the
    last scale; a tensor that is all zero takes scale 1.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        levels = len(Topology.of(architecture).levels) + 1
        self.register_buffer("weight", torch.ones(levels))
        self.register_buffer("bias", torch.ones(levels))

    def _slot(self, level: Tensor) -> Tensor:
        return level.clamp(max=len(self.weight) - 1)

    @torch.no_grad()
    def fit(self, networks: Networks) -> None:
        """Set the scales from networks."""
        features = input_features(networks)
        topology = features.topology
        kinds = (
            (self.weight, kernels.pool_blocks(topology, features.edge_attr[..., :1].square()),
             topology.block_level),
            (self.bias, kernels.pool_groups(topology, features.bias.square()), topology.group_level),
        )  # fmt: skip
        for scale, power, level in kinds:
            power = power.flatten(0, -3).mean(0) if power.dim() > 2 else power
            total = torch.zeros_like(scale).index_add(0, self._slot(level), power[:, 0].to(scale))
            count = torch.bincount(self._slot(level), minlength=len(scale)).clamp(min=1)
            rms = (total / count).sqrt()
            scale.copy_(torch.where(rms > 0, rms, torch.ones_like(rms)))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return scaled weights ``[*, E]`` and biases ``[*, N, 1]``."""
        topology = features.topology
        fan_in = topology.in_degree[topology.target].to(features.x.dtype).sqrt()
        per_edge = self.weight[self._slot(topology.block_level)][topology.edge_block]
        weight = features.weight / (per_edge.to(features.x.dtype) * fan_in)
        per_node = self.bias[self._slot(topology.node_level)].to(features.x.dtype)
        return weight, features.bias / per_node.unsqueeze(-1)


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Return linear maps of these sizes with SiLU and dropout between them."""
    layers: list[nn.Module] = []
    for i, (size, following) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        if i:
            layers += [nn.SiLU(), nn.Dropout(dropout)]
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


def at_inputs(topology: Topology, table: Tensor, lead: torch.Size) -> Tensor:
    """Give input neuron i of every network row i of a table, other neurons 0: ``-> [*lead, N, C]``.

    Raises:
        ArchitectureError: if a network has more inputs than the table ``[d_0, C]`` has rows.
    """
    if topology.max_inputs > len(table):
        raise ArchitectureError(
            f"a network has {topology.max_inputs} inputs; the model was built for {len(table)}."
        )
    inputs = topology.level_nodes[0]
    place = kernels.take(topology.node_position.unsqueeze(-1), inputs).squeeze(-1)
    return kernels.place(topology, table[place].expand(*lead, -1, -1), inputs)


def at_outputs(
    topology: Topology, parts: list[tuple[Nodes, Tensor]], size: int, channels: int | None = None
) -> Tensor:
    """Set the features of the output neurons side by side: ``-> [networks, size * C]``.

    Outputs are not permuted, so their place tells them apart; a network with fewer than ``size``
    outputs has 0 at the others.

    Args:
        parts: neurons and their features ``[*, n, c]``; together they hold all output neurons.
        channels: C, default the most of any part; missing channels are 0.

    Raises:
        ArchitectureError: if a network has more than ``size`` outputs.
    """
    if topology.max_outputs > size:
        raise ArchitectureError(
            f"a network has {topology.max_outputs} outputs; the model was built for {size}."
        )
    channels = channels or max(values.shape[-1] for _, values in parts)
    padded = [(n, nn.functional.pad(v, (0, channels - v.shape[-1]))) for n, v in parts]
    outputs = topology.output_nodes
    if len(padded) == 1 and padded[0][0].count == outputs.count:
        values = padded[0][1]
    else:
        values = kernels.take(sum_of([kernels.place(topology, v, n) for n, v in padded]), outputs)
    rows = torch.arange(topology.num_nodes, device=values.device).unsqueeze(-1)
    index = kernels.take(rows, outputs).squeeze(-1)
    index = topology.node_graph[index] * size + topology.node_position[index]
    shape = (*values.shape[:-2], topology.num_graphs * size, channels)
    placed = values.new_zeros(shape).index_copy(-2, index, values)
    return placed.reshape(-1, size * channels)


def sum_of(values: list[Tensor]) -> Tensor:
    """Add tensors of one shape up."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
