"""An equivariant linear layer whose parameters do not depend on the architecture."""

from __future__ import annotations

import math
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from nngraph import kernels
from nngraph.graph import Members, Topology
from nngraph.nn.common.pointwise import normalise_tensors
from nngraph.nn.layers.kinds import PARTS, TensorKinds, kinds_of

_SIDES: tuple[kernels.Side, ...] = ("target", "source", "block")


class OfKinds(nn.Module):
    """A module with parameters for each of the :class:`~nngraph.nn.layers.kinds.TensorKinds`."""

    _tables: Tensor

    def __init__(self, kinds: TensorKinds) -> None:
        super().__init__()
        self.kinds = kinds
        self.register_buffer("_tables", kinds.tables(), persistent=False)

    def slots(self, topology: Topology) -> Tensor:
        """Slots of all blocks and groups ``[K + G]``; one more for groups without biases."""
        of_block, of_group = kinds_of(topology, self.kinds.levels)
        first = topology.groups.size.cumsum(0) - topology.groups.size
        slot = self._tables[1][of_group].where(topology.nodes.has_bias[first], self.kinds.slots)
        return torch.cat([self._tables[0][of_block], slot])


class TensorMixing(OfKinds):
    r"""Affine map of one vector for each tensor of a network, with weights by pairs of slots.

    .. math:: u_k = \sum_{m} \Gamma_{s(k) m}\, \mathrm{mean}_{k': s(k') = m}\, z_{k'}
        + \Gamma^0_{s(k)} z_k + \beta_{s(k)}

    with s(k) the slot of a tensor, m those that it meets, and the second term where a network has
    several tensors of the slot, without which it is one with the first.

    Args:
        sizes: of vectors of blocks, and of groups, before; and after.
        bias: whether there is :math:`\beta`.

    Shape:
        of blocks ``[*, K, C_e]`` and groups ``[*, G, C]`` -> the same.
    """

    def __init__(
        self, kinds: TensorKinds, sizes: tuple[tuple[int, int], tuple[int, int]], bias: bool
    ) -> None:
        super().__init__(kinds)
        before, self.sizes = sizes
        first = len(kinds.blocks)
        self.counts = first, kinds.slots - first
        # Slots of blocks and of groups are two sides, each counted from 0; "01": to blocks.
        sides = [(slot >= first, slot - first * (slot >= first)) for slot in range(kinds.slots)]
        self.pairs, self.own, self.bias = (nn.ParameterDict() for _ in range(3))
        for to, of in product(range(2), repeat=2):
            pairs = [
                (sides[i][1], sides[j][1]) for i, j in kinds.pairs
                if (sides[i][0], sides[j][0]) == (to, of)
            ]  # fmt: skip
            if pairs:
                weight = torch.empty(len(pairs), self.sizes[to], before[of])
                self.pairs[f"{to}{of}"] = nn.Parameter(weight)
                self.register_buffer(f"_pairs{to}{of}", torch.tensor(pairs).mT, persistent=False)
        for side in range(2):
            repeated = [sides[slot][1] for slot in kinds.repeated if sides[slot][0] == side]
            if repeated:
                weight = torch.empty(len(repeated), self.sizes[side], before[side])
                self.own[f"{side}"] = nn.Parameter(weight)
                rank = torch.full((self.counts[side] + 1,), len(repeated))
                rank[repeated] = torch.arange(len(repeated))
                self.register_buffer(f"_own{side}", rank, persistent=False)
            if bias and self.counts[side]:
                self.bias[f"{side}"] = nn.Parameter(
                    torch.empty(self.counts[side], self.sizes[side])
                )

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0) -> None:
        """Draw the weights: each of the two terms gives as much variance as a vector has."""
        for weight in self.own.values():
            weight.normal_(0, gain / math.sqrt(weight.shape[-1]))
        for weight in self.pairs.values():
            weight.normal_(0, gain / math.sqrt(self.kinds.most * weight.shape[-1]))
        for bias in self.bias.values():
            bias.zero_()

    def forward(self, topology: Topology, *values: Tensor) -> tuple[Tensor, Tensor]:
        graphs = topology.num_graphs
        of_block, of_group = torch.split(self.slots(topology), [v.shape[-2] for v in values])
        slots = of_block, of_group - self.counts[0]
        tables, rows = [], []
        for own, value, count, graph in zip(
            slots, values, self.counts, (topology.blocks.graph, topology.groups.graph), strict=True
        ):
            row = graph.index * (count + 1) + own
            sizes = row.new_zeros(graphs * (count + 1)).index_add(0, row, torch.ones_like(row))
            table = kernels.pool(value, Members(row, sizes))
            tables.append(torch.unflatten(table, -2, (graphs, count + 1)).movedim(-2, 0))
            rows.append(row)
        # [slots, networks, C]: of each slot what those that it meets say.
        lead = tables[0].shape[1:-1]
        said = [
            table.new_zeros(len(table), lead.numel(), size)
            for table, size in zip(tables, self.sizes, strict=True)
        ]
        for name, weight in self.pairs.items():
            to, of = map(int, name)
            at, by = self._indices(f"_pairs{name}")
            heard = tables[of].index_select(0, by).flatten(1, -2)
            # Under autocast products are of another precision than sums.
            product = (heard @ weight.mT).to(said[to].dtype)
            said[to] = said[to].index_add(0, at, product)
        out = []
        for side in range(2):
            mixed = torch.unflatten(said[side], 1, lead).movedim(0, -2).flatten(-3, -2)
            mixed = mixed.index_select(-2, rows[side])
            if f"{side}" in self.own:
                mixed = mixed + self._to_themselves(f"{side}", values[side], slots[side])
            if f"{side}" in self.bias:
                mixed = mixed + pad(self.bias[f"{side}"], (0, 0, 0, 1))[slots[side]]
            out.append(mixed)
        return out[0], out[1]

    def _indices(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, name))

    def _to_themselves(self, side: str, values: Tensor, slots: Tensor) -> Tensor:
        """Return what tensors of slots that are repeated say to themselves alone."""
        # Products of all with each matrix: as many matrices as tensors would be many more numbers.
        weight = self.own[side]
        said = torch.unflatten(linear(values, weight.flatten(0, 1)), -1, weight.shape[:2])
        index = self._indices(f"_own{side}")[slots].reshape(-1, 1, 1)
        index = index.expand(*said.shape[:-2], 1, said.shape[-1])
        return pad(said, (0, 0, 0, 1)).gather(-2, index).squeeze(-2)


