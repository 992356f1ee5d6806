"""The networks of a batch: their edges in the topology's order, and their parameters apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nngraph.graph.architecture import Architecture
from nngraph.graph.parameters import unpack
from nngraph.graph.topology.topology import Topology


def order_edges(topology: Topology, edge_attr: Tensor) -> Tensor:
    """Bring edge features ``[E, *]`` of a PyG batch to the topology's order."""
    order = topology.edge_order
    return edge_attr if order is None else edge_attr.index_select(0, order)


def restore_edges(topology: Topology, e: Tensor) -> Tensor:
    """Bring edge features from the topology's order back to that of a PyG batch.

    A stack ``[*, E, C]`` stands in that order already; of a ragged batch ``[E, *]``.
    """
    order = topology.edge_order
    return e if order is None else torch.empty_like(e).index_copy(0, order, e)


@dataclass(frozen=True, eq=False)
class Alike:
    """The networks of one architecture in a batch: parameters ``[n, *shape]`` by name.

    Buffers of whole numbers are left out.
    """

    architecture: Architecture
    parameters: dict[str, Tensor]


class _Places(NamedTuple):
    """Networks ``[n]``, their nodes ``[n, N]`` and edges ``[n, E]`` in a ragged batch."""

    architecture: Architecture
    networks: Tensor
    nodes: Tensor
    edges: Tensor


def split_networks(topology: Topology, x: Tensor, edge_attr: Tensor) -> list[Alike]:
    """Return the networks of a batch as their parameters, those of one architecture together.

    Differentiable. A stack is one part; a ragged batch has one for each distinct architecture, in
    the order in which they occur. x is ``[*, N, F]``, edge_attr ``[*, E, C]`` in the topology's.
    """
    if topology.num_graphs == 1:
        nodes, edges = (value.reshape(-1, *value.shape[-2:]) for value in (x, edge_attr))
        return [Alike(topology.single, _parameters(topology.single, nodes, edges))]
    restored = restore_edges(topology, edge_attr)
    return [
        Alike(at.architecture, _parameters(at.architecture, x[at.nodes], restored[at.edges]))
        for at in _places(topology)
    ]


def join_nodes(topology: Topology, parts: Sequence[Tensor], lead: Sequence[int]) -> Tensor:
    """Put features of the neurons of each part back in place: ``[n, N_a, C]`` -> ``[*, N, C]``."""
    if topology.num_graphs == 1:
        return parts[0].reshape(*lead, *parts[0].shape[-2:])
    rows = torch.cat([at.nodes.flatten() for at in _places(topology)])
    values = torch.cat([part.flatten(0, 1) for part in parts])
    return values.index_select(0, torch.argsort(rows))


def join_networks(topology: Topology, parts: Sequence[Tensor]) -> Tensor:
    """Put one row for each network of each part back in order: ``[n, *]`` -> ``[networks, *]``."""
    if topology.num_graphs == 1:
        return parts[0]
    order = torch.cat([at.networks for at in _places(topology)])
    return torch.cat(list(parts)).index_select(0, torch.argsort(order))


def _parameters(architecture: Architecture, x: Tensor, edge_attr: Tensor) -> dict[str, Tensor]:
    count = sum(parameter.numel for parameter in architecture.integers)
    integers = torch.zeros(len(x), count, dtype=torch.int64, device=x.device)
    values = unpack(architecture, x, edge_attr, integers)
    return {p.name: values[p.name] for p in architecture.parameters if p.integer is None}


@lru_cache(maxsize=16)
def _places(topology: Topology) -> tuple[_Places, ...]:
    distinct = {a: i for i, a in enumerate(dict.fromkeys(topology.architectures))}
    device = topology.nodes.level.device
    kind = torch.tensor([distinct[a] for a in topology.architectures], device=device)

    def rows(own: Tensor, index: int, sizes: list[int]) -> Tensor:
        """Rows of each of the networks ``own``, which lie one after another."""
        every = torch.tensor(sizes, device=device)[kind]
        starts = every.cumsum(0) - every
        return starts[own].unsqueeze(1) + torch.arange(sizes[index], device=device)

    nodes, edges = ([getattr(a, n) for a in distinct] for n in ("num_nodes", "num_edges"))
    owned = [torch.nonzero(kind == index).squeeze(1) for index in range(len(distinct))]
    return tuple(
        _Places(architecture, owned[i], rows(owned[i], i, nodes), rows(owned[i], i, edges))
        for architecture, i in distinct.items()
    )
