"""The general metanetwork: message passing on neurons and weights, generic in activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import ACTIVATIONS, Architecture
from nngraph.graph.topology import Topology
from nngraph.nn.features import Networks
from nngraph.nn.metanetwork import (
    Column,
    Extent,
    Metanetwork,
    TensorScales,
    at_inputs,
    at_outputs,
    join_levels,
    level_means,
    mlp,
)
from nngraph.nn.pooling import EdgePooling, TensorNodes
from nngraph.nn.probes import Probes

__all__ = ["MessagePassingLayer", "MessagePassingNetwork", "OrderedPass"]


class OrderedPass(nn.Module):
    r"""One message pass in the order of computation, with the raw weights as its matrices.

    .. math::
        h_i = \tanh(B_l \tanh(A_l [\textstyle\sum_j \hat w_{ij} M_{l-1} h_j,
            \hat b_i, \text{has bias}]))

    Layer by layer from the inputs, so that a neuron hears of everything before it in one pass at
    the cost of one forward pass of the networks, times channels. A layer beyond the depth it was
    made for takes the last maps. Kernels with taps pass messages by several learned sums of their
    taps, each for its share of the channels.

    Args:
        extent: of the networks to read.
        channels: C, of the states.
        messages: channels of the messages.
        max_levels: number of sets of maps at most.

    Shape:
        weight ``[*, E, taps]``, columns ``[*, N, F]`` -> states ``[*, n_l, C]`` of the neurons of
        each level from 1, and for the levels that have outputs the sums that reach them.
    """

    def __init__(
        self, extent: Extent, channels: int, messages: int, max_levels: int = 16
    ) -> None:
        super().__init__()
        # As many channels as inputs keep all of a row of the first weight. A neuron that hears of
        # several levels hears of all in the same channels.
        width = min(extent.inputs, messages) if extent.chains else messages
        self.inputs = nn.Parameter(torch.eye(extent.inputs, width))
        if extent.inputs > messages:
            nn.init.orthogonal_(self.inputs)
        self.chains = extent.chains
        own = 2 * extent.columns
        #: channels of the sums that reach the outputs
        self.width = max(messages, width) + own
        levels = min(max(extent.levels - 1, 2), max_levels)
        if not extent.chains:
            # Inputs of an MLP have no parameters; constants and embeddings stand there elsewhere.
            self.first = nn.Linear(own, width)
        if extent.taps > 1:
            self.reads = nn.Parameter(torch.randn(extent.taps, min(extent.taps, 4)))
        self.cells = nn.ModuleList(
            nn.Sequential(
                nn.Linear((messages if i else width) + own, channels),
                nn.Tanh(),
                nn.Linear(channels, channels),
                nn.Tanh(),
            )
            for i in range(levels)
        )
        # Nothing hears the last layer: a map for it would never learn.
        self.messages = nn.ModuleList(
            nn.Linear(channels, messages, bias=False) for _ in range(levels - 1)
        )
        for message in self.messages:
            nn.init.normal_(cast(nn.Linear, message).weight, 0, 4.0 / channels**0.5)
        # Slopes and offsets of the first functions are spread over the range of their inputs: with
        # offsets near 0 they are all steps at the same place, and learning is several times slower.
        for i, cell in enumerate(self.cells):
            first = cast(nn.Linear, cast(nn.Sequential, cell)[0])
            slope, offset = (10.0, 4.0) if i == 0 else (0.5, 2.0)
            nn.init.normal_(first.weight, 0, slope / (first.in_features - own) ** 0.5)
            nn.init.normal_(first.weight[:, -own:], 0, 2.0)
            nn.init.normal_(first.bias, 0, offset)

    def forward(
        self, topology: Topology, weight: Tensor, columns: Tensor
    ) -> tuple[list[Tensor], list[tuple[int, Tensor]]]:
        entries = node_entries(topology, columns)
        first = at_inputs(topology, self.inputs).expand(*columns.shape[:-2], -1, -1)
        if not self.chains:
            first = first + self.first(kernels.take(entries, topology.level_nodes[0]))
        messages = [first]
        reads = (weight @ self.reads if weight.shape[-1] > 1 else weight).unbind(-1)
        states, outputs = [], []
        for level, nodes in enumerate(topology.level_nodes[1:], start=1):
            sums = self._heard(topology, level, reads, messages)
            sums = torch.cat([sums, kernels.take(entries, nodes)], dim=-1)
            if level in topology.output_rows:
                outputs.append((level, sums))
            last = min(level, len(self.cells)) - 1
            states.append(self.cells[last](sums))
            if level < len(topology.levels):
                messages.append(self.messages[min(level, len(self.messages)) - 1](states[-1]))
        return states, outputs

    def _heard(
        self, topology: Topology, level: int, reads: Sequence[Tensor], messages: list[Tensor]
    ) -> Tensor:
        """Pass the messages of earlier levels on, each share of the channels by its own weights."""
        if len(reads) == 1:
            return kernels.propagate_level(topology, level, reads[0], messages)
        shares = [torch.tensor_split(message, len(reads), dim=-1) for message in messages]
        return torch.cat(
            [
                kernels.propagate_level(topology, level, weight, [share[i] for share in shares])
                for i, weight in enumerate(reads)
            ],
            dim=-1,
        )


class MessagePassingLayer(nn.Module):
    r"""One round of message passing in which neurons and weights hear of one another.

    .. math::
        e_{ij} &\leftarrow e_{ij} + \sigma(A \hat e_{ij} + B \hat x_j + C \hat x_i
            [{}+ U u_{k(ij)}]) \\
        x_i &\leftarrow x_i + \mathrm{MLP}\big[\hat x_i, \textstyle\sum_j \hat w_{ij} F \hat x_j,
            \sum_k \hat w_{ki} R \hat x_k, \mathrm{pool}_j e_{ij}, \mathrm{pool}_k e_{ki}
            [, u_{k(i)}]\big]

    with :math:`\hat x`, :math:`\hat e` normalised over channels (never over neurons),
    :math:`\hat w` the scaled weights, pooling over the edges into and out of a neuron, and u the
    :class:`TensorNodes` of the edge's block and the neuron's group. Commutes with relabelling.

    Args:
        channels, edge_channels: C, C_e; without edge channels e is ``None``.
        dropout: within the MLP.
        norm: whether there are layer norms; they keep deep stacks in range, but no linear map
            passes through them.
        pooling: of edges, :class:`EdgePooling`. The mean is linear and the cheapest.
        tensor_nodes: whether there is a u: one round then joins any two parameters of a network,
            which takes a round per layer otherwise, at the cost of reading the edges once more.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]``, weight ``[*, E]`` -> x, e of the same shapes.
    """

    def __init__(
        self,
        channels: int,
        edge_channels: int,
        dropout: float = 0.0,
        norm: bool = True,
        pooling: Literal["mean", "max", "attention"] = "mean",
        tensor_nodes: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.forwards = nn.Linear(channels, channels, bias=False)
        self.backwards = nn.Linear(channels, channels, bias=False)
        self.edge_channels = edge_channels
        if edge_channels:
            self.edge_norm = nn.LayerNorm(edge_channels) if norm else nn.Identity()
            self.edge = nn.Linear(edge_channels, edge_channels)
            self.source = nn.Linear(channels, edge_channels, bias=False)
            self.target = nn.Linear(channels, edge_channels, bias=False)
            self.incoming = EdgePooling(edge_channels, pooling)
            self.outgoing = EdgePooling(edge_channels, pooling)
        heard = (4 if tensor_nodes else 3) * channels + 2 * edge_channels
        self.update = mlp([heard, 2 * channels, channels], dropout)
        self.tensors = TensorNodes(channels, edge_channels) if tensor_nodes else None
        if tensor_nodes and edge_channels:
            self.block = nn.Linear(channels, edge_channels, bias=False)

    def forward(
        self, topology: Topology, weight: Tensor, x: Tensor, e: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        normal = self.norm(x)
        normal_edges = None if e is None else self.edge_norm(e)
        told = None if self.tensors is None else self.tensors(topology, normal, normal_edges)
        heard = [
            normal,
            kernels.propagate(topology, weight, self.forwards(normal)),
            kernels.propagate(topology, weight, self.backwards(normal), to="source"),
        ]
        if e is not None:
            own = self.edge(normal_edges)
            if told is not None:
                own = own + kernels.spread_blocks(topology, self.block(told[1]))
            source, target = self.source(normal), self.target(normal)
            e = e + kernels.edge_affine(
                topology, own, source, target, activation=nn.functional.silu
            )
            heard += [
                self.incoming(topology, e, "target"),
                self.outgoing(topology, e, "source"),
            ]
        if told is not None:
            heard.append(kernels.spread_groups(topology, told[0]))
        return x + self.update(torch.cat(heard, dim=-1)), e


class MessagePassingNetwork(Metanetwork):
    r"""Message passing over the neural graph: invariant to relabelling, generic in activation.

    1. *Encoder*: an :class:`OrderedPass` over scaled weights and biases, plus learned features of
       the place of input neurons, of output neurons and of the layer, plus, with ``probes``, each
       neuron's responses to learned inputs; edges start from their scaled weight and their layer.
    2. ``rounds`` of :class:`MessagePassingLayer`.
    3. *Read-out*: an MLP on the mean over neurons and over weights of each layer and on the
       features of each output neuron.

    Reads networks of any architecture, also in one batch, as far as it was built for them: give all
    architectures, or those with the most inputs, outputs, levels and taps. Every neuron has learned
    features of its activation, but the model knows nothing of an activation's own symmetry. For
    networks of sine neurons, bring them to a
    canonical form first (:class:`nngraph.datasets.CanonicaliseSines`): the accuracy is far higher.

    Args:
        channels: C, of neurons.
        messages: channels of the messages of the ordered pass.
        edge_channels: of weights; 0 keeps no state on edges, which is several times faster.
        rounds: number of rounds after the ordered pass.
        probes: number of learned inputs at which the networks are run; 0 reads weights only.
        hidden, dropout: width of the MLP of the read-out, and dropout.
        norm, pooling, tensor_nodes: of each :class:`MessagePassingLayer`.
        max_levels: levels that are told apart; deeper ones count as the last.

    Shape:
        networks -> ``[networks, num_outputs]``.

    Source:
        edge and node updates as in neural graphs (Kofinas et al., 2024) and graph metanetworks (Lim
        et al., 2024); raw weights as matrices of the pass are ours.
    """

    def __init__(
        self,
        architecture: Architecture | Sequence[Architecture],
        num_outputs: int,
        channels: int = 128,
        messages: int = 64,
        edge_channels: int = 8,
        rounds: int = 1,
        probes: int = 0,
        hidden: int = 256,
        dropout: float = 0.1,
        norm: bool = True,
        pooling: Literal["mean", "max", "attention"] = "mean",
        tensor_nodes: bool = False,
        max_levels: int = 16,
    ) -> None:
        super().__init__(architecture, num_outputs)
        extent = self.extent
        if probes and not extent.chains:
            raise ArchitectureError(
                "probes run the networks, which is possible for chains of affine maps alone; "
                "expected probes=0 for other architectures."
            )
        self.levels = min(extent.levels, max_levels)
        self.outputs = extent.outputs
        self.scales = TensorScales(extent)
        self.encoder = OrderedPass(extent, channels, messages, max_levels)
        self.input_place = nn.Parameter(torch.randn(extent.inputs, channels))
        self.layer_place = nn.Parameter(torch.randn(self.levels, channels) * 0.1)
        self.activation_place = nn.Parameter(torch.randn(len(ACTIVATIONS), channels) * 0.1)
        if not extent.chains:
            self.own = nn.Linear(2 * extent.columns, channels)
        self.probes = Probes(self.architecture, probes) if probes else None
        if probes:
            self.responses = mlp([probes, channels, channels])
        self.edge_channels = edge_channels if rounds else 0
        if self.edge_channels:
            self.edge_encoder = nn.Linear(extent.taps, edge_channels)
            self.edge_place = nn.Parameter(torch.randn(self.levels, edge_channels) * 0.1)
        self.rounds = nn.ModuleList(
            MessagePassingLayer(channels, self.edge_channels, dropout, norm, pooling, tensor_nodes)
            for _ in range(rounds)
        )
        read = (
            self.levels * (channels + self.edge_channels)
            + self.outputs * (channels + self.encoder.width + probes)
        )
        self.readout = mlp([read, hidden, hidden, num_outputs], dropout)
        self.output_place = nn.Parameter(torch.randn(self.outputs, channels) * 0.1)

    chains_only = False

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "with probes" if self.probes is not None else "generic weights-only"

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        topology = features.topology
        taps, columns = self.scales.all(features)
        states, outputs = self.encoder(topology, taps, columns)
        places = at_inputs(topology, self.input_place).expand(*features.x.shape[:-2], -1, -1)
        x = join_levels(topology, [places, *states])
        x = x + self.layer_place[topology.node_level.clamp(max=self.levels - 1)]
        x = x + self.activation_place[_activation_kinds(topology)]
        if not self.extent.chains:
            x = x + self.own(node_entries(topology, columns))
        x = x + _by_output(topology, self.output_place)
        responses = None if self.probes is None else self.probes(features)
        if responses is not None:
            x = x + self.responses(join_levels(topology, responses))
        e = None
        if self.edge_channels:
            places = self.edge_place[topology.block_level.clamp(max=self.levels - 1)]
            e = self.edge_encoder(taps) + kernels.spread_blocks(topology, places)
        weight = taps[..., 0] if taps.shape[-1] == 1 else taps.mean(-1)
        for layer in self.rounds:
            x, e = layer(topology, weight, x, e)
        return self.readout(  # type: ignore[no-any-return]
            torch.cat(self._pooled(topology, x, e, outputs, responses), dim=-1)
        )

    def _pooled(
        self,
        topology: Topology,
        x: Tensor,
        e: Tensor | None,
        outputs: list[tuple[int, Tensor]],
        responses: list[Tensor] | None,
    ) -> list[Tensor]:
        states = [(i, kernels.take(x, topology.level_nodes[i])) for i in topology.output_rows]
        pooled = [
            level_means(
                topology, kernels.pool_groups(topology, x), topology.group_level, self.levels,
                topology.group_size, topology.group_graph,
            ),
            at_outputs(topology, outputs, self.outputs, self.encoder.width),
            at_outputs(topology, states, self.outputs),
        ]  # fmt: skip
        if e is not None:
            pooled.append(
                level_means(
                    topology, kernels.pool_blocks(topology, e), topology.block_level, self.levels,
                    topology.block_size, topology.block_graph,
                )
            )  # fmt: skip
        if responses is not None and self.probes is not None:
            pooled.append(self.probes.at_outputs(topology, responses, self.outputs))
        return pooled


def node_entries(topology: Topology, columns: Tensor) -> Tensor:
    """Return the columns of the nodes and which of them a parameter fills: ``[*, N, 2 F]``."""
    filled = topology.node_mask.to(columns.dtype)
    filled = pad(filled, (0, columns.shape[-1] - filled.shape[-1])).expand_as(columns)
    return torch.cat([columns, filled], dim=-1)


def _by_output(topology: Topology, table: Tensor) -> Tensor:
    """Give output neuron o of every network row o of a table: ``[d_L, C] -> [N, C]``, else 0.

    Raises:
        ArchitectureError: if a network has more outputs than the table has rows.
    """
    if topology.max_outputs > len(table):
        raise ArchitectureError(
            f"a network has {topology.max_outputs} outputs; the model was built for {len(table)}."
        )
    return pad(table, (0, 0, 0, 1))[topology.output_place]  # the last row is 0


def _activation_kinds(topology: Topology) -> Tensor:
    """Index into ``ACTIVATIONS`` of each neuron's activation, ``[N]``."""
    kinds = [list(ACTIVATIONS).index(activation.name) for activation in topology.activations]
    return torch.tensor(kinds, device=topology.node_activation.device)[topology.node_activation]
