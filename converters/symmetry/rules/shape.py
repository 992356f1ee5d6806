"""Operations that arrange the entries of one tensor anew: views, permutations, expansions."""

from __future__ import annotations

from converters.symmetry.dims import Dim, atom, factor, multiply, regroup, unify
from converters.symmetry.engine import Call, Unruled
from converters.symmetry.rules.common import axes, axis, table
from converters.symmetry.values import Value

__all__ = ["SHAPE"]


def view(call: Call) -> Value:
    """Read the entries in another shape: dimensions are multiplied and factored row-major."""
    value = call.value("self")
    if 0 in call.shape:
        return value.like([call.fixed(size, "is empty") for size in call.shape])
    return value.like(regroup(value.dims, call.shape))


def permute(call: Call) -> Value:
    """Order the dimensions anew."""
    value = call.value("self")
    return value.like([value.dims[i] for i in axes(call["dims"], len(value.dims))])


def transpose(call: Call) -> Value:
    """Swap two dimensions."""
    value = call.value("self")
    dims = list(value.dims)
    one = axis(call.get("dim0", call.get("axis0")), len(dims))
    other = axis(call.get("dim1", call.get("axis1")), len(dims))
    dims[one], dims[other] = dims[other], dims[one]
    return value.like(dims)


def reverse(call: Call) -> Value:
    """Take the dimensions in the opposite order."""
    return call.value("self").like(call.value("self").dims[::-1])


def matrix_transpose(call: Call) -> Value:
    """Swap the last two dimensions."""
    dims = call.value("self").dims
    return call.value("self").like([*dims[:-2], dims[-1], dims[-2]])


def movedim(call: Call) -> Value:
    """Move dimensions to other places."""
    value = call.value("self")
    rank = len(value.dims)
    source, target = axes(call["source"], rank), axes(call["destination"], rank)
    places: dict[int, Dim] = {t: value.dims[s] for s, t in zip(source, target, strict=True)}
    rest = iter(dim for i, dim in enumerate(value.dims) if i not in source)
    return value.like([places[i] if i in places else next(rest) for i in range(rank)])


def unsqueeze(call: Call) -> Value:
    """Put in a dimension of size 1."""
    value = call.value("self")
    place = axis(call["dim"], len(value.dims) + 1)
    return value.like([*value.dims[:place], atom(1), *value.dims[place:]])


def squeeze(call: Call) -> Value:
    """Drop dimensions of size 1."""
    value = call.value("self")
    dropped = axes(call.get("dim"), len(value.dims))
    return value.like(
        [dim for i, dim in enumerate(value.dims) if not (dim.size == 1 and i in dropped)]
    )


def expand(call: Call) -> Value:
    """Repeat along dimensions of size 1; the copies are alike, so their order is free."""
    value = call.value("self")
    shape = call.shape
    lead = len(shape) - len(value.dims)
    dims = [atom(size) for size in shape[:lead]]
    for dim, size in zip(value.dims, shape[lead:], strict=True):
        dims.append(dim if dim.size == size else atom(size))
    return value.like(dims)


def repeat(call: Call) -> Value:
    """Put copies one after another: copies x entries."""
    value = call.value("self")
    lead = len(call.shape) - len(value.dims)
    dims = [atom(size) for size in call.shape[:lead]]
    for dim, size in zip(value.dims, call.shape[lead:], strict=True):
        dims.append(dim if dim.size == size else multiply((atom(size // dim.size), dim)))
    return value.like(dims)


def repeat_interleave(call: Call) -> Value:
    """Put the copies of each entry one after another: entries x copies."""
    value = call.value("self")
    if not isinstance(call.get("repeats"), int) or call.get("dim") is None:
        raise Unruled("repeats a number of times that depends on the entry")
    place = axis(call["dim"], len(value.dims))
    dims = list(value.dims)
    dims[place] = multiply((dims[place], atom(call["repeats"])))
    return value.like(dims)


def pixel_shuffle(call: Call) -> Value:
    """Move channels to pixels: (C r r, H, W) -> (C, H r, W r)."""
    value, ratio = call.value("self"), call["upscale_factor"]
    *lead, channels, height, width = value.dims
    outer, rows, columns = factor(channels, (channels.size // ratio**2, ratio, ratio))
    return value.like([*lead, outer, multiply((height, rows)), multiply((width, columns))])


def pixel_unshuffle(call: Call) -> Value:
    """Move pixels to channels: (C, H r, W r) -> (C r r, H, W)."""
    value, ratio = call.value("self"), call["downscale_factor"]
    *lead, channels, height, width = value.dims
    high, rows = factor(height, (height.size // ratio, ratio))
    wide, columns = factor(width, (width.size // ratio, ratio))
    return value.like([*lead, multiply((channels, rows, columns)), high, wide])


def channel_shuffle(call: Call) -> Value:
    """Interleave groups of channels: groups x channels -> channels x groups."""
    value, groups = call.value("self"), call["groups"]
    lead, channels, *rest = value.dims
    outer, inner = factor(channels, (groups, channels.size // groups))
    return value.like([lead, multiply((inner, outer)), *rest])


def unfold(call: Call) -> Value:
    """Take windows of one dimension; windows that do not overlap are a view."""
    value = call.value("self")
    place = axis(call["dimension"], len(value.dims))
    size, step = call["size"], call["step"]
    dims = list(value.dims)
    if size == step and dims[place].size % size == 0:
        dims[place], inner = factor(dims[place], (dims[place].size // size, size))
        return value.like([*dims, inner])
    call.fix([dims[place]], "takes overlapping windows of it")
    dims[place] = call.fixed(call.shape[place])
    return value.like([*dims, call.fixed(size)])


def diagonal(call: Call) -> Value:
    """Take the entries with two equal indices."""
    value = call.value("self")
    one, other = (axis(call[name], len(value.dims)) for name in ("dim1", "dim2"))
    if call["offset"] != 0 or value.dims[one].size != value.dims[other].size:
        call.fix([value.dims[one], value.dims[other]], "takes an off diagonal of it")
        kept = call.fixed(call.shape[-1])
    else:
        unify(value.dims[one], value.dims[other])
        kept = value.dims[one]
    rest = [dim for i, dim in enumerate(value.dims) if i not in (one, other)]
    return value.like([*rest, kept])


def triangle(call: Call) -> Value:
    """Zero what is above or below the diagonal: the order of both dimensions counts."""
    value = call.value("self")
    call.fix(value.dims[-2:], "keeps a triangle of it")
    return value.like(value.dims)


SHAPE = {
    **table(
        view, "view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as",
        "_reshape_alias", "view_copy",
    ),
    **table(permute, "permute", "permute_copy"),
    **table(transpose, "transpose", "swapaxes", "swapdims", "transpose_copy"),
    **table(reverse, "t", "numpy_T"),
    **table(matrix_transpose, "mT", "adjoint", "matrix_H"),
    **table(movedim, "movedim", "moveaxis"),
    **table(unsqueeze, "unsqueeze", "unsqueeze_copy"),
    **table(squeeze, "squeeze", "squeeze_copy"),
    **table(expand, "expand", "expand_as", "broadcast_to", "expand_copy"),
    **table(repeat, "repeat", "tile"),
    **table(repeat_interleave, "repeat_interleave"),
    **table(pixel_shuffle, "pixel_shuffle"),
    **table(pixel_unshuffle, "pixel_unshuffle"),
    **table(channel_shuffle, "channel_shuffle", "native_channel_shuffle"),
    **table(unfold, "unfold"),
    **table(diagonal, "diagonal"),
    **table(triangle, "tril", "triu"),
}
