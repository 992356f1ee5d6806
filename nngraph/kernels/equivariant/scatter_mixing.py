"""Pool and broadcast of the equivariant linear layer as message passing over ``edge_index``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture, Topology
from nngraph.kernels.backends.scatter import torch_scatter
from nngraph.kernels.equivariant.terms import Terms

#: One table per permuted group, ``[B, d_k, c_k C]``, and the global one, ``[B, S C]``.
Tables = tuple[list[Tensor], Tensor]


@dataclass(frozen=True)
class _Index:
    """Rows of the tables that the entries of a batch write to and read from.

    Attributes:
        edge_rows, node_rows: entry and row ``[2, *]`` of the neuron tables; an edge between two
            permuted groups has one row at its target and one at its source.
        edge_slots, node_slots: entry and slot ``[2, *]`` of the global table.
        mixed: for each tensor with edge mixing, its edges.
    """

    edge_rows: Tensor
    node_rows: Tensor
    edge_slots: Tensor
    node_slots: Tensor
    mixed: tuple[Tensor, ...]


class ScatterMixing(nn.Module):
    """Tables of :class:`~nngraph.kernels.equivariant.terms.Terms` filled and read entry by entry.

    Each edge sends its features to (target neuron, slot), (source neuron, slot) and (network,
    slot), and reads its new features from the same places; nodes likewise. Which slot follows from
    the two neurons alone, so that edges may stand in any order.

    Raises:
        MissingDependencyError: if torch-scatter is not installed.
    """

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        torch_scatter()  # refuse here, not at the first call
        self.terms = terms
        self.num_nodes, self.num_edges = terms.architecture.num_nodes, terms.architecture.num_edges
        #: first row of each table's rows within one network, and their number
        self.starts = [0]
        for table in terms.tables:
            self.starts.append(self.starts[-1] + table.size * table.slots)
        edge_rows: list[tuple[Tensor, Tensor]] = []
        node_rows: list[tuple[Tensor, Tensor]] = []
        edge_slots = torch.full((self.num_edges,), -1)
        node_slots = torch.full((self.num_nodes,), -1)
        counts = torch.ones(self.starts[-1])
        sizes = torch.ones(terms.num_slots)
        for i, (tensor, slot) in enumerate(zip(terms.tensors, terms.slots, strict=True)):
            entries = torch.arange(tensor.start, tensor.stop).reshape(tensor.shape)
            places = torch.meshgrid(*map(torch.arange, tensor.shape), indexing="ij")
            free = torch.zeros_like(entries)
            for place, size, moved in zip(places, tensor.shape, tensor.permuted, strict=True):
                if not moved:
                    free = free * size + place
            for k, part in terms.parts_of(i):
                table = terms.tables[k]
                rows = self.starts[k] + places[part.axis] * table.slots + part.start + free
                counts[rows] = part.pooled
                found = edge_rows if tensor.on_edges else node_rows
                found.append((entries.flatten(), rows.flatten()))
            (edge_slots if tensor.on_edges else node_slots)[entries] = slot.start + free
            sizes[slot.start : slot.stop] = slot.pooled
        self._add("edge_rows", _pairs(edge_rows))
        self._add("node_rows", _pairs(node_rows))
        for name, all_slots in (("edge_slots", edge_slots), ("node_slots", node_slots)):
            entries = torch.nonzero(all_slots >= 0).flatten()
            self._add(name, torch.stack([entries, all_slots[entries]]))
        self._add("counts", counts)
        self._add("sizes", sizes)
        topology = Topology.of(terms.architecture)
        keys = (topology.source * topology.num_nodes + topology.target).sort()
        self._add("keys", keys.values)
        self._add("edges", keys.indices)

    def _add(self, name: str, value: Tensor) -> None:
        # Derived from the architecture, so no part of the state dict.
        self.register_buffer(name, value, persistent=False)

    def forward(
        self, x: Tensor, edge_attr: Tensor, bias: Tensor | None, *weights: Tensor,
        edge_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Apply the layer, as :meth:`DenseMixing.forward`; edges may stand in any order.

        Args:
            edge_index: ``[2, B E]`` of a PyG batch; default the architecture's own order.

        Raises:
            InvalidGraphError: if the edges are not those of the architecture, each once.
        """
        index = self._index(len(x), x.device, edge_index)
        tables, whole = self._pool(index, x, edge_attr)
        count = len(tables) + 1
        mixed = [linear(table, w) for table, w in zip(tables, weights[1:count], strict=True)]
        whole = linear(whole, weights[0], bias)
        return self._broadcast(index, (mixed, whole), edge_attr, weights[count:])

    def _index(
        self, batch: int, device: torch.device, edge_index: Tensor | None = None
    ) -> _Index:
        """Derive the rows of a batch of B networks, from its edges where these are given."""
        terms, place = self.terms, None
        if edge_index is not None:
            keys = self.get_buffer("keys"), self.get_buffer("edges")
            place = _place_edges(terms.architecture, keys, batch, edge_index)

        def over(pairs: Tensor, entries: int, rows: int, moved: Tensor | None) -> Tensor:
            step = torch.tensor([[entries], [rows]], device=device).unsqueeze(-1)
            networks = torch.arange(batch, device=device).reshape(1, -1, 1)
            flat = (pairs.to(device).unsqueeze(1) + step * networks).flatten(1)
            return flat if moved is None else torch.stack([moved[flat[0]], flat[1]])

        def mixed(tensor: int) -> Tensor:
            spec = terms.tensors[tensor]
            entries = torch.arange(spec.start, spec.stop).expand(2, -1)
            return over(entries, self.num_edges, 0, place)[0]

        return _Index(
            over(self.get_buffer("edge_rows"), self.num_edges, self.starts[-1], place),
            over(self.get_buffer("node_rows"), self.num_nodes, self.starts[-1], None),
            over(self.get_buffer("edge_slots"), self.num_edges, terms.num_slots, place),
            over(self.get_buffer("node_slots"), self.num_nodes, terms.num_slots, None),
            tuple(mixed(tensor) for tensor in terms.edge_mixing),
        )

    def _pool(self, index: _Index, x: Tensor, edge_attr: Tensor) -> Tables:
        """Scatter ``x [B, N, C]`` and ``edge_attr [B, E, C]`` into the tables, as means."""
        batch, channels = len(x), x.shape[-1]
        nodes, edges = x.flatten(0, 1), edge_attr.flatten(0, 1)

        def table(edge_pairs: Tensor, node_pairs: Tensor, rows: int, count: Tensor) -> Tensor:
            values = torch.cat([edges[edge_pairs[0]], nodes[node_pairs[0]]])
            at = torch.cat([edge_pairs[1], node_pairs[1]])
            total: Tensor = torch_scatter().scatter(
                values, at, 0, dim_size=batch * rows, reduce="sum"
            )
            total = total.reshape(batch, rows, channels)
            return total / count.to(total.dtype).unsqueeze(-1)

        local = table(
            index.edge_rows, index.node_rows, self.starts[-1], self.get_buffer("counts")
        )
        whole = table(
            index.edge_slots, index.node_slots, self.terms.num_slots, self.get_buffer("sizes")
        )
        parts = torch.split(local, [t.size * t.slots for t in self.terms.tables], dim=1)
        tables = [
            part.reshape(batch, table.size, -1)
            for part, table in zip(parts, self.terms.tables, strict=True)
        ]
        return tables, whole.flatten(1)

    def _broadcast(
        self, index: _Index, tables: Tables, edge_attr: Tensor, weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Read every entry's new features from the tables, and mix each edge with itself."""
        batch = len(edge_attr)
        channels = tables[1].shape[-1] // self.terms.num_slots
        whole = tables[1].reshape(-1, channels)
        rows = [table.reshape(batch, -1, channels) for table in tables[0]]
        local = torch.cat(rows, dim=1).flatten(0, 1) if rows else whole[:0]
        edges = edge_attr.flatten(0, 1)

        def read(pairs: Tensor, slots: Tensor, count: int) -> Tensor:
            made = _add_rows(whole.new_zeros(count, channels), slots, whole)
            return _add_rows(made, pairs, local)

        x = read(index.node_rows, index.node_slots, batch * self.num_nodes)
        e = read(index.edge_rows, index.edge_slots, batch * self.num_edges)
        for own, weight in zip(index.mixed, weights, strict=True):
            e = e.index_add(0, own, (edges[own] @ weight.mT).to(e.dtype))
        return x.reshape(batch, -1, channels), e.reshape(batch, -1, channels)


def _pairs(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    if not found:
        return torch.zeros(2, 0, dtype=torch.long)
    entries, rows = zip(*found, strict=True)
    return torch.stack([torch.cat(entries), torch.cat(rows)])


def _place_edges(
    architecture: Architecture, keys: tuple[Tensor, Tensor], batch: int, edge_index: Tensor
) -> Tensor:
    """Return where each edge of B networks, in the architecture's order, stands: ``[B E]``.

    Args:
        keys: the edges u -> v as sorted keys u * N + v, and which of all edges each is.
        edge_index: ``[2, B E]``, of the networks side by side, edges in any order.

    Raises:
        InvalidGraphError: if an edge is unknown, missing or there twice.
    """
    known_keys, edges = keys
    expected = (2, batch * architecture.num_edges)
    if tuple(edge_index.shape) != expected:
        raise InvalidGraphError(
            f"edge_index has shape {tuple(edge_index.shape)}; {batch} networks of the "
            f"architecture {architecture} expect {expected}."
        )
    network = edge_index[0] // architecture.num_nodes
    source, target = edge_index - network * architecture.num_nodes
    key = source * architecture.num_nodes + target
    at = torch.searchsorted(known_keys, key).clamp(max=max(len(known_keys) - 1, 0))
    known = (known_keys[at] == key) & (target >= 0) & (target < architecture.num_nodes)
    own = network * architecture.num_edges + edges[at]
    count = torch.bincount(own[known], minlength=expected[1]) if bool(known.all()) else None
    if count is None or len(count) != expected[1] or bool((count != 1).any()):
        raise InvalidGraphError(
            "edge_index is not that of a batch of networks of the architecture "
            f"{architecture}: an edge is unknown, missing or there twice. Edges "
            "come from the architecture; use the edge_index of a PyG Batch of its graphs."
        )
    return torch.empty_like(own).scatter_(0, own, torch.arange(len(own), device=own.device))


def _add_rows(out: Tensor, pairs: Tensor, table: Tensor) -> Tensor:
    """Add to entries ``[K, C]``, for each pair (entry, row) ``[2, *]``, that row of a table."""
    entries, rows = pairs
    return out.index_add(0, entries, table.index_select(0, rows).to(out.dtype))
