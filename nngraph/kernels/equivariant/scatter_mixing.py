"""Pool and broadcast of the equivariant linear layer as message passing over ``edge_index``."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nngraph.errors import InvalidGraphError
from nngraph.graph import Topology
from nngraph.kernels.backends.scatter import sum_by, torch_scatter
from nngraph.kernels.equivariant.terms import Terms


class ScatterMixing(nn.Module):
    """Tables of :class:`~nngraph.kernels.equivariant.terms.Terms` filled and read entry by entry.

    Each edge sends its features to (target neuron, slot), (source neuron, slot) and (network,
    slot), and reads its new features from the same places; nodes likewise.

    Raises:
        MissingDependencyError: if torch-scatter is not installed.
    """

    #: ``[2, P]`` entries, nodes before edges, and rows, tables of neurons before the global one.
    pairs: Tensor
    #: Number of entries that each row averages.
    counts: Tensor
    #: The edges u -> v as sorted keys u * N + v, and which of all edges each is.
    keys: Tensor
    edges: Tensor

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        torch_scatter()  # refuse here, not at the first call
        self.terms = terms
        self.sizes = [*(table.size * table.slots for table in terms.tables), terms.num_slots]
        starts = list(accumulate(self.sizes, initial=0))
        pairs, counts = [torch.zeros(2, 0, dtype=torch.long)], torch.ones(starts[-1])
        for i, (tensor, slot) in enumerate(zip(terms.tensors, terms.slots, strict=True)):
            first = tensor.start + tensor.on_edges * terms.architecture.num_nodes
            entries = torch.arange(first, first + tensor.stop - tensor.start).reshape(tensor.shape)
            places = torch.meshgrid(*map(torch.arange, tensor.shape), indexing="ij")
            free = torch.zeros_like(entries)
            for place, size, moved in zip(places, tensor.shape, tensor.permuted, strict=True):
                if not moved:
                    free = free * size + place
            rows = [(starts[-2] + slot.start + free, slot.pooled)]
            for k, part in terms.parts_of(i):
                neuron = starts[k] + places[part.axis] * terms.tables[k].slots
                rows.append((neuron + part.start + free, part.pooled))
            for row, pooled in rows:
                counts[row] = pooled
                pairs.append(torch.stack([entries, row]).flatten(1))
        topology = Topology.of(terms.architecture)
        keys = (topology.source * topology.num_nodes + topology.target).sort()
        # Derived from the architecture, so no part of the state dict.
        self.register_buffer("pairs", torch.cat(pairs, dim=1), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("keys", keys.values, persistent=False)
        self.register_buffer("edges", keys.indices, persistent=False)

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
        place = None if edge_index is None else self._places(len(x), edge_index)
        if place is not None:
            edge_attr = edge_attr.flatten(0, 1).index_select(0, place).view_as(edge_attr)
        entries, rows = self.pairs
        # Entries first: sums along the first axis are much the fastest.
        values = torch.cat([x, edge_attr], dim=1).transpose(0, 1).index_select(0, entries)
        total = sum_by(values.flatten(1), rows, len(self.counts))
        means = total / self.counts.to(total.dtype).unsqueeze(-1)
        pooled = torch.unflatten(means, 1, values.shape[1:]).transpose(0, 1)
        *parts, whole = torch.split(pooled, self.sizes, dim=1)
        tables = self.terms.tables
        mixed = [
            linear(torch.unflatten(part, 1, (table.size, table.slots)).flatten(2), weight)
            for part, table, weight in zip(parts, tables, weights[1 : len(tables) + 1], strict=True)
        ]
        mixed.append(linear(whole.flatten(1), weights[0], bias))
        channels = len(weights[0]) // self.terms.num_slots
        made = torch.cat([torch.unflatten(m.flatten(1), 1, (-1, channels)) for m in mixed], dim=1)
        read = made.transpose(0, 1).index_select(0, rows)
        nodes, edges = x.shape[1], edge_attr.shape[1]
        out = read.new_zeros(nodes + edges, *read.shape[1:]).index_add(0, entries, read)
        out = out.transpose(0, 1)
        for index, weight in zip(self.terms.edge_mixing, weights[len(tables) + 1 :], strict=True):
            tensor = self.terms.tensors[index]
            product = edge_attr[:, tensor.start : tensor.stop] @ weight.mT
            out[:, nodes + tensor.start : nodes + tensor.stop] += product
        out_x, out_edges = torch.split(out, [nodes, edges], dim=1)
        if place is not None:
            flat = out_edges.flatten(0, 1)
            out_edges = torch.empty_like(flat).index_copy(0, place, flat).view(out_edges.shape)
        return out_x, out_edges

    def _places(self, batch: int, edge_index: Tensor) -> Tensor:
        """Return where each edge of B networks, in the architecture's order, stands: ``[B E]``."""
        architecture = self.terms.architecture
        expected = (2, batch * architecture.num_edges)
        if tuple(edge_index.shape) != expected:
            raise InvalidGraphError(
                f"edge_index has shape {tuple(edge_index.shape)}; {batch} networks of the "
                f"architecture {architecture} expect {expected}."
            )
        network = edge_index[0] // architecture.num_nodes
        source, target = edge_index - network * architecture.num_nodes
        key = source * architecture.num_nodes + target
        at = torch.searchsorted(self.keys, key).clamp(max=max(len(self.keys) - 1, 0))
        known = (self.keys[at] == key) & (target >= 0) & (target < architecture.num_nodes)
        own = network * architecture.num_edges + self.edges[at]
        count = torch.bincount(own[known], minlength=expected[1]) if bool(known.all()) else None
        if count is None or len(count) != expected[1] or bool((count != 1).any()):
            raise InvalidGraphError(
                "edge_index is not that of a batch of networks of the architecture "
                f"{architecture}: an edge is unknown, missing or there twice. Edges "
                "come from the architecture; use the edge_index of a PyG Batch of its graphs."
            )
        return torch.empty_like(own).scatter_(0, own, torch.arange(len(own), device=own.device))
