"""Attention among the rows and columns of weights that meet at a set of neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.topology import Meetings, Topology

__all__ = ["dense", "reference"]

#: Answers to weights as part of a column, as part of a row, and to neurons.
Answers = tuple[Tensor, Tensor, Tensor]


def dense(topology: Topology, edges: Tensor, nodes: Tensor, heads: int) -> Answers:
    """See :func:`nngraph.kernels.attend_crossing`: matrix products, one kind of set at a time."""
    meetings = _known(topology)
    pieces = _Pieces(meetings, edges, nodes, heads)
    answers: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for meeting in meetings.sets:
        lead = (meeting.count,)
        tokens, sizes = [], []
        for n in meeting.rows:
            tokens.append(next(pieces.outgoing).unflatten(-4, (*lead, n, meeting.size)))
        for n in meeting.columns:
            part = next(pieces.incoming).unflatten(-4, (*lead, meeting.size, n))
            tokens.append(part.transpose(-5, -4))
        if meeting.whole:
            tokens.append(next(pieces.nodes).unflatten(-4, (*lead, 1, meeting.size)))
        # [*, sets, tokens, neurons, 3, heads, channels] -> [3, *, sets, heads, tokens, vectors]
        sizes = [part.shape[-5] for part in tokens]
        moved = [part.movedim(-3, 0).movedim(-2, -4) for part in tokens]
        joined = torch.cat(moved, dim=-3)
        q, k, v = joined.flatten(-2).unbind(0)
        weight = ((q * (1 / math.sqrt(q.shape[-1]))) @ k.mT).softmax(-1)
        out = (weight @ v).unflatten(-1, joined.shape[-2:]).movedim(-4, -2).flatten(-2)
        parts = iter(torch.split(out, sizes, dim=-3))
        answers[1].extend(next(parts).flatten(-4, -2) for _ in meeting.rows)
        answers[0].extend(next(parts).transpose(-3, -2).flatten(-4, -2) for _ in meeting.columns)
        answers[2].extend(part.flatten(-4, -2) for part in parts)
    like = nodes[..., : nodes.shape[-1] // 3]
    incoming, outgoing, at_nodes = (
        _restore(found, order, like)
        for found, order in zip(
            answers, (meetings.incoming, meetings.outgoing, meetings.nodes), strict=True
        )
    )
    return incoming, outgoing, at_nodes


class _Pieces:
    """Edges and nodes ``[*, n, 3, heads, channels]`` of one array after the other, split at once."""

    def __init__(self, meetings: Meetings, edges: Tensor, nodes: Tensor, heads: int) -> None:
        sets = meetings.sets
        sizes = (
            [m.count * n * m.size for m in sets for n in m.rows],
            [m.count * n * m.size for m in sets for n in m.columns],
            [m.count * m.size for m in sets if m.whole],
        )
        orders = meetings.outgoing, meetings.incoming, meetings.nodes
        self.outgoing, self.incoming, self.nodes = (
            self._split(values, order, own, heads)
            for values, order, own in zip((edges, edges, nodes), orders, sizes, strict=True)
        )

    @staticmethod
    def _split(
        values: Tensor, order: Tensor | None, sizes: list[int], heads: int
    ) -> Iterator[Tensor]:
        if order is not None:
            values = values.index_select(-2, order)
        return iter(torch.split(values.unflatten(-1, (3, heads, -1)), sizes, dim=-4))


def _restore(pieces: list[Tensor], order: Tensor | None, like: Tensor) -> Tensor:
    if not pieces:
        return like[..., :0, :]
    joined = torch.cat(pieces, dim=-2)
    return joined if order is None else torch.zeros_like(joined).index_copy(-2, order, joined)


def reference(topology: Topology, edges: Tensor, nodes: Tensor, heads: int) -> Answers:
    """See :func:`nngraph.kernels.attend_crossing`: one set of neurons after the other."""
    _known(topology)
    count = topology.num_edges
    # For each set, the rows of `values` that each token is made of, by its role.
    sets: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    at = 0
    for rows, columns, parts, source, target, _ in topology.blocks.tolist():
        for part in range(parts):
            array = torch.arange(at, at + rows * columns).reshape(rows, columns)
            at += rows * columns
            sets.setdefault((target + part * rows, rows), []).append((0, array.mT))
            sets.setdefault((source + part * columns, columns), []).append((1, array))
    first = 0
    for size in topology.group_size.tolist():
        own = count + torch.arange(first, first + size).unsqueeze(0)
        sets.setdefault((first, size), []).append((2, own))
        first += size
    values = torch.cat([edges, nodes], dim=-2).unflatten(-1, (3, heads, -1))
    channels = edges.shape[-1] // 3
    found: list[list[Tensor]] = [[], [], []]
    places: list[list[Tensor]] = [[], [], []]
    for tokens in sets.values():
        index = torch.cat([array for _, array in tokens]).to(edges.device)
        read = values.index_select(-4, index.flatten()).unflatten(-4, index.shape)
        q, k, v = read.unbind(-3)  # [*, tokens, neurons, heads, channels]
        score = torch.einsum("...tnhc,...snhc->...hts", q, k)
        weight = (score / math.sqrt(q.shape[-3] * q.shape[-1])).softmax(-1)
        out = torch.einsum("...hts,...snhc->...tnhc", weight, v).flatten(-2)
        sizes = [len(array) for _, array in tokens]
        for (role, array), part in zip(tokens, torch.split(out, sizes, dim=-3), strict=True):
            places[role].append(array.flatten().to(edges.device))
            found[role].append(part.flatten(-3, -2))
    answers = []
    for role, size in enumerate((count, count, topology.num_nodes)):
        out = values.new_zeros(*edges.shape[:-2], size, channels)
        if found[role]:
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
