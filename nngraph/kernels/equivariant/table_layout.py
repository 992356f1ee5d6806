"""Where the tables of an equivariant linear layer lie in memory, so that equal parts run as one.

Neighbouring tensors of one shape are a *run*, one array ``[B, K, r, c, C]``; tables of one size and
number of slots are a *stack*, one array ``[G, B, n, c, C]``. Sides of a run go to stacks and back
in *moves*: strided copies, a few for any depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nngraph.kernels.equivariant.terms import MixedTensor, Terms

#: Numbers that are passed over together: 2 MiB of float32, about what a core's own cache holds.
TILE = 2**19


@dataclass(frozen=True)
class Move:
    """Tensors ``first:first + count`` of a run are tables ``table:table + count`` of a stack.

    There they fill the slots ``start:stop``.
    """

    first: int
    count: int
    stack: int
    table: int
    start: int
    stop: int

    def part(self, stacks: Sequence[Tensor]) -> Tensor:
        """Its part of the stacks as ``[B, count, n, slots, C]``, a view."""
        tables = stacks[self.stack][self.table : self.table + self.count]
        return tables[:, :, :, self.start : self.stop].transpose(0, 1)


class RowTile(NamedTuple):
    """Rows ``start:stop`` of the tensors ``first:last`` of a run."""

    first: int
    last: int
    start: int
    stop: int

    def part(self, array: Tensor) -> Tensor:
        """Its part of the run's array, a view."""
        return array[:, self.first : self.last, self.start : self.stop]


@dataclass(frozen=True)
class TensorRun:
    """Neighbouring tensors of one shape, rows ``start:stop`` of the edge or node features.

    Args:
        count, rows, columns: K tensors ``[r, c]``; node features have one column.
        mixed: whether all of a block's axes are permuted: its edges are mixed each with itself,
            and tables hold their means.
        moves: for each permuted axis, where its side is in the stacks.
        slot: without permuted axes, where it is in the slots.
    """

    on_edges: bool
    start: int
    stop: int
    count: int
    rows: int
    columns: int
    mixed: bool
    moves: dict[int, tuple[Move, ...]]
    slot: int

    def array(self, x: Tensor, edge_attr: Tensor) -> Tensor:
        """Its features as ``[B, K, r, c, C]``, a view."""
        rows = (edge_attr if self.on_edges else x)[:, self.start : self.stop]
        return torch.unflatten(rows, 1, (self.count, self.rows, self.columns))

    def size(self, axis: int) -> int:
        """Length of an axis."""
        return self.columns if axis else self.rows

    def tiles(self, numbers: int) -> Iterator[RowTile]:
        """Cut its array into tiles of about ``TILE`` numbers, of ``numbers`` per row and column.

        A tile is some whole tensors, or some rows of one.
        """
        rows = max(1, TILE // max(1, numbers * self.columns))
        if rows >= self.rows:
            step = rows // self.rows
            for first in range(0, self.count, step):
                yield RowTile(first, min(first + step, self.count), 0, self.rows)
            return
        for k in range(self.count):
            for start in range(0, self.rows, rows):
                yield RowTile(k, k + 1, start, min(start + rows, self.rows))


@dataclass(frozen=True)
class Stack:
    """Tables of equal sizes: ``tables`` are their indices in ``Terms.tables``."""

    tables: tuple[int, ...]
    size: int
    slots: int

    @property
    def width(self) -> int:
        """Slots of all its tables together."""
        return len(self.tables) * self.slots


@dataclass(frozen=True, eq=False)
class TableLayout:
    """The arrangement of one :class:`~nngraph.kernels.equivariant.terms.Terms`.

    Attributes:
        runs: all tensors, in the order of ``Terms.tensors``.
        stacks: all tables.
        pooled: for each slot of the global table which slot it pools, of the stacks' without their
            neurons, side by side, and then those of tensors without permuted axes.
        broadcast: for each of these the slot of the global table that it reads; S where none.
    """

    runs: tuple[TensorRun, ...]
    stacks: tuple[Stack, ...]
    pooled: Tensor
    broadcast: Tensor

    @classmethod
    def of(cls, terms: Terms) -> TableLayout:
        """Arrange the tables of a layer."""
        kinds: dict[tuple[int, int], list[int]] = {}
        for index, table in enumerate(terms.tables):
            kinds.setdefault((table.size, table.slots), []).append(index)
        stacks = tuple(Stack(tuple(found), *kind) for kind, found in kinds.items())
        places: dict[tuple[int, int], Move] = {}
        slots: dict[int, int] = {}
        width = 0
        for k, stack in enumerate(stacks):
            for g, index in enumerate(stack.tables):
                for part in terms.tables[index].parts:
                    places[part.tensor, part.axis] = Move(0, 1, k, g, part.start, part.stop)
                    if part.home:
                        slots[part.tensor] = width + part.start
                width += stack.slots
        for index, tensor in enumerate(terms.tensors):
            if not tensor.permuted_axes:
                slots[index], width = width, width + tensor.free
        pooled = torch.empty(terms.num_slots, dtype=torch.long)
        for slot in terms.slots:
            own = torch.arange(slot.stop - slot.start)
            pooled[slot.start : slot.stop] = slots[slot.tensor] + own
        broadcast = torch.full((width,), terms.num_slots)
        broadcast[pooled] = torch.arange(terms.num_slots)
        runs = tuple(_run(terms, found, places, slots) for found in _neighbours(terms.tensors))
        return cls(runs, stacks, pooled, broadcast)


def _neighbours(tensors: Sequence[MixedTensor]) -> list[list[int]]:
    """Indices of tensors, those that follow on one another and are of one kind together."""
    found: list[list[int]] = []
    for index, tensor in enumerate(tensors):
        last = tensors[index - 1] if index else None
        kind = (tensor.on_edges, tensor.start, tensor.shape, tensor.permuted)
        if last is not None and tensor.permuted_axes and kind == (
            last.on_edges, last.stop, last.shape, last.permuted
        ):  # fmt: skip
            found[-1].append(index)
        else:
            found.append([index])
    return found


def _run(
    terms: Terms, found: list[int], places: dict[tuple[int, int], Move], slots: dict[int, int]
) -> TensorRun:
    first, last = terms.tensors[found[0]], terms.tensors[found[-1]]
    moves: dict[int, tuple[Move, ...]] = {}
    for axis in first.permuted_axes:
        joined: list[Move] = []
        for k, index in enumerate(found):
            move, before = places[index, axis], joined[-1] if joined else None
            if before is not None and move == replace(
                before, first=0, count=1, table=before.table + before.count
            ):
                joined[-1] = replace(before, count=before.count + 1)
            else:
                joined.append(replace(move, first=k))
        moves[axis] = tuple(joined)
    rows, columns = first.shape if first.on_edges else (*first.shape, 1)
    slot = -1 if moves else slots[found[0]]
    return TensorRun(
        first.on_edges, first.start, last.stop, len(found), rows, columns, first.has_edge_mixing,
        moves, slot,
    )  # fmt: skip
