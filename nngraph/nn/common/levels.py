"""Features by layer and by place: of inputs and outputs one by one, and means of each layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Blocks, Groups, Topology


def at_inputs(topology: Topology, table: Tensor) -> Tensor:
    """Give input neuron i of every network row i of a table: ``-> [n, C]`` at the level 0 neurons.

    Neurons there that relabelling moves get 0; more inputs than rows ``[d_0, C]`` are refused.
    """
    check_most("inputs", topology.max_inputs, len(table))
    first = topology.levels[0]
    if topology.num_graphs == 1 and first.size == len(table) == topology.max_inputs:
        return table
    moves = kernels.take(topology.nodes.moves.unsqueeze(-1), first.nodes)
    place = kernels.take(topology.nodes.position.unsqueeze(-1), first.nodes)
    return table[place.masked_fill(moves, 0)[:, 0]] * ~moves


def at_outputs(
    topology: Topology,
    levels: list[tuple[int, Tensor]],
    size: int,
    channels: int | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Set the features of the output neurons side by side: ``-> [networks, size * C]``.

    Outputs are not permuted, so their place tells them apart; a network with fewer than ``size``
    outputs has 0 at the others, and one with more is refused.

    Args:
        levels: those that have output neurons, each with features ``[*, n, c]`` of all of its own.
        channels: C, default the most of any level; missing channels are 0.
        like: features of the same networks, wanted where no level may have outputs, as in networks
            whose last weight is that of the first layer again.
    """
    check_most("outputs", topology.max_outputs, size)
    if not levels:
        assert like is not None
        networks = topology.num_graphs * like.shape[:-2].numel()
        return like.new_zeros(networks, size * (channels or 1))
    channels = channels or max(values.shape[-1] for _, values in levels)
    padded = [
        values if values.shape[-1] == channels else pad(values, (0, channels - values.shape[-1]))
        for _, values in levels
    ]
    if topology.num_graphs == 1 and topology.max_outputs == size == padded[0].shape[-2]:
        return padded[0].reshape(-1, size * channels)
    index = topology.nodes.graph.index * size + topology.nodes.output_position
    shape = (*padded[0].shape[:-2], topology.num_graphs * size, channels)
    placed = padded[0].new_zeros(shape)
    for (level, _), values in zip(levels, padded, strict=True):
        rows = topology.levels[level].outputs
        assert rows is not None
        place = kernels.take(index.unsqueeze(-1), topology.levels[level].nodes)[rows, 0]
        placed = placed.index_copy(-2, place, values.index_select(-2, rows))
    return placed.reshape(-1, size * channels)


def by_input(topology: Topology, table: Tensor) -> Tensor:
    """Give input neuron i of every network row i of a table: ``[d_0, C] -> [N, C]``, else 0."""
    first = at_inputs(topology, table)
    rest = first.new_zeros(topology.num_nodes - len(first), first.shape[-1])
    return join_levels(topology, [first, rest])


def by_output(topology: Topology, table: Tensor) -> Tensor:
    """Give output neuron o of every network row o of a table: ``[d_L, C] -> [N, C]``, else 0."""
    check_most("outputs", topology.max_outputs, len(table))
    return pad(table, (0, 0, 0, 1))[topology.nodes.output_position]  # the last row is 0


def join_levels(topology: Topology, levels: list[Tensor]) -> Tensor:
    """Put the features of all levels' neurons together: ``[*, n_l, C]`` each ``-> [*, N, C]``."""
    joined = torch.cat(levels, dim=-2)
    order = topology.nodes.level_order
    return joined if topology.in_level_order else joined.index_select(-2, order)


def level_means(values: Tensor, of: Groups | Blocks, slots: int) -> Tensor:
    """Average node or edge features over each layer of each network: ``-> [networks, slots * C]``.

    ``values`` ``[*, K, C]`` are means of groups or blocks; levels beyond the last slot share it.
    """
    index = of.graph.index * slots + of.level.clamp(max=slots - 1)
    weight = of.size.to(values.dtype)
    total = torch.zeros(of.graph.count * slots, dtype=values.dtype, device=values.device)
    share = weight / total.index_add(0, index, weight)[index]
    shape = (*values.shape[:-2], len(total), values.shape[-1])
    pooled = values.new_zeros(shape).index_add(-2, index, values * share.unsqueeze(-1))
    return pooled.reshape(-1, slots * values.shape[-1])


def check_most(what: str, found: int, most: int) -> None:
    """Refuse networks with more inputs or outputs than a model was built for."""
    if found > most:
        raise ArchitectureError(f"a network has {found} {what}; the model was built for {most}.")
