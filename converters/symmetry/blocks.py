"""Operations on values that may be in blocks, without tying the blocks together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from converters.symmetry.dims import Dim, atom, cut
from converters.symmetry.values import Value

__all__ = ["blocked", "each_piece", "rearrange", "take", "with_dim"]


def blocked(axis: int, pieces: Sequence[Value]) -> Value:
    """Return the value that consists of pieces along an axis."""
    flat: list[Value] = []
    for piece in pieces:
        if piece.blocks is not None and piece.blocks[0] == axis:
            flat += piece.blocks[1]
        elif piece.shape[axis]:
            flat.append(piece)
    sources = tuple(dict.fromkeys(s for piece in pieces for s in piece.sources))
    if len(flat) == 1:
        only = flat[0]
        return Value(only._dims, sources, blocks=only.blocks)
    return Value(sources=sources, blocks=(axis, tuple(flat)))


def each_piece(value: Value, change: Callable[[Value], Value], axis: int | None = None) -> Value:
    """Apply a change to each piece; the pieces then lie along ``axis`` (by default as before)."""
    if value.blocks is None:
        return change(value)
    own, pieces = value.blocks
    result = blocked(own if axis is None else axis, [change(piece) for piece in pieces])
    result.sources = value.sources
    return result


def rearrange(value: Value, order: Sequence[int | None]) -> Value:
    """Order the dimensions anew: the old place of each, or ``None`` for a new one of size 1."""
    if value.blocks is not None:
        axis = value.blocks[0]
        if axis not in order:
            return value.like([atom(1) if i is None else value.dims[i] for i in order])
        return each_piece(value, lambda piece: rearrange(piece, order), list(order).index(axis))
    return value.like([atom(1) if i is None else value.dims[i] for i in order])


def take(value: Value, axis: int, start: int, stop: int) -> Value:
    """Return consecutive indices of an axis."""
    if value.blocks is None:
        dims = list(value.dims)
        size = dims[axis].size
        dims[axis] = cut(dims[axis], (start, stop - start, size - stop))[1]
        return value.like(dims)
    own, pieces = value.blocks
    if own != axis:
        return each_piece(value, lambda piece: take(piece, axis, start, stop))
    found = []
    ends = list(accumulate(piece.shape[axis] for piece in pieces))
    for piece, end in zip(pieces, ends, strict=True):
        size = piece.shape[axis]
        low, high = max(start - (end - size), 0), min(stop - (end - size), size)
        if low < high:
            found.append(piece if (low, high) == (0, size) else take(piece, axis, low, high))
    if not found:
        dims = list(pieces[0].dims)
        dims[axis] = atom(0)
        return value.like(dims)
    result = blocked(axis, found)
    result.sources = value.sources
    return result


def with_dim(value: Value, axis: int, dim: Dim | None) -> Value:
    """Return a value with one dimension replaced, or left out; pieces are tied together."""
    dims = list(value.dims)
    dims[axis : axis + 1] = [] if dim is None else [dim]
    return value.like(dims)
