"""Operations on values that may be in blocks, without tying the blocks together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, groupby

from converters.symmetry.dims import Dim, atom, concatenate, cut, find, is_fixed, unify
from converters.symmetry.dims import overwrite as dims_overwrite
from converters.symmetry.values import Value


def blocked(axis: int, pieces: Sequence[Value]) -> Value:
    """Return the value that consists of pieces along an axis; neighbours that agree are one."""
    flat: list[Value] = []
    for piece in pieces:
        if piece.blocks is not None and piece.blocks[0] == axis:
            flat += piece.blocks[1]
        elif piece.shape[axis]:
            flat.append(piece)
    flat = _joined(axis, flat)
    if len(flat) == 1:
        return Value(flat[0]._dims, _sources(pieces), blocks=flat[0].blocks)
    return Value(sources=_sources(pieces), blocks=(axis, tuple(flat)))


def _sources(pieces: Iterable[Value]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(source for piece in pieces for source in piece.sources))


def _joined(axis: int, pieces: Sequence[Value]) -> list[Value]:
    _adopt(axis, pieces)
    joined: list[Value] = []
    for others, group in groupby(pieces, lambda piece: _others(axis, piece)):
        run = list(group)
        if others is not None and len(run) > 1:
            dims = list(run[0].dims)
            dims[axis] = concatenate(piece.dims[axis] for piece in run)
            run = [Value(dims, _sources(run))]
        joined += run
    return joined


def _others(axis: int, piece: Value) -> tuple[Dim | int, ...] | None:
    """Return the other dimensions of a piece that is not in pieces itself; dead ones by size."""
    if piece.blocks is not None:
        return None
    others = (dim for place, dim in enumerate(piece.dims) if place != axis)
    return tuple(dim.size if is_fixed(dim) else find(dim) for dim in others)


def _adopt(axis: int, pieces: Sequence[Value]) -> None:
    """Let constants that are alike along the other axes have there what their neighbours have."""
    plain = [piece for piece in pieces if piece.blocks is None]
    alike = [p.constant is not None and p.constant.uniform(but=axis) for p in plain]
    near = next((p for p, is_alike in zip(plain, alike, strict=True) if not is_alike), None)
    for piece, is_alike in zip(plain, alike, strict=True):
        if near is not None and is_alike:
            for place, (one, other) in enumerate(zip(piece.dims, near.dims, strict=True)):
                if place != axis:
                    unify(one, other)
        elif near is not None:
            near = piece


def overwrite(value: Value, source: Value, axis: int, start: int) -> Value:
    """Return a value of which consecutive indices of an axis are another one."""
    stop = start + source.shape[axis]
    if value.blocks is None and source.blocks is None:
        _adopt(axis, [value, source])
        if _others(axis, value) == _others(axis, source):
            return Value(
                dims_overwrite(dim, start, source.dims[place]) if place == axis else dim
                for place, dim in enumerate(value.dims)
            )
    split = next((v for v in (value, source) if v.blocks and v.blocks[0] != axis), None)
    if split is not None:
        own, spans = pieces_of(split)
        parts = [(take(value, own, i, j), take(source, own, i, j)) for _, i, j in spans]
        return blocked(own, [overwrite(*part, axis, start) for part in parts])
    after = take(value, axis, stop, value.shape[axis])
    return blocked(axis, [take(value, axis, 0, start), source, after])


def pieces_of(value: Value) -> tuple[int, list[tuple[Value, int, int]]]:
    """Return the axis of a value in blocks, and each piece with its first index and its end."""
    assert value.blocks is not None
    axis, pieces = value.blocks
    ends = accumulate(piece.shape[axis] for piece in pieces)
    spans = zip(pieces, ends, strict=True)
    return axis, [(piece, end - piece.shape[axis], end) for piece, end in spans]


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
    axis = None if value.blocks is None else value.blocks[0]
    if axis is not None and axis in order:
        return each_piece(value, lambda piece: rearrange(piece, order), list(order).index(axis))
    return value.like([atom(1) if i is None else value.dims[i] for i in order])


def take(value: Value, axis: int, start: int, stop: int) -> Value:
    """Return consecutive indices of an axis."""
    if value.blocks is None:
        dim = value.dims[axis]
        part = cut(dim, (start, stop - start, dim.size - stop))[1]
        taken = value.with_dim(axis, part)
        taken.constant = value.constant and value.constant.part(axis, start, stop)
        return taken
    own, spans = pieces_of(value)
    if own != axis:
        return each_piece(value, lambda piece: take(piece, axis, start, stop))
    found = []
    for piece, first, end in spans:
        low, high = max(start - first, 0), min(stop, end) - first
        if low < high:
            whole = (low, high) == (0, end - first)
            found.append(piece if whole else take(piece, axis, low, high))
    if not found:
        return value.like(spans[0][0].with_dim(axis, atom(0)).dims)
    result = blocked(axis, found)
    result.sources = value.sources
    return result
