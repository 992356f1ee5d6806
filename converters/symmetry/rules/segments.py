"""Operations that put segments of an axis together or take them apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from converters.symmetry.blocks import blocked, overwrite, rearrange, take
from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, concatenate, cut, factor, is_fixed, unify
from converters.symmetry.rules.common import axis, broadcast, enter, entrywise, is_weight, table
from converters.symmetry.values import Value


@entrywise
def cat(call: Call) -> Value:
    """Concatenate along one axis; the others are aligned once something asks for them as one."""
    values: list[Value] = [v for v in call["tensors"] if v.shape != (0,)]
    return _together(call, values, axis(call.get("dim", 0), values[0].rank))


@entrywise
def stack(call: Call) -> Value:
    """Put tensors side by side along a new axis, whose indices are told apart by their number."""
    values: list[Value] = call["tensors"]
    place = axis(call["dim"], values[0].rank + 1)
    return _together(call, values, place, [inserted(value, place) for value in values])


def _together(
    call: Call, values: list[Value], place: int, pieces: Sequence[Value] | None = None
) -> Value:
    parts = {f"part_{i}": value for i, value in enumerate(values)}
    return enter(call, "concatenate", parts, blocked(place, pieces or values), dim=place)


def inserted(value: Value, place: int) -> Value:
    """Put in an axis of size 1."""
    return rearrange(value, [*range(place), None, *range(place, value.rank)])


def _without(value: Value, place: int) -> Value:
    """Drop an axis of size 1."""
    return rearrange(value, [i for i in range(value.rank) if i != place])


def split(call: Call) -> list[Value]:
    """Cut an axis into consecutive pieces."""
    value, place = call.along()
    total = value.shape[place]
    if "split_sizes" in call.arguments:
        sizes = list(call["split_sizes"])
    else:
        step = call["split_size"] if "split_size" in call.arguments else -(-total // call["chunks"])
        sizes = [min(step, total - start) for start in range(0, total, step)]
    call.leaves_out(value)
    ends = accumulate(sizes)
    return [take(value, place, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def unbind(call: Call) -> list[Value]:
    """Take an axis apart, index by index."""
    value, place = call.along()
    call.leaves_out(value)
    return [_without(take(value, place, i, i + 1), place) for i in range(value.shape[place])]


def select(call: Call) -> Value:
    """Take one index of an axis."""
    value, place = call.along()
    index = _index(call, value.shape[place], "selects")
    call.leaves_out(value)
    return _without(take(value, place, index, index + 1), place)


def _index(call: Call, size: int, does: str) -> int:
    index = axis(call["index"], size)
    if not 0 <= index < size:
        raise Unruled(f"{does} an index that depends on the data")
    return index


def piece(dim: Dim, start: int, stop: int) -> Dim:
    """Return indices ``start`` to ``stop`` of a dimension."""
    return cut(dim, [start, stop - start, dim.size - stop])[1]


def _bounds(call: Call, size: int, length: int, does: str) -> tuple[int, int, int]:
    """Return start, stop and step of a slice, within the size."""
    given = slice(call.get("start"), call.get("end"), call.get("step", 1))
    start, stop, step = given.indices(size)
    if max(0, -(-(stop - start) // step)) != length:
        raise Unruled(f"{does} a length that depends on the data")
    return start, stop, step


def take_slice(call: Call) -> Value:
    """Take some consecutive indices of an axis, or every k-th."""
    value, place = call.along()
    length = call.shape[place]
    start, stop, step = _bounds(call, value.shape[place], length, "slices to")
    call.leaves_out(value)
    if step == 1:
        return take(value, place, start, max(stop, start))
    dim = value.dims[place]
    if not is_fixed(dim):
        if dim.size % step == 0 and -(-(stop - start) // step) == dim.size // step:
            outer, phase = factor(dim, (dim.size // step, step))
            piece(phase, start, start + 1)
            return value.with_dim(place, outer)
        call.fix([dim], "takes every k-th index of a part of it")
    return value.with_dim(place, call.fixed(length))


@entrywise
def slice_scatter(call: Call) -> Value:
    """Overwrite some indices of an axis by another tensor, consecutive ones or every k-th."""
    (value, place), source = call.along(default=0), call.value("src")
    start, _, step = _bounds(call, value.shape[place], source.shape[place], "overwrites")
    if step == 1:
        return _written(call, value, source, overwrite(value, source, place, start), place)
    dims = broadcast([value.with_dim(place).dims, source.with_dim(place).dims])
    every = value.dims[place]
    dims.insert(place, every)
    _interleave(call, every, source.dims[place], start, step)
    return _written(call, value, source, Value(dims), place)


def _interleave(call: Call, every: Dim, other: Dim, start: int, step: int) -> None:
    """Tie a dimension to what is written at every k-th index of it, or fix both."""
    if is_fixed(every) and is_fixed(other):
        return
    if every.size == other.size * step:
        outer, phase = factor(every, (other.size, step))
        piece(phase, start, start + 1)
        unify(outer, other)
    else:
        call.fix([every, other], "is written at every k-th index of a part of it")


@entrywise
def select_scatter(call: Call) -> Value:
    """Overwrite one index of an axis by another tensor."""
    (value, place), source = call.along(), call.value("src")
    index = _index(call, value.shape[place], "overwrites")
    result = overwrite(value, inserted(source, place), place, index)
    return _written(call, value, source, result, place)


def _written(call: Call, value: Value, source: Value, result: Value, place: int) -> Value:
    call.leaves_out(value)
    given = {"self": value, "source": source}
    weights = {role: v for role, v in given.items() if is_weight(v)}
    moving = [v for v in given.values() if not is_weight(v)]
    return call.enter("scatter", moving, result, weights, dim=place)


@entrywise
def pad(call: Call) -> Value:
    """Put a constant, or copies of the border, around the last axes."""
    value, widths = call.value("self"), list(call.get("pad", call.get("padding")))
    constant = call.get("mode", "constant") == "constant" and "pad" in call.arguments
    dims = list(value.dims)
    for i in range(len(widths) // 2):
        place = len(dims) - 1 - i
        before, after = widths[2 * i], widths[2 * i + 1]
        if not before and not after:
            continue
        if constant and before >= 0 and after >= 0:
            # What is put in is alike everywhere, so that its order is free.
            parts = (call.copies(before), dims[place], call.copies(after))
            dims[place] = concatenate(part for part in parts if part.size)
        else:
            call.fix([dims[place]], "pads it with its own border, or crops it")
            dims[place] = call.fixed(call.shape[place])
    return value.like(dims)


SEGMENTS = {
    **table(cat, "cat", "concat", "concatenate"),
    **table(stack, "stack"),
    **table(split, "split", "split_with_sizes", "chunk", "split_copy", "split_with_sizes_copy"),
    **table(unbind, "unbind", "unbind_copy"),
    **table(select, "select", "select_copy"),
    **table(take_slice, "slice", "slice_copy"),
    **table(slice_scatter, "slice_scatter"),
    **table(select_scatter, "select_scatter"),
    **table(pad, "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
            "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d"),
}
