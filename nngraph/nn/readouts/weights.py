"""Equivariant read-out: from the states of neurons and weights to new weights and biases."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nngraph import kernels
from nngraph.graph import Architecture, Topology, order_edges, pack, slabs_of
from nngraph.nn.common.scales import TensorScales
from nngraph.nn.features import Features, SizeLimits, States
from nngraph.nn.layers.characters import characters_of

#: Columns of nodes that are measured in training and not learned: no edit changes them.
_MEASURED = {"running_mean", "running_var"}


class WeightReadout(nn.Module):
    r"""New weights and biases from states: one network, or several, for each that was read.

    .. math::
        h_i &= \sigma(M \sigma((1 + G z) \odot H x_i + K z)) \\
        W'_{ij} &= W_{ij} + s_l r_l \, \big(\tfrac{1}{\sqrt R} (A h_i)^T (B h_j)
            + u^T e_{ij}\big) \\
        b'_i &= b_i + s_l r_l \, (C h_i + c)

    for each weight from neuron j to neuron i of level l, with affine A, B and C: a map of rank R of
    the neurons at its ends, which is a matrix product for each block and makes nothing of edge size
    but the weights, and what the weight's own state says, where a model keeps one. z is a vector
    for the whole network, which no relabelling changes: a step along a gradient is of this form,
    with z the error at some inputs, and h the responses of the neurons there. r is the root mean
    square of the tensor over a training set (:class:`TensorScales`), and s a learned scale of it,
    small at the start: what comes out begins near what went in.

    Of states with equivariant vectors, incoming p and outgoing q, the factors are :math:`A h_i
    \odot P p_i`, :math:`B h_j \odot Q q_j` and the change of a bias :math:`C h_i \odot R p_i`: what
    comes out is then moved as the networks are, by scales, signs and phases too.

    Commutes with relabelling. A missing bias stays missing, the ones of a residual stay ones, and
    running statistics stay as they are.

    Args:
        channels, edge_channels: C and C_e of the states; C_e is 0 where there are none of weights.
        copies: k, networks made of each one: :func:`nngraph.graph.run_ensemble` averages them, and
            :func:`nngraph.graph.join_ensemble` makes one network of them.
        context: length of z; 0 for none.
        rank: R.
        hidden: width of h.
        scale: s at the start.
        equivariant_vectors: K of the states', 0 for models that know relabelling alone.

    Shape:
        states of any batch, z ``[networks, context]`` -> k :class:`Features` of the same topology.

    Raises:
        ValueError: if a number is out of range, the states lack those of weights, or z is missing.
    """

    def __init__(
        self, limits: SizeLimits, channels: int, edge_channels: int, copies: int = 1,
        context: int = 0, rank: int = 16, hidden: int = 128, scale: float = 0.01,
        equivariant_vectors: int = 0,
    ) -> None:
        super().__init__()
        numbers = {"copies": copies, "rank": rank, "hidden": hidden, "scale": scale}
        if wrong := [name for name, value in numbers.items() if not value > 0]:
            raise ValueError(f"{wrong[0]} is {numbers[wrong[0]]!r}; expected a positive number.")
        self.limits, self.copies, self.rank = limits, copies, rank
        self.scales = TensorScales(limits)
        self.own = nn.Linear(channels, hidden)
        self.received = nn.Linear(context, 2 * hidden, bias=False) if context else None
        self.mix = nn.Linear(hidden, hidden)
        taps, columns = copies * limits.taps, copies * limits.columns
        self.target = nn.Linear(hidden, taps * rank)
        self.source = nn.Linear(hidden, taps * rank)
        self.edge = nn.Linear(edge_channels, taps, bias=False) if edge_channels else None
        self.node = nn.Linear(hidden, columns)
        self.equivariant_vectors = equivariant_vectors
        if equivariant_vectors:
            self.incoming = nn.Linear(equivariant_vectors, taps * rank, bias=False)
            self.outgoing = nn.Linear(equivariant_vectors, taps * rank, bias=False)
            self.own_incoming = nn.Linear(equivariant_vectors, columns, bias=False)
        self.weight_scale = nn.Parameter(torch.full((limits.levels, taps), scale))
        self.bias_scale = nn.Parameter(torch.full((limits.levels, columns), scale))

    def forward(self, states: States, context: Tensor | None = None) -> list[Features]:
        topology, features = states.topology, states.features
        hidden = self._hidden(states, context)
        weights = self._weight_changes(states, hidden)
        columns = self._column_changes(states, hidden)
        if self.equivariant_vectors and not topology.chains:
            # What is not multiplied as its neurons are stays as it is.
            characters = characters_of(topology)
            live = characters.live.to(weights).unsqueeze(-1)
            columns = columns * characters.own.unsqueeze(-2).to(columns)
            weights = weights * kernels.gather(topology, live, "block").unsqueeze(-2)
        of_nodes, of_edges = _learned(topology)
        columns = columns * of_nodes.unsqueeze(-2).to(columns)
        if of_edges is not None:
            weights = weights * of_edges.unsqueeze(-2).to(weights)
        return [
            Features(topology, features.x + column, features.taps + weight)
            for column, weight in zip(columns.unbind(-2), weights.unbind(-2), strict=True)
        ]

    def _hidden(self, states: States, context: Tensor | None) -> Tensor:
        """Return h, ``[*, N, hidden]``."""
        topology, x = states.topology, states.x
        hidden = self.own(x)
        if (self.received is None) != (context is None):
            raise ValueError(
                f"a WeightReadout was called {'without' if context is None else 'with'} a context; "
                f"expected {'none' if self.received is None else 'one'}, as it was built."
            )
        if self.received is not None:
            received = self.received(context).reshape(*x.shape[:-2], topology.num_graphs, -1)
            if topology.num_graphs > 1:  # else one row, which broadcasts
                received = kernels.broadcast(received, topology.nodes.graph)
            gain, shift = received.chunk(2, dim=-1)
            hidden = hidden * (1 + gain) + shift
        return silu(self.mix(silu(hidden)))

    def _weight_changes(self, states: States, hidden: Tensor) -> Tensor:
        """Return what is added to the weights of each copy, ``[*, E, copies, taps]``."""
        topology = states.topology
        level = topology.nodes.level.clamp(max=self.limits.levels - 1)
        # The level of a block is that of its targets.
        scale = self.weight_scale[level] * self.scales.weight[level].unsqueeze(-1)
        heads = scale.shape[-1]
        target, source = self.target(hidden), self.source(hidden)
        if self.equivariant_vectors:
            incoming, outgoing = self._equivariant_vectors(states)
            target, source = target * self.incoming(incoming), source * self.outgoing(outgoing)
        target = torch.unflatten(target, -1, (heads, -1))
        target = (target * (scale / self.rank**0.5).unsqueeze(-1).to(target)).flatten(-2)
        change = kernels.inner(topology, source, target, heads)
        if self.edge is not None:
            if states.edge_attr is None:
                raise ValueError(
                    "a WeightReadout for states of weights was given those of neurons alone; "
                    "build it with edge_channels=0."
                )
            own = self.edge(states.edge_attr)
            change = change + own * kernels.gather(topology, scale.to(own), "target")
        return torch.unflatten(change, -1, (self.copies, -1))[..., : topology.num_taps]

    def _equivariant_vectors(self, states: States) -> tuple[Tensor, Tensor]:
        if states.equivariant_vectors is None:
            raise ValueError(
                "a WeightReadout for states with equivariant vectors was given some without; build "
                "it with equivariant_vectors=0, or the model of the states so that it has them."
            )
        return states.equivariant_vectors

    def _column_changes(self, states: States, hidden: Tensor) -> Tensor:
        """Return what is added to the columns of each copy, ``[*, N, copies, F]``."""
        topology, change = states.topology, self.node(hidden)
        if self.equivariant_vectors:
            change = change * self.own_incoming(self._equivariant_vectors(states)[0])
        level = topology.nodes.level.clamp(max=self.limits.levels - 1)
        change, scale = (
            torch.unflatten(value, -1, (self.copies, -1))
            for value in (change, self.bias_scale[level])
        )
        change = change * (scale * self.scales.bias[level].unsqueeze(-2)).to(change)
        return change[..., : topology.nodes.mask.shape[-1]]


def _learned(topology: Topology) -> tuple[Tensor, Tensor | None]:
    """Whether a learned parameter fills each entry: ``[N, F]``, and ``[E, taps]`` or all."""
    if topology.chains and topology.nodes.mask.shape[-1] == 1:
        return topology.nodes.mask, None
    entries = zip(*map(_learned_entries, topology.architectures), strict=True)
    widths = topology.nodes.mask.shape[-1], topology.num_taps
    nodes, edges = (
        torch.cat([pad(value, (0, width - value.shape[-1])) for value in part])
        for part, width in zip(entries, widths, strict=True)
    )
    device = topology.nodes.mask.device
    return nodes.to(device), order_edges(topology, edges.to(device))


@lru_cache(maxsize=64)
def _learned_entries(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """The same of one architecture."""
    ones = {
        p.name: torch.full(p.shape, float(not _MEASURED & {s.column for s in slabs_of(p)}))
        for p in architecture.parameters
        if p.integer is None
    }
    zeros = {name: torch.zeros_like(value) for name, value in ones.items()}
    (x, edges), (_, constants) = pack(architecture, ones), pack(architecture, zeros)
    return x != 0, edges != constants
