"""Operations that arrange the entries of one tensor anew: views, permutations, expansions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from converters.symmetry.blocks import blocked, each_piece, rearrange
from converters.symmetry.call import Call, Unruled
from converters.symmetry.demands import kept_axes
from converters.symmetry.dims import cut, factor, is_fixed, multiply, regroup, unify
from converters.symmetry.rules.common import axes, axis, entrywise, table
from converters.symmetry.rules.segments import inserted
from converters.symmetry.values import Value, tensors


@entrywise
def view(call: Call) -> Value:
    """Read the entries in another shape: dimensions are multiplied and factored row-major."""
    value, shape = call.value("self"), call.shape
    # Of another tensor the shape counts; and rows that are alike become one dimension.
    call.leaves_out(*tensors(call.arguments))
    if 0 in shape:
        return value.like([call.fixed(size, "is empty") for size in shape])
    if value.blocks is not None:
        own = value.blocks[0]
        kept = [new for new, old in kept_axes(value.shape, shape).items() if old == own]
        if kept:
            return each_piece(value, lambda piece: _viewed(piece, shape, kept[0]), kept[0])
    for place in range(len(shape)):
        pieces = _cut_first(call, value, place) if len(call.cuts(place)) > 1 else None
        if pieces is not None:
            return pieces
    return value.like(regroup(value.dims, shape))


def _viewed(piece: Value, shape: Sequence[int], place: int) -> Value:
    """View a piece in the shape of the whole, but for the axis along which it is a piece."""
    sizes = list(shape)
    sizes[place] = 1
    sizes[place] = math.prod(piece.shape) // math.prod(sizes)
    return piece.like(regroup(piece.dims, sizes))


def _cut_first(call: Call, value: Value, place: int) -> Value | None:
    """View in blocks, where an axis that the view makes is taken apart later on.

    If it is not the last of those that one dimension becomes, pieces have their own behind it.
    """
    shape = call.shape
    before = math.prod(shape[:place])
    own = next((
        axis for axis, size in enumerate(value.shape)
        if math.prod(value.shape[:axis]) <= before
        and before * shape[place] <= math.prod(value.shape[: axis + 1])
        and size > shape[place]
    ), None)  # fmt: skip
    if own is None or before % math.prod(value.shape[:own]):
        return None
    outer = before // math.prod(value.shape[:own])
    if value.shape[own] % (outer * shape[place]):
        return None
    inside = value.shape[own] // (outer * shape[place])
    dims = value.dims
    if inside == 1 or is_fixed(dims[own]):
        return None
    lead, rest = factor(dims[own], [outer, shape[place] * inside])
    parts = []
    cuts = call.cuts(place)
    for size, part in zip(cuts, cut(rest, [size * inside for size in cuts]), strict=True):
        sizes = [*shape[:place], size, *shape[place + 1 :]]
        parts.append(value.like(regroup([*dims[:own], lead, part, *dims[own + 1 :]], sizes)))
    return blocked(place, parts)


@entrywise
def permute(call: Call) -> Value:
    """Order the dimensions anew; the opposite order where none is given."""
    value = call.value("self")
    return rearrange(value, axes(call.get("dims", range(value.rank)[::-1]), value.rank))


@entrywise
def transpose(call: Call) -> Value:
    """Swap two dimensions, the last ones where none are given."""
    value = call.value("self")
    names = ("axis0", "axis1") if "axis0" in call.arguments else ("dim0", "dim1")
    one, other = (axis(call.get(names[i], i - 2), value.rank) for i in (0, 1))
    order = list(range(value.rank))
    order[one], order[other] = order[other], order[one]
    return rearrange(value, order)


@entrywise
def movedim(call: Call) -> Value:
    """Move dimensions to other places."""
    value = call.value("self")
    source, target = axes(call["source"], value.rank), axes(call["destination"], value.rank)
    places = dict(zip(target, source, strict=True))
    rest = iter(i for i in range(value.rank) if i not in source)
    order = [places[i] if i in places else next(rest) for i in range(value.rank)]
    return rearrange(value, order)


@entrywise
def unsqueeze(call: Call) -> Value:
    """Put in a dimension of size 1."""
    value = call.value("self")
    return inserted(value, axis(call["dim"], value.rank + 1))


@entrywise
def squeeze(call: Call) -> Value:
    """Drop dimensions of size 1."""
    value = call.value("self")
    dropped = axes(call.get("dim"), value.rank)
    kept = [i for i, size in enumerate(value.shape) if size != 1 or i not in dropped]
    return rearrange(value, kept)


@entrywise
def expand(call: Call) -> Value:
    """Repeat along dimensions of size 1; the copies are alike, so their order is free.

    A copy over another tensor is expanded to the shape of that one.
    """
    name, shape = "src" if "src" in call.arguments else "self", call.shape
    value = call.value(name)
    call.leaves_out(*tensors([v for key, v in call.arguments.items() if key != name]))
    if value.shape == shape:
        return rearrange(value, range(value.rank))
    lead = len(shape) - len(value.dims)
    dims = [call.copies(size) for size in shape[:lead]]
    for dim, size in zip(value.dims, shape[lead:], strict=True):
        dims.append(dim if dim.size == size else call.copies(size))
    return value.like(dims)


@entrywise
def repeat(call: Call) -> Value:
    """Put copies one after another: copies x entries."""
    value = call.value("self")
    lead = len(call.shape) - len(value.dims)
    dims = [call.copies(size) for size in call.shape[:lead]]
    for dim, size in zip(value.dims, call.shape[lead:], strict=True):
        copies = call.copies(size // dim.size)
        dims.append(dim if dim.size == size else multiply((copies, dim)))
    return value.like(dims)


@entrywise
def repeat_interleave(call: Call) -> Value:
    """Put the copies of each entry one after another: entries x copies."""
    if call.get("dim") is None:
        raise Unruled("repeats the entries of all axes")
    (value, place), repeats = call.along(), call["repeats"]
    dim = value.dims[place]
    if isinstance(repeats, Value):
        call.fix([dim, *repeats.dims], "is repeated a number of times that depends on it")
        return value.with_dim(place, call.fixed(call.shape[place]))
    return value.with_dim(place, multiply((dim, call.copies(repeats))))


@entrywise
def pixel_shuffle(call: Call) -> Value:
    """Move channels to pixels: (C r r, H, W) -> (C, H r, W r)."""
    value, ratio = call.value("self"), call["upscale_factor"]
    *lead, channels, height, width = value.dims
    outer, rows, columns = factor(channels, (channels.size // ratio**2, ratio, ratio))
    return value.like([*lead, outer, multiply((height, rows)), multiply((width, columns))])


@entrywise
def pixel_unshuffle(call: Call) -> Value:
    """Move pixels to channels: (C, H r, W r) -> (C r r, H, W)."""
    value, ratio = call.value("self"), call["downscale_factor"]
    *lead, channels, height, width = value.dims
    high, rows = factor(height, (height.size // ratio, ratio))
    wide, columns = factor(width, (width.size // ratio, ratio))
    return value.like([*lead, multiply((channels, rows, columns)), high, wide])


@entrywise
def channel_shuffle(call: Call) -> Value:
    """Interleave groups of channels: groups x channels -> channels x groups."""
    value, groups = call.value("self"), call["groups"]
    lead, channels, *rest = value.dims
    outer, inner = factor(channels, (groups, channels.size // groups))
    return value.like([lead, multiply((inner, outer)), *rest])


@entrywise
def unfold(call: Call) -> Value:
    """Take windows of one dimension; windows that do not overlap are a view."""
    value, place = call.along("dimension")
    size, dim = call["size"], value.dims[place]
    if size == call["step"] and dim.size % size == 0:
        windows, inner = factor(dim, (dim.size // size, size))
    else:
        sizes = (call.shape[place], size)
        windows, inner = call.resampled([dim], sizes, "has overlapping windows taken")
    return value.like([*value.with_dim(place, windows).dims, inner])


@entrywise
def diagonal(call: Call) -> Value:
    """Take the entries with two equal indices."""
    value = call.value("self")
    one, other = axes([call["dim1"], call["dim2"]], value.rank)
    kept = value.dims[one]
    if call["offset"] != 0 or kept.size != value.dims[other].size:
        call.fix([kept, value.dims[other]], "takes an off diagonal of it")
        kept = call.fixed(call.shape[-1])
    else:
        unify(kept, value.dims[other])
        call.drops(kept)
    return value.like([*(d for i, d in enumerate(value.dims) if i not in (one, other)), kept])


@entrywise
def triangle(call: Call) -> Value:
    """Zero what is above or below the diagonal: the order of both dimensions counts."""
    value = call.value("self")
    call.fix(value.dims[-2:], "keeps a triangle of it")
    return value.like(value.dims)


SHAPE = {
    **table(view, "view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as",
            "reshape_as", "_reshape_alias", "view_copy"),
    **table(permute, "permute", "permute_copy", "t", "numpy_T"),
    **table(transpose, "transpose", "swapaxes", "swapdims", "transpose_copy", "mT", "adjoint",
            "matrix_H"),
    **table(movedim, "movedim", "moveaxis"),
    **table(unsqueeze, "unsqueeze", "unsqueeze_copy"),
    **table(squeeze, "squeeze", "squeeze_copy"),
    **table(expand, "expand", "expand_as", "broadcast_to", "expand_copy", "copy"),
    **table(repeat, "repeat", "tile"),
    **table(repeat_interleave, "repeat_interleave"),
    **table(pixel_shuffle, "pixel_shuffle"),
    **table(pixel_unshuffle, "pixel_unshuffle"),
    **table(channel_shuffle, "channel_shuffle", "native_channel_shuffle"),
    **table(unfold, "unfold"),
    **table(diagonal, "diagonal"),
    **table(triangle, "tril", "triu"),
}