class SharedEquivariantLinear(OfKinds):
    r"""Equivariant affine map with weights by kind of tensor and place: one layer for all MLPs.

    .. math::
        h_i &= \Theta_{k(i)} \big[\mathrm{mean}_j e_{ij}, \mathrm{mean}_l e_{li}, x_i\big], \quad
        (h^{in}_i, h^{out}_i, h^{bias}_i) = h_i \\
        e_{ij} &\leftarrow \Lambda_{k(ij)} e_{ij} + h^{in}_i + h^{out}_j + g_{k(ij)}
        + \Gamma_{k(ij)} \mathrm{mean}(\text{block}) + \beta_{k(ij)} \\
        x_i &\leftarrow h^{bias}_i + g_{k(i)}
        + \Gamma_{k(i)} \mathrm{mean}(\text{group}) + \beta_{k(i)}

    with k the kind: how far from the inputs and to the outputs, ``levels`` and beyond counting
    alike, and g a linear map of the means of each kind of tensor in the network. A ragged batch of
    different MLPs is read at once. Inputs and outputs are treated as relabelled (``permute_io``);
    give their places as features.

    In a network of at most ``2 * levels`` weights every tensor is a kind of its own and the layer
    is complete for ``permute_io=True`` (4 L^2 + 10 L - 4 elements). In deeper ones it still reaches
    every element of every pair of tensors, but tensors of one kind share their coefficients.

    There are coefficients for the kinds that are said to occur, and for the pairs of them that
    meet; those of one network as above are as many as the elements. Other networks are read too:
    a kind that does not occur counts as the nearest that does, and pairs that do not meet say
    nothing to one another.

    Args:
        in_channels, out_channels: C_in and C_out per parameter.
        levels: distances from the inputs and outputs that are told apart.
        bias: whether there are constants, one per kind and channel.
        backend: of :mod:`nngraph.kernels`.
        kinds: those that occur, in place of ``levels``; every pair of all kinds by default.
        edge_channels: of weights, before and after, where they have others than biases.

    Shape:
        on any topology: x ``[*, N, C_in]``, edge_attr ``[*, E, C_in]`` in the topology's order ->
        the same with C_out. x of neurons without a bias is not read and is 0 in the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: int = 2,
        bias: bool = True,
        backend: str = "auto",
        kinds: TensorKinds | None = None,
        edge_channels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(kinds or TensorKinds.every(levels))
        kinds = self.kinds
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend
        self.edge_channels = edge_channels or (in_channels, out_channels)
        before, after = self.edge_channels
        #: of what is heard and said at the edges into a neuron, at those out of it, and at itself
        self.heard = [before, before, in_channels]
        self.said = [after, after, out_channels]
        self.edge_weight = nn.Parameter(torch.empty(len(kinds.blocks), after, before))
        self.node_weights = nn.ParameterList(
            torch.empty(sum(self.said[i] for i in parts), sum(self.heard[i] for i in parts))
            for parts in kinds.parts
        )
        sizes = (before, in_channels), (after, out_channels)
        self.tensors = TensorMixing(kinds, sizes, bias)
        self._nearest_groups = kinds.nearest(kinds.groups)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0) -> None:
        """Draw the weights; an edge's own product gives 3/4 of its variance, as a neuron's does."""
        self.edge_weight.normal_(0, gain * math.sqrt(0.75 / self.edge_channels[0]))
        shares = 0.25 / 4, 0.25 / 4, 0.75
        for parts, weight in zip(self.kinds.parts, self.node_weights, strict=True):
            sizes = [self.said[i] for i in parts]
            for part, rows in zip(parts, torch.split(weight, sizes), strict=True):
                rows.normal_(0, gain * math.sqrt(shares[part] / weight.shape[1]))
        self.tensors.reset_parameters(gain * math.sqrt(0.25 / 4))

    def forward(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        blocks, _ = kinds_of(topology, self.kinds.levels)
        has_bias = topology.nodes.has_bias.to(x.dtype).unsqueeze(-1)
        h_in, h_out, h_bias, block_part = self._apart(topology, x * has_bias, edge_attr)
        weight = self.edge_weight[self._tables[0][blocks]]
        mixed = kernels.multiply_blocks(topology, edge_attr, weight, self.backend)
        mixed = mixed + kernels.gather(topology, block_part, "block", self.backend)
        edges = kernels.edge_affine(topology, mixed, h_out, h_in, backend=self.backend)
        return h_bias * has_bias, edges

    def _apart(self, topology: Topology, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """Return all but the product at edges: what is added at their targets, sources and blocks.

        And what neurons become, between the first two and the last.
        """
        incoming, outgoing, blocks = self._pool_edges(topology, e)
        received = torch.cat([incoming, outgoing, x], dim=-1)
        mixed = self._mix_neurons(topology, received)
        h_in, h_out, h_bias = torch.split(mixed, self.said, dim=-1)
        groups = kernels.pool(x, topology.nodes.group)
        block_part, group_part = self.tensors(topology, blocks, groups)
        h_bias = h_bias + kernels.broadcast(group_part, topology.nodes.group)
        return h_in, h_out, h_bias, block_part

    def _pool_edges(self, topology: Topology, e: Tensor) -> tuple[Tensor, ...]:
        """Pool the edges into and out of each neuron, and of each block."""
        return tuple(kernels.reduce(topology, e, s, "mean", backend=self.backend) for s in _SIDES)

    def _mix_neurons(self, topology: Topology, received: Tensor) -> Tensor:
        """Multiply what each neuron hears by the matrix of its kind."""
        pieces, at, levels = [], 0, self.kinds.levels
        for level, height, nodes in topology.places:
            kind = min(level, levels) * (levels + 1) + min(height, levels)
            pieces.append(self._of_kind(self._nearest_groups[kind], kernels.take(received, nodes)))
            at = nodes.stop if nodes.index is None and nodes.start == at else -1
        mixed = torch.cat(pieces, dim=-2)
        if at == topology.num_nodes:  # as in a stack of chains: they lie in order
            return mixed
        every = torch.arange(topology.num_nodes, device=received.device).unsqueeze(-1)
        rows = torch.cat([kernels.take(every, nodes) for *_, nodes in topology.places])
        return torch.zeros_like(mixed).index_copy(-2, rows.squeeze(-1), mixed)

    def _of_kind(self, kind: int, received: Tensor) -> Tensor:
        """Mix the parts that neurons of a kind have; they say 0 at the others."""
        parts, weight = self.kinds.parts[kind], self.node_weights[kind]
        if len(parts) == PARTS:
            return linear(received, weight)
        each = torch.split(received, self.heard, dim=-1)
        found = [received.new_zeros(*received.shape[:-1], size) for size in self.said]
        if parts:
            mixed = linear(torch.cat([each[part] for part in parts], dim=-1), weight)
            own = torch.split(mixed, [self.said[part] for part in parts], dim=-1)
            for part, value in zip(parts, own, strict=True):
                found[part] = value
        return torch.cat(found, dim=-1)

    def extra_repr(self) -> str:
        sizes = f"in_channels={self.in_channels}, out_channels={self.out_channels}"
        return f"{sizes}, edge_channels={self.edge_channels}, levels={self.kinds.levels}"


class SharedTensorNorm(OfKinds):
    r"""Normalise each tensor by its own mean and variance; scales and shifts by its kind.

    .. math:: \hat A_c = \gamma_{k(A),c} \frac{A_c - \mu_A}{\sqrt{\sigma_A^2 + \epsilon}}
        + \beta_{k(A),c}

    The :class:`~nngraph.nn.TensorNorm` of networks of any architectures: statistics of all entries
    and channels of one tensor of one network, kinds as in :class:`SharedEquivariantLinear`.

    Shape:
        on any topology: x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> the same; x of neurons without
        a bias is 0 in the output.
    """

    def __init__(
        self, channels: int, levels: int = 2, eps: float = 1e-5, kinds: TensorKinds | None = None,
        edge_channels: int | None = None,
    ) -> None:
        super().__init__(kinds or TensorKinds.every(levels))
        self.eps = eps
        blocks = len(self.kinds.blocks)
        sizes = (blocks, edge_channels or channels), (self.kinds.slots - blocks, channels)
        #: by slot: of blocks, and of groups
        self.weights = nn.ParameterList(torch.ones(size) for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes)

    def forward(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        slots, count = self.slots(topology), len(topology.blocks.size)
        blocks = self._scales(0, slots[:count])
        groups = self._scales(1, slots[count:] - len(self.kinds.blocks))
        return normalise_tensors(topology, x, edge_attr, groups, blocks, self.eps)

    def _scales(self, side: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale and shift of each tensor of one side; 0 where it has no slot."""
        weight, bias = (pad(v[side], (0, 0, 0, 1))[slots] for v in (self.weights, self.biases))
        return weight, bias
