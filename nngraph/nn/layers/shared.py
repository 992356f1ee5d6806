"""An equivariant linear layer whose parameters do not depend on the architecture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nngraph import kernels
from nngraph.graph import Members, Topology
from nngraph.nn.common.pointwise import normalise_tensors

_SIDES: tuple[kernels.Side, ...] = ("target", "source", "block")


def kinds_of(topology: Topology, levels: int) -> tuple[Tensor, Tensor]:
    """Return the kinds of blocks ``[K]``, those of their targets, and of groups ``[G]``."""
    level, height = topology.nodes.level, topology.nodes.depth_from_output
    node = level.clamp(max=levels) * (levels + 1) + height.clamp(max=levels)
    first_node = topology.groups.size.cumsum(0) - topology.groups.size
    return node[topology.blocks.target], node[first_node]


class SharedEquivariantLinear(nn.Module):
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

    Args:
        in_channels, out_channels: C_in and C_out per parameter.
        levels: distances from the inputs and outputs that are told apart.
        bias: whether there are constants, one per kind and channel.
        backend: of :mod:`nngraph.kernels`.

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
    ) -> None:
        super().__init__()
        if levels < 0:
            raise ValueError(f"levels is {levels}; expected at least 0.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.levels, self.backend = levels, backend
        kinds = (levels + 1) ** 2
        shape = out_channels, in_channels
        self.edge_weight = nn.Parameter(torch.empty(kinds, *shape))
        self.node_weight = nn.Parameter(torch.empty(kinds, 3 * out_channels, 3 * in_channels))
        # Blocks first, then biases.
        self.own_weight = nn.Parameter(torch.empty(2, kinds, *shape))
        self.global_weight = nn.Parameter(
            torch.empty(2 * kinds * out_channels, 2 * kinds * in_channels)
        )
        self.bias = nn.Parameter(torch.empty(2, kinds, out_channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, gain: float = 1.0) -> None:
        """Draw the weights; an edge's own product gives 3/4 of its variance, as a neuron's does."""
        fan_in = self.in_channels
        self.edge_weight.normal_(0, gain * math.sqrt(0.75 / fan_in))
        share = [0.25 / 4] * 2 + [0.75]
        for rows, part in zip(self.node_weight.chunk(3, dim=1), share, strict=True):
            rows.normal_(0, gain * math.sqrt(part / (3 * fan_in)))
        self.own_weight.normal_(0, gain * math.sqrt(0.25 / 4 / fan_in))
        # A network has few of the kinds; the slots of the others are 0.
        present = 2 * (2 * self.levels + 1)
        self.global_weight.normal_(0, gain * math.sqrt(0.25 / 4 / (present * fan_in)))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        kinds = kinds_of(topology, self.levels)
        has_bias = topology.nodes.has_bias.to(x.dtype).unsqueeze(-1)
        x = x * has_bias
        incoming, outgoing, blocks = self._pool_edges(topology, edge_attr)
        received = torch.cat([incoming, outgoing, x], dim=-1)
        h_in, h_out, h_bias = self._mix_neurons(topology, received).chunk(3, dim=-1)
        groups = kernels.pool(x, topology.nodes.group)
        block_part, group_part = self._mix(topology, kinds, blocks, groups)
        weight = self.edge_weight[kinds[0]]
        mixed = kernels.multiply_blocks(topology, edge_attr, weight, self.backend)
        mixed = mixed + kernels.gather(topology, block_part, "block", self.backend)
        edges = kernels.edge_affine(topology, mixed, h_out, h_in, backend=self.backend)
        nodes = h_bias + kernels.broadcast(group_part, topology.nodes.group)
        return nodes * has_bias, edges

    def _pool_edges(self, topology: Topology, e: Tensor) -> tuple[Tensor, ...]:
        """Pool the edges into and out of each neuron, and of each block."""
        return tuple(kernels.reduce(topology, e, s, "mean", backend=self.backend) for s in _SIDES)

    def _mix_neurons(self, topology: Topology, received: Tensor) -> Tensor:
        """Multiply what each neuron hears by the matrix of its kind."""
        pieces, at = [], 0
        for level, height, nodes in topology.places:
            kind = min(level, self.levels) * (self.levels + 1) + min(height, self.levels)
            pieces.append(linear(kernels.take(received, nodes), self.node_weight[kind]))
            at = nodes.stop if nodes.index is None and nodes.start == at else -1
        mixed = torch.cat(pieces, dim=-2)
        if at == topology.num_nodes:  # as in a stack of chains: they lie in order
            return mixed
        every = torch.arange(topology.num_nodes, device=received.device).unsqueeze(-1)
        rows = torch.cat([kernels.take(every, nodes) for *_, nodes in topology.places])
        return torch.zeros_like(mixed).index_copy(-2, rows.squeeze(-1), mixed)

    def _mix(
        self, topology: Topology, kinds: tuple[Tensor, Tensor], blocks: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mix the means of all blocks ``[*, K, C]`` and groups ``[*, G, C]`` of each network."""
        count = len(self.edge_weight)
        of_block, of_group = kinds
        own = torch.cat([of_block, of_group + count])
        graph = torch.cat([topology.blocks.graph.index, topology.groups.graph.index])
        slot = graph * 2 * count + own
        values = torch.cat([blocks, groups], dim=-2)
        rows = topology.num_graphs * 2 * count
        sizes = slot.new_zeros(rows).index_add(0, slot, torch.ones_like(slot))
        table = kernels.pool(values, Members(slot, sizes))
        # Sizes in full: of an empty stack none could be inferred.
        width = 2 * count * values.shape[-1]
        table = table.reshape(*values.shape[:-2], topology.num_graphs, width)
        mixed = linear(table, self.global_weight)
        mixed = mixed.reshape(*values.shape[:-2], rows, self.out_channels)
        weight = self.own_weight.flatten(0, 1)[own]
        out = mixed.index_select(-2, slot) + torch.einsum("...kc,koc->...ko", values, weight)
        if self.bias is not None:
            out = out + self.bias.flatten(0, 1)[own]
        return out[..., : len(of_block), :], out[..., len(of_block) :, :]

    def extra_repr(self) -> str:
        sizes = f"in_channels={self.in_channels}, out_channels={self.out_channels}"
        return f"{sizes}, levels={self.levels}"


class SharedTensorNorm(nn.Module):
    r"""Normalise each tensor by its own mean and variance; scales and shifts by its kind.

    .. math:: \hat A_c = \gamma_{k(A),c} \frac{A_c - \mu_A}{\sqrt{\sigma_A^2 + \epsilon}}
        + \beta_{k(A),c}

    The :class:`~nngraph.nn.TensorNorm` of networks of any architectures: statistics of all entries
    and channels of one tensor of one network, kinds as in :class:`SharedEquivariantLinear`.

    Shape:
        on any topology: x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> the same; x of neurons without
        a bias is 0 in the output.
    """

    def __init__(self, channels: int, levels: int = 2, eps: float = 1e-5) -> None:
        super().__init__()
        self.levels, self.eps = levels, eps
        #: blocks first, then groups
        self.weight = nn.Parameter(torch.ones(2, (levels + 1) ** 2, channels))
        self.bias = nn.Parameter(torch.zeros(2, (levels + 1) ** 2, channels))

    def forward(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        kinds = kinds_of(topology, self.levels)
        blocks, groups = ((self.weight[i][k], self.bias[i][k]) for i, k in enumerate(kinds))
        return normalise_tensors(topology, x, edge_attr, groups, blocks, self.eps)
