"""Parts of a topology: rows of neurons, runs of blocks of equal shape, and where blocks meet."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Bucket", "Meeting", "Meetings", "Nodes"]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Rows of the node features: ``count`` sets of ``size`` neurons each.

    Contiguous rows are a slice, read as a view; others carry their index ``[count * size]``.
    """

    count: int
    size: int
    start: int
    index: Tensor | None

    @property
    def stop(self) -> int:
        """One past the last row, where the rows are contiguous."""
        return self.start + self.count * self.size


@dataclass(frozen=True, eq=False)
class Bucket:
    """``count`` arrays of one shape whose edges ``start:stop`` lie one after the other.

    Their edge features are a view ``[..., count, rows, columns, C]``: row the target, column the
    source. ``parts`` of them in a row make a block, one but for grouped and diagonal blocks.
    """

    start: int
    stop: int
    count: int
    rows: int
    columns: int
    source: Nodes
    target: Nodes
    parts: int = 1


@dataclass(frozen=True, eq=False)
class Meeting:
    """``count`` sets of ``size`` neurons that are an axis of arrays of the same shapes.

    Attributes:
        whole: whether the sets are groups, and not the share of one part of a block in a group.
        rows: number of rows of each array whose columns are the neurons of the set.
        columns: number of columns of each array whose rows are.
    """

    count: int
    size: int
    whole: bool
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Meetings:
    """All sets of neurons at which arrays meet, those alike together.

    Attributes:
        sets: kinds of sets; each array is in one of them by its rows and in one by its columns.
        outgoing, incoming: ``[E]`` edges in the order of the ``rows``, and of the ``columns``, of
            one kind of set after the other; ``None`` if that is their own order.
        nodes: ``[N]`` neurons in the order of the sets that are groups; ``None`` likewise.
    """

    sets: tuple[Meeting, ...]
    outgoing: Tensor | None
    incoming: Tensor | None
    nodes: Tensor | None
