"""What metanetworks are built for, read and return: networks in any form, and their states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch_geometric.data import Batch

from nngraph.errors import InvalidGraphError
from nngraph.graph import (
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    Topology,
    check_readable,
    order_edges,
    pack,
    restore_edges,
    unpack,
)

#: What a model is built for.
Architectures: TypeAlias = Architecture | Sequence[Architecture]


def several(architectures: Architectures) -> list[Architecture]:
    """Return one architecture or several as a list."""
    return [architectures] if isinstance(architectures, Architecture) else list(architectures)


@dataclass(frozen=True)
class SizeLimits:
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
    def of(cls, architectures: Sequence[Architecture]) -> SizeLimits:
        """Take the most of several architectures."""
        topologies = [Topology.of(a) for a in architectures]
        return cls(
            max(t.max_inputs for t in topologies),
            max(t.max_outputs for t in topologies),
            max(len(t.levels) for t in topologies),
            max(len(a.column_names) for a in architectures),
            max(a.num_taps for a in architectures),
            all(a.is_chain for a in architectures),
        )


@dataclass(frozen=True)
class Features:
    """Node features ``x [*, N, F]`` and edge features ``edge_attr [*, E, C]`` on a topology.

    The leading shape is ``(B,)`` for a stack and empty for a ragged batch or a single graph. Edges
    stand in the order of the topology.
    """

    topology: Topology
    x: Tensor
    edge_attr: Tensor

    @classmethod
    def of(cls, architecture: Architecture, x: Tensor, edge_attr: Tensor) -> Features:
        """Take features of one network, or of a stack of them, on the topology of theirs."""
        return cls(Topology.of(architecture).to(x.device), x, edge_attr)

    @property
    def bias(self) -> Tensor:
        """``[*, N, 1]``: bias of each neuron, 0 where there is none."""
        return self.x[..., :1]

    @property
    def taps(self) -> Tensor:
        """``[*, E, taps]``: the weights of each edge, one unless a kernel has more."""
        return self.edge_attr[..., : self.topology.num_taps]

    @property
    def weight(self) -> Tensor:
        """``[*, E]``: weight of each edge."""
        return self.edge_attr[..., 0]


@dataclass(frozen=True)
class States:
    """What a model has made of networks.

    Attributes:
        features: the networks as they were read; edges stand in the order of its topology.
        x: states of neurons ``[*, N, C]``.
        edge_attr: states of weights ``[*, E, C_e]``; ``None`` where a model keeps none.
        equivariant_vectors: of a model whose states stay when a neuron is rescaled, or its sign or
            phase is changed: features ``[*, N, K]`` that are multiplied as the neuron's incoming
            weights are, and ``[*, N, K]`` as its outgoing ones, of which weights are made.
    """

    features: Features
    x: Tensor
    edge_attr: Tensor | None = None
    equivariant_vectors: tuple[Tensor, Tensor] | None = None

    @property
    def topology(self) -> Topology:
        """Of the networks."""
        return self.features.topology


#: What a metanetwork can be called on; a PyG ``Batch`` of neural graphs is a NeuralGraph too.
#: Several stacks are read side by side, one after another.
Networks: TypeAlias = NeuralGraphStack | NeuralGraph | Features | Sequence[NeuralGraphStack]


def input_features(networks: Networks) -> Features:
    """Bring a stack or several, a batch of any architectures, or one graph to :class:`Features`.

    Raises:
        InvalidGraphError: if it is none of these, or its nodes or edges were changed.
    """
    if isinstance(networks, Features):
        return networks
    if isinstance(networks, NeuralGraphStack):
        return Features.of(networks.architecture, networks.x, networks.edge_attr)
    if isinstance(networks, (list, tuple)) and networks:
        return _side_by_side(networks)
    if not isinstance(networks, NeuralGraph):
        raise InvalidGraphError(
            f"a metanetwork was given a {type(networks).__name__}; expected a NeuralGraphStack "
            "or a list of some, a NeuralGraph, or a PyG Batch of NeuralGraphs."
        )
    if not isinstance(networks, Batch):
        architecture = networks.architecture
        if networks.is_materialised:
            check_readable(networks)
            return Features.of(architecture, networks.x, networks.edge_attr)
        # Without the indices, which are several times as large as the network.
        return Features.of(architecture, *pack(architecture, networks.parameters()))
    check_readable(networks)
    x, edge_attr = cast(Tensor, networks.x), cast(Tensor, networks.edge_attr)
    architectures = networks.architecture
    one, count = architectures[0], len(architectures)
    if all(other == one for other in architectures[1:]):
        # Networks of one architecture lie in a batch as they do in a stack.
        edge_attr = edge_attr.reshape(count, one.num_edges, -1)
        return Features.of(one, x.reshape(count, one.num_nodes, -1), edge_attr)
    topology = Topology.of_batch(architectures).to(x.device)
    return Features(topology, x, order_edges(topology, edge_attr))


def _side_by_side(stacks: Sequence[NeuralGraphStack]) -> Features:
    """Lay the networks of several stacks side by side, without a graph for each of them."""
    if len(stacks) == 1:
        return input_features(stacks[0])
    topology = Topology.of_batch([s.architecture for s in stacks for _ in range(len(s))])
    topology = topology.to(stacks[0].x.device)

    def joined(values: list[Tensor]) -> Tensor:
        size = max(value.shape[-1] for value in values)
        return torch.cat([pad(v, (0, size - v.shape[-1])).flatten(0, 1) for v in values])

    edges = joined([stack.edge_attr for stack in stacks])
    return Features(topology, joined([stack.x for stack in stacks]), order_edges(topology, edges))


def output_networks(features: Features, like: Networks) -> Any:
    """Bring features to the form that networks were given in: undoes ``input_features``.

    A stack, a graph and a PyG batch keep what else they carry, such as ``y``.

    ``features`` are of networks of the same architectures, in the same order.
    """
    if isinstance(like, Features):
        return features
    if isinstance(like, NeuralGraphStack):
        x, edge_attr = features.x, features.edge_attr
        return NeuralGraphStack(like.architecture, x, edge_attr, like.y, like.integers)
    if not isinstance(like, NeuralGraph):
        return _apart(features, like)
    if not isinstance(like, Batch):
        integers = like.integers if like.architecture.integers else None
        values = unpack(like.architecture, features.x, features.edge_attr, integers)
        return like.with_parameters(values)
    out = copy(like)
    edge_attr = restore_edges(features.topology, features.edge_attr)
    out.x = features.x.reshape(-1, features.x.shape[-1])
    out.edge_attr = edge_attr.reshape(-1, edge_attr.shape[-1])
    return out


def _apart(features: Features, like: Sequence[NeuralGraphStack]) -> list[NeuralGraphStack]:
    """Return the networks of several stacks that were laid side by side as stacks again."""
    if len(like) == 1:
        return [output_networks(features, like[0])]
    edges = restore_edges(features.topology, features.edge_attr)
    out, node, edge = [], 0, 0
    for stack in like:
        a, count = stack.architecture, len(stack)
        nodes, weights = count * a.num_nodes, count * a.num_edges
        x = features.x[node : node + nodes, : len(a.column_names)]
        e = edges[edge : edge + weights, : a.num_taps]
        x, e = x.reshape(count, a.num_nodes, -1), e.reshape(count, a.num_edges, a.num_taps)
        out.append(NeuralGraphStack(a, x, e, stack.y, stack.integers))
        node, edge = node + nodes, edge + weights
    return out


class Fitted(nn.Module, ABC):
    """A part of a metanetwork that takes something from training networks, such as scales."""

    @abstractmethod
    def fit(self, networks: Networks) -> None:
        """Take it, once, before training."""
