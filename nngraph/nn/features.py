"""What every metanetwork reads: a stack, a PyG batch or one graph, brought to one form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch_geometric.data import Batch

from nngraph.errors import InvalidGraphError
from nngraph.graph import NeuralGraph, NeuralGraphStack, Topology, check_readable, order_edges, pack

__all__ = ["Features", "Fitted", "Networks", "input_features"]


@dataclass(frozen=True)
class Features:
    """Node features ``x [*, N, F]`` and edge features ``edge_attr [*, E, C]`` on a topology.

    The leading shape is ``(B,)`` for a stack and empty for a ragged batch or a single graph. Edges
    stand in the order of the topology.
    """

    topology: Topology
    x: Tensor
    edge_attr: Tensor

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


#: What a metanetwork can be called on; a PyG ``Batch`` of neural graphs is a NeuralGraph too.
#: Several stacks are read side by side, one after another.
Networks: TypeAlias = NeuralGraphStack | NeuralGraph | Features | Sequence[NeuralGraphStack]


def input_features(networks: Networks) -> Features:
    """Bring a stack or several, a batch of any architectures, or one graph to :class:`Features`.

    Raises:
        InvalidGraphError: if it is none of these, or its edges or nodes are no longer those of its
            architecture.
    """
    if isinstance(networks, Features):
        return networks
    if isinstance(networks, NeuralGraphStack):
        topology = Topology.of(networks.architecture).to(networks.x.device)
        return Features(topology, networks.x, networks.edge_attr)
    if isinstance(networks, (list, tuple)) and networks:
        return _side_by_side(networks)
    if not isinstance(networks, NeuralGraph):
        raise InvalidGraphError(
            f"a metanetwork was given a {type(networks).__name__}; expected a NeuralGraphStack "
            "or a list of some, a NeuralGraph, or a PyG Batch of NeuralGraphs."
        )
    if not isinstance(networks, Batch) and not networks.is_materialised:
        # Without the indices, which are several times as large as the network.
        x, edge_attr = pack(networks.architecture, networks.parameters())
        return Features(Topology.of(networks.architecture).to(x.device), x, edge_attr)
    check_readable(networks)
    x, edge_attr = cast(Tensor, networks.x), cast(Tensor, networks.edge_attr)
    if not isinstance(networks, Batch):
        return Features(Topology.of(networks.architecture).to(x.device), x, edge_attr)
    architectures = networks.architecture
    if all(architecture == architectures[0] for architecture in architectures[1:]):
        # Networks of one architecture lie in a batch as they do in a stack.
        shared = Topology.of(architectures[0]).to(x.device)
        return Features(
            shared,
            x.reshape(len(architectures), shared.num_nodes, -1),
            edge_attr.reshape(len(architectures), shared.num_edges, -1),
        )
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


class Fitted(nn.Module, ABC):
    """A part of a metanetwork that takes something from training networks, such as scales."""

    @abstractmethod
    def fit(self, networks: Networks) -> None:
        """Take it, once, before training."""
