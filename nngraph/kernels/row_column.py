"""Attention among the rows and columns of weights that meet at a set of neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Meetings, Topology

#: Answers to weights as part of a column, as part of a row, and to neurons.
Answers = tuple[Tensor, Tensor, Tensor]


def row_column_attention(
    topology: Topology, edges: Tensor, nodes: Tensor, keys: int, heads: int = 1,
    backend: str = "auto",
) -> Answers:  # fmt: skip
    r"""Attend among the rows and columns of weights, and biases, that meet at a group of neurons.

    At a group of d neurons, the tokens are the columns of the weights into it, the rows of the
    weights out of it, and its own features: each has a vector at every neuron n of the group. With
    queries and keys of c channels and values, for each head,

    .. math::
        a_{ts} = \mathrm{softmax}_s \Big(\tfrac{1}{\sqrt{d c}} \sum_n q_{tn} \cdot k_{sn}\Big),
        \qquad y_{tn} = \sum_s a_{ts} v_{sn}

    The parts of a grouped block meet others at their own share of a group.

    Args:
        edges, nodes: q, k and v of weights, ``[*, E, 2 D + C]``, and of neurons, ``[*, N, 2 D +
            C]``. Each of the three is split evenly among heads.
        keys: D, channels of the queries, and of the keys. Few do: a key has them at d neurons.
        backend: ``"dense"``, ``"reference"`` or ``"auto"``, which is the first.

    Returns:
        y of each weight as part of a column (at its target's group), ``[*, E, C]``; as part of a
        row (at its source's); and of each neuron, ``[*, N, C]``.

    Raises:
        InvalidGraphError: if the graph is irregular.
        ValueError: if heads do not divide C and D, or the backend is another.
    """
    kernel = {"auto": dense, "dense": dense, "reference": reference}
    if backend not in kernel:
        raise ValueError(
            f"the backend {backend!r} was asked for 'row_column_attention'; expected 'auto', "
            "'dense' or 'reference'."
        )
    channels = edges.shape[-1] - 2 * keys
    fits = channels > 0 and keys > 0 and edges.shape[-1] == nodes.shape[-1]
    if heads < 1 or not fits or keys % heads or channels % heads:
        raise ValueError(
            f"edges and nodes have {edges.shape[-1]} and {nodes.shape[-1]} channels; expected "
            f"2 * {keys} of queries and keys and some of values, shared evenly by {heads} heads."
        )
    return kernel[backend](topology, edges, nodes, keys, heads)


def dense(topology: Topology, edges: Tensor, nodes: Tensor, keys: int, heads: int) -> Answers:
    """See :func:`row_column_attention`: matrix products, one kind of set at a time."""
    meetings = _known(topology)
    outgoing = _pieces(
        edges, meetings.outgoing, [m.count * n * m.size for m in meetings.sets for n in m.rows]
    )
    incoming = _pieces(
        edges, meetings.incoming, [m.count * n * m.size for m in meetings.sets for n in m.columns]
    )
    neurons = _pieces(nodes, meetings.nodes, [m.count * m.size for m in meetings.sets if m.whole])
    answers: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for meeting in meetings.sets:
        count, size = meeting.count, meeting.size
        # Each ``[*, sets, tokens, neurons, channels]``.
        tokens = [torch.unflatten(next(outgoing), -2, (count, n, size)) for n in meeting.rows]
        tokens += [
            torch.unflatten(next(incoming), -2, (count, size, n)).transpose(-3, -2)
            for n in meeting.columns
        ]
        if meeting.whole:
            tokens.append(torch.unflatten(next(neurons), -2, (count, 1, size)))
        sizes = [part.shape[-3] for part in tokens]
        asked = _by_head([part[..., : 2 * keys] for part in tokens], 2 * heads)
        q, k = asked.flatten(-2).chunk(2, dim=-3)
        v = _by_head([part[..., 2 * keys :] for part in tokens], heads)
        weight = ((q / math.sqrt(q.shape[-1])) @ k.mT).softmax(-1)
        out = torch.unflatten(weight @ v.flatten(-2), -1, v.shape[-2:])
        # ``[*, sets, heads, tokens, neurons, channels]``, back to the order of each array.
        parts = iter(torch.split(out, sizes, dim=-3))
        for role, own in ((1, meeting.rows), (0, meeting.columns), (2, [1] * meeting.whole)):
            for _ in own:
                part = next(parts).movedim(-4, -2)
                part = part.transpose(-4, -3) if role == 0 else part
                answers[role].append(part.flatten(-2).flatten(-4, -2))
    like = nodes[..., 2 * keys :]
    return (
        _restore(answers[0], meetings.incoming, like),
        _restore(answers[1], meetings.outgoing, like),
        _restore(answers[2], meetings.nodes, like),
    )


def _pieces(values: Tensor, order: Tensor | None, sizes: list[int]) -> Iterator[Tensor]:
    """Features of one array after the other, split at once."""
    if order is not None:
        values = values.index_select(-2, order)
    return iter(torch.split(values, sizes, dim=-2))


def _by_head(tokens: list[Tensor], heads: int) -> Tensor:
    """``[*, tokens, neurons, heads * c]`` each ``-> [*, heads, tokens, neurons, c]``."""
    return torch.cat([torch.unflatten(t, -1, (heads, -1)).movedim(-2, -4) for t in tokens], dim=-3)


def _restore(pieces: list[Tensor], order: Tensor | None, like: Tensor) -> Tensor:
    if not pieces:
        return like[..., :0, :]
    joined = torch.cat(pieces, dim=-2)
    return joined if order is None else torch.zeros_like(joined).index_copy(-2, order, joined)


def reference(topology: Topology, edges: Tensor, nodes: Tensor, keys: int, heads: int) -> Answers:
    """See :func:`row_column_attention`: one set of neurons after the other."""
    _known(topology)
    count = topology.num_edges
    # For each set, the rows of `values` that each token is made of, by its role.
    sets: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    at = 0
    blocks = topology.blocks
    table = (blocks.rows, blocks.columns, blocks.parts, blocks.source, blocks.target)
    for rows, columns, parts, source, target in torch.stack(table, dim=1).tolist():
        for share in range(parts):
            array = torch.arange(at, at + rows * columns).reshape(rows, columns)
            at += rows * columns
            sets.setdefault((target + share * rows, rows), []).append((0, array.mT))
            sets.setdefault((source + share * columns, columns), []).append((1, array))
    first = 0
    for size in topology.groups.size.tolist():
        neurons = count + torch.arange(first, first + size).unsqueeze(0)
        sets.setdefault((first, size), []).append((2, neurons))
        first += size
    values = torch.cat([edges, nodes], dim=-2)
    channels = edges.shape[-1] - 2 * keys
    found: list[list[Tensor]] = [[], [], []]
    places: list[list[Tensor]] = [[], [], []]
    for tokens in sets.values():
        index = torch.cat([array for _, array in tokens]).to(edges.device)
        read = torch.unflatten(values.index_select(-2, index.flatten()), -2, index.shape)
        q, k, v = (  # [*, tokens, neurons, heads, channels]
            torch.unflatten(part, -1, (heads, -1))
            for part in torch.split(read, [keys, keys, channels], dim=-1)
        )
        score = torch.einsum("...tnhc,...snhc->...hts", q, k)
        weight = (score / math.sqrt(q.shape[-3] * q.shape[-1])).softmax(-1)
        out = torch.einsum("...hts,...snhc->...tnhc", weight, v).flatten(-2)
        sizes = [len(array) for _, array in tokens]
        for (role, array), part in zip(tokens, torch.split(out, sizes, dim=-3), strict=True):
            places[role].append(array.flatten().to(edges.device))
            found[role].append(part.flatten(-3, -2))
    answers = []
    for role, entries in enumerate((count, count, topology.num_nodes)):
        out = values.new_zeros(*edges.shape[:-2], entries, channels)
        if found[role]:
            # Neurons come after the edges.
            where = torch.cat(places[role]) - (count if role == 2 else 0)
            out = out.index_copy(-2, where, torch.cat(found[role], dim=-2))
        answers.append(out)
    return answers[0], answers[1], answers[2]


def _known(topology: Topology) -> Meetings:
    if topology.meetings is None:
        raise InvalidGraphError(
            "attention among rows and columns was asked of an irregular graph, whose edges are in "
            "no blocks; expected networks."
        )
    return topology.meetings
