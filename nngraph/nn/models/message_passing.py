"""The general metanetwork: message passing on neurons and weights, generic in activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.levels import at_outputs, join_levels
from nngraph.nn.common.mlp import after_norm, mlp
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.encoders.network import EncoderOptions, NetworkEncoder
from nngraph.nn.encoders.statistics import NetworkStatistics
from nngraph.nn.features import Architectures, Features, Networks, States
from nngraph.nn.layers.pooling import EdgePooling, PoolingKind, TensorNodes
from nngraph.nn.models.base import StateNetwork, Traits, options_of
from nngraph.nn.probes.probes import Probes
from nngraph.nn.probes.running import Runner
from nngraph.nn.readouts.readout import ReadoutOptions

#: What a round returns.
Update = tuple[Tensor, kernels.EdgeUpdate | None]


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
        norm: whether there are layer norms, which keep deep stacks in range.
        pooling: of edges, :class:`EdgePooling`. The mean is linear and the cheapest.
        tensor_nodes: whether there is a u: one round then joins any two parameters of a network,
            which takes a round per layer otherwise, at the cost of reading the edges once more.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]``, weight ``[*, E]`` -> x of the same shape, and an
        :class:`~nngraph.kernels.EdgeUpdate` of e; ``None`` without edge channels.
    """

    def __init__(
        self, channels: int, edge_channels: int, dropout: float = 0.0, norm: bool = True,
        pooling: PoolingKind = "mean", tensor_nodes: bool = False,
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
        received = (4 if tensor_nodes else 3) * channels + 2 * edge_channels
        self.update = mlp([received, 2 * channels, channels], dropout)
        self.tensors = TensorNodes(channels, edge_channels) if tensor_nodes else None
        if tensor_nodes and edge_channels:
            self.block = nn.Linear(channels, edge_channels, bias=False)

    def forward(
        self, topology: Topology, weight: Tensor, x: Tensor, e: Tensor | None,
        recompute: bool = False,
    ) -> Update:  # fmt: skip
        """Update x and e; ``recompute`` as of :func:`nngraph.kernels.edge_update`."""
        normal = self.norm(x)
        messages = None
        if self.tensors is not None:
            messages = self.tensors(topology, normal, None if e is None else self.edge_norm(e))
        received = self._received(topology, weight, normal)
        update = None
        if e is not None:
            block = None if messages is None else self.block(messages[1])
            update = kernels.edge_update(
                topology, e, *self._edge_map(normal), block,
                normalise=isinstance(self.edge_norm, nn.LayerNorm), recompute=recompute,
            )  # fmt: skip
            if self.incoming.op == "mean":
                received += [update.incoming, update.outgoing]
            else:
                received += [
                    self.incoming(topology, update.edges, "target"),
                    self.outgoing(topology, update.edges, "source"),
                ]
        if messages is not None:
            received.append(kernels.broadcast(messages[0], topology.nodes.group))
        return x + self.update(torch.cat(received, dim=-1)), update

    def stream(
        self,
        topology: Topology,
        weight: Tensor,
        x: Tensor,
        start: tuple[Tensor, Tensor, Tensor],
        updates: list[kernels.StreamedUpdate],
    ) -> tuple[Tensor, Tensor]:
        """Return x and the means of e over blocks, with e made anew from the weights.

        ``start`` is as of :func:`nngraph.kernels.streamed_edge_means`; this layer's update is added
        to those of the layers before.
        """
        normal = self.norm(x)
        updates.append(kernels.StreamedUpdate(*self._edge_map(normal), None))
        incoming, outgoing, blocks = kernels.streamed_edge_means(
            topology, *start, updates, normalise=isinstance(self.edge_norm, nn.LayerNorm)
        )
        received = [*self._received(topology, weight, normal), incoming, outgoing]
        return x + self.update(torch.cat(received, dim=-1)), blocks

    def _received(self, topology: Topology, weight: Tensor, normal: Tensor) -> list[Tensor]:
        return [
            normal,
            kernels.propagate(topology, weight, self.forwards(normal)),
            kernels.propagate(topology, weight, self.backwards(normal), to="source"),
        ]

    def _edge_map(self, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A, s and t of the update of the edges."""
        if isinstance(self.edge_norm, nn.LayerNorm):
            weight, bias = after_norm(self.edge_norm, self.edge)
        else:
            weight, bias = self.edge.weight, self.edge.bias
        return weight, self.source(normal), linear(normal, self.target.weight, bias)


class MessagePassingNetwork(StateNetwork):
    r"""Message passing over the neural graph: invariant to relabelling, generic in activation.

    1. *Encoder*: an :class:`OrderedPass` over scaled weights and biases, plus learned features of
       the place of input neurons, of output neurons and of the layer, plus, with ``probes``, each
       neuron's responses to learned inputs; edges start from their scaled weight and their layer.
    2. ``rounds`` of :class:`MessagePassingLayer`.
    3. *Read-out*: an MLP on the mean over neurons and over weights of each layer and on the
       features of each output neuron.

    Reads networks of any architecture, also in one batch, as far as it was built for them: give all
    architectures, or those with the most inputs, outputs, levels and taps. The model knows an
    activation by learned features, and nothing of its symmetry: bring networks of sine neurons to a
    canonical form first (:class:`nngraph.datasets.CanonicaliseSines`) for a far higher accuracy.

    Args:
        channels: C, of neurons.
        messages: of the :class:`~nngraph.nn.EncoderOptions`.
        edge_channels: of weights; 0 keeps no state on edges, which is several times faster.
        rounds: number of rounds after the ordered pass.
        probes: number of learned inputs at which the networks are run; 0 reads weights only.
        norm, pooling, tensor_nodes: of each :class:`MessagePassingLayer`.
        checkpoint: keep one state per round of neurons and weights for the backward pass and
            compute the rest again: far less memory, for about half as much time again.
        stream: keep no state of weights, but make it anew in every round, tile by tile: the same
            answers in memory of the neurons alone, for (rounds + 1) / 2 times the updates of edges.
            For many millions of weights. Pooled by means alone; ``states`` has none of weights.
        encoder, readout: further options of the :class:`~nngraph.nn.NetworkEncoder` and of the
            :class:`~nngraph.nn.Readout`, as plain data; or all of them, as such.
        runner, generator: of the :class:`Probes`; networks that are no chains are run by one.
        statistics: whether the read-out is told the
            :class:`~nngraph.nn.encoders.statistics.NetworkStatistics` of each network besides.
        shared: those of the :class:`~nngraph.nn.ReadoutOptions` that hold for more: ``dropout``
            also in the rounds, ``max_levels`` also in the encoder; and ``hidden``.

    Source:
        edge and node updates as in neural graphs (Kofinas et al., 2024) and graph metanetworks (Lim
        et al., 2024); raw weights as matrices of the pass are ours.
    """

    traits = Traits(takes_runner=True)

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 128,
        messages: int = 64, edge_channels: int = 8, rounds: int = 1, probes: int = 0,
        norm: bool = True, pooling: PoolingKind = "mean", tensor_nodes: bool = False,
        checkpoint: bool = False, stream: bool = False,
        encoder: EncoderOptions | Mapping[str, Any] | None = None,
        readout: ReadoutOptions | Mapping[str, Any] | None = None, runner: Runner | None = None,
        generator: bool = False, statistics: bool = False, **shared: Any,
    ) -> None:
        check_sizes(messages=messages)
        check_sizes(0, rounds=rounds, probes=probes)
        if generator and not probes:
            raise ValueError("generator=True makes probes; probes, their number, is missing.")
        edge_channels = edge_channels if rounds else 0
        stream = stream and edge_channels > 0
        super().__init__(architecture, num_outputs, channels, edge_channels, readout=None)
        chosen = options_of(
            EncoderOptions, encoder, ordered=True, unit_weights=False, messages=messages
        )
        own, read = ReadoutOptions(**shared), options_of(ReadoutOptions, readout, **shared)
        self.checkpoint, self.stream = checkpoint, stream
        if self.stream and (pooling != "mean" or tensor_nodes):
            raise ValueError(
                f"stream=True was given with pooling={pooling!r} and tensor_nodes={tensor_nodes}; "
                "states that are not stored are pooled by means alone, without tensor nodes."
            )
        more = chosen.statistics or chosen.frequencies or chosen.unit_weights
        if self.stream and (more or read.readout == "attention"):
            raise ValueError(
                "stream=True was given with statistics, frequencies or unit_weights in the "
                "encoder, or attention in the read-out; states that are not stored are a linear "
                "map of the weights at first, and are read by means alone."
            )
        limits = self.limits
        self.encoder = NetworkEncoder(limits, channels, edge_channels, own.max_levels, chosen)
        self.traits = self.traits.changed(probes, self.encoder.breaks_symmetry)
        self.probes = (
            Probes(architecture, probes, runner=runner, generator=generator) if probes else None
        )
        if probes:
            self.responses = mlp([probes, channels, channels])
        self.rounds = nn.ModuleList(
            MessagePassingLayer(channels, edge_channels, own.dropout, norm, pooling, tensor_nodes)
            for _ in range(rounds)
        )
        #: channels of the sums that reach the outputs in the ordered pass
        self.width = 0 if self.encoder.ordered is None else self.encoder.ordered.width
        told = statistics and num_outputs
        self.statistics = NetworkStatistics(self.architectures) if told else None
        self.extra = limits.outputs * (self.width + probes)
        self.extra += 0 if self.statistics is None else self.statistics.width
        if num_outputs:
            self.readout = self.make_readout(read)
        if stream:  # the read-out hears of weights, whose states are not kept
            self.edge_channels = 0

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        x, e, _, _ = self._read(features)
        return States(features, x, e)

    def embed(self, networks: Networks) -> Tensor:
        readout, features = self.pooling_readout(), self.read(networks)
        x, e, blocks, extra = self._read(features)
        return readout.pooled(features.topology, x, e, blocks, extra)

    def forward(self, networks: Networks) -> Tensor:
        return self.pooling_readout().mlp(self.embed(networks))  # type: ignore[no-any-return]

    def _read(
        self, features: Features
    ) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
        """Return x, e, the means of e over blocks, and what else there is of the outputs."""
        topology, count = features.topology, self.limits.outputs
        taps, columns = self.encoder.scales.all(features)
        x, sums = self.encoder.nodes(topology, taps, columns)
        extra = [at_outputs(topology, sums, count, self.width, x)] if self.width else []
        if self.probes is not None:
            responses = self.probes(features)
            x = x + self.responses(join_levels(topology, responses))
            extra.append(self.probes.at_outputs(topology, responses, count))
        if self.statistics is not None:
            extra.append(self.statistics(features))
        return *self._rounds(topology, taps, x), extra

    def _rounds(
        self, topology: Topology, taps: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return x and e after all rounds, and the means of e over each block."""
        weight = taps[..., 0] if taps.shape[-1] == 1 else taps.mean(-1)
        if self.stream:
            x, blocks = self._streamed(topology, weight, taps, x)
            return x, None, blocks
        keep = not (self.checkpoint and torch.is_grad_enabled())

        def round(layer: nn.Module, x: Tensor, e: Tensor | None, is_first: bool) -> Update:
            if is_first:
                # Within the round, so that a checkpoint need not keep these states.
                e = self.encoder.edges(topology, taps)
            return cast(Update, layer(topology, weight, x, e, not keep))

        e, update = None, None
        for i, layer in enumerate(self.rounds):
            if keep:
                x, update = round(layer, x, e, i == 0)
            else:
                x, update = checkpoint(round, layer, x, e, i == 0, use_reentrant=False)
            e = None if update is None else update.edges
        return x, e, None if update is None else update.blocks

    def _streamed(
        self, topology: Topology, weight: Tensor, taps: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        edge, place = self.encoder.edge, self.encoder.blocks(topology, taps)
        assert edge is not None
        if place is None:
            place = edge.bias.new_zeros(len(topology.blocks.size), len(edge.bias))
        start = taps, edge.weight, place + edge.bias
        updates: list[kernels.StreamedUpdate] = []
        blocks = None
        for layer in self.rounds:
            assert isinstance(layer, MessagePassingLayer)
            x, blocks = layer.stream(topology, weight, x, start, updates)
        return x, blocks
