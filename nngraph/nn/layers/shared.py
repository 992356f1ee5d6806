"""An equivariant linear layer whose parameters do not depend on the architecture."""

from __future__ import annotations

import math

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

    Shape:
        on any topology: x ``[*, N, C_in]``, edge_attr ``[*, E, C_in]`` in the topology's order ->
        the same with C_out. x of neurons without a bias is not read and is 0 in the output.
    """

    _pairs: Tensor
    _own: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: int = 2,
        bias: bool = True,
        backend: str = "auto",
        kinds: TensorKinds | None = None,
    ) -> None:
        super().__init__(kinds or TensorKinds.every(levels))
        kinds = self.kinds
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend
        shape = out_channels, in_channels
        self.edge_weight = nn.Parameter(torch.empty(len(kinds.blocks), *shape))
        self.node_weights = nn.ParameterList(
            torch.empty(len(parts) * out_channels, len(parts) * in_channels)
            for parts in kinds.parts
        )
        self.pair_weight = nn.Parameter(torch.empty(len(kinds.pairs), *shape))
        repeated = len(kinds.repeated)
        self.own_weight = nn.Parameter(torch.empty(repeated, *shape)) if repeated else None
        # Blocks first, then biases.
        self.bias = nn.Parameter(torch.empty(kinds.slots, out_channels)) if bias else None
        self._nearest_groups = kinds.nearest(kinds.groups)
        pairs = torch.tensor(kinds.pairs, dtype=torch.long).reshape(-1, 2).mT
        self.register_buffer("_pairs", pairs, persistent=False)
        own = torch.full((kinds.slots + 1,), repeated)
        own[list(kinds.repeated)] = torch.arange(repeated)
        self.register_buffer("_own", own, persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0) -> None:
        """Draw the weights; an edge's own product gives 3/4 of its variance, as a neuron's does."""
        fan_in = self.in_channels
        self.edge_weight.normal_(0, gain * math.sqrt(0.75 / fan_in))
        shares = 0.25 / 4, 0.25 / 4, 0.75
        for parts, weight in zip(self.kinds.parts, self.node_weights, strict=True):
            for part, rows in zip(parts, weight.split(self.out_channels), strict=True):
                rows.normal_(0, gain * math.sqrt(shares[part] / (len(parts) * fan_in)))
        if self.own_weight is not None:
            self.own_weight.normal_(0, gain * math.sqrt(0.25 / 4 / fan_in))
        # A network has few of the kinds; the slots of the others are 0.
        self.pair_weight.normal_(0, gain * math.sqrt(0.25 / 4 / (self.kinds.most * fan_in)))
        if self.bias is not None:
            self.bias.zero_()

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
        h_in, h_out, h_bias = self._mix_neurons(topology, received).chunk(PARTS, dim=-1)
        groups = kernels.pool(x, topology.nodes.group)
        block_part, group_part = self._mix(topology, blocks, groups)
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
        each = received.chunk(PARTS, dim=-1)
        none = received.new_zeros(*received.shape[:-1], self.out_channels)
        if not parts:
            return torch.cat([none] * PARTS, dim=-1)
        mixed = linear(torch.cat([each[part] for part in parts], dim=-1), weight)
        found = dict(zip(parts, mixed.chunk(len(parts), dim=-1), strict=True))
        return torch.cat([found.get(part, none) for part in range(PARTS)], dim=-1)

    def _mix(self, topology: Topology, blocks: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the means of all blocks ``[*, K, C]`` and groups ``[*, G, C]`` of each network."""
        own, rows = self.slots(topology), self.kinds.slots + 1
        graph = topology.blocks.graph.joined(topology.groups.graph)
        slot = graph.index * rows + own
        values = torch.cat([blocks, groups], dim=-2)
        sizes = slot.new_zeros(graph.count * rows).index_add(0, slot, torch.ones_like(slot))
        table = kernels.pool(values, Members(slot, sizes))
        table = torch.unflatten(table, -2, (graph.count, rows)).movedim(-2, 0)
        # [pairs, networks, C]; of each slot what those that it meets say.
        lead = table.shape[1:-1]
        said = table.index_select(0, self._pairs[1]).flatten(1, -2) @ self.pair_weight.mT
        mixed = said.new_zeros(rows, *said.shape[1:]).index_add(0, self._pairs[0], said)
        mixed = torch.unflatten(mixed, 1, lead).movedim(0, -2).flatten(-3, -2)
        out = mixed.index_select(-2, slot)
        if self.own_weight is not None:
            out = out + self._to_themselves(self.own_weight, values, own)
        if self.bias is not None:
            out = out + pad(self.bias, (0, 0, 0, 1))[own]
        count = blocks.shape[-2]
        return out[..., :count, :], out[..., count:, :]

    def _to_themselves(self, weight: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        """Return what tensors of slots that are repeated say to themselves alone."""
        # Products of all with each matrix: as many matrices as tensors would be many more numbers.
        said = linear(values, weight.flatten(0, 1))
        said = torch.unflatten(said, -1, (-1, self.out_channels))
        index = self._own[slots].reshape(-1, 1, 1).expand(*said.shape[:-2], 1, said.shape[-1])
        return pad(said, (0, 0, 0, 1)).gather(-2, index).squeeze(-2)

    def extra_repr(self) -> str:
        sizes = f"in_channels={self.in_channels}, out_channels={self.out_channels}"
        return f"{sizes}, levels={self.kinds.levels}"


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
        self, channels: int, levels: int = 2, eps: float = 1e-5, kinds: TensorKinds | None = None
    ) -> None:
        super().__init__(kinds or TensorKinds.every(levels))
        self.eps = eps
        #: by slot
        self.weight = nn.Parameter(torch.ones(self.kinds.slots, channels))
        self.bias = nn.Parameter(torch.zeros(self.kinds.slots, channels))

    def forward(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        blocks, groups = self.scales(topology)
        return normalise_tensors(topology, x, edge_attr, groups, blocks, self.eps)

    def scales(self, topology: Topology) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the scale and shift of each block ``[K, C]``, and of each group ``[G, C]``."""
        slots, count = self.slots(topology), len(topology.blocks.size)
        scale, shift = (pad(v, (0, 0, 0, 1))[slots] for v in (self.weight, self.bias))
        return (scale[:count], shift[:count]), (scale[count:], shift[count:])
