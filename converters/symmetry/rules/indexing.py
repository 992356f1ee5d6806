"""Operations that read or write at indices, or move along an axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from converters.symmetry.call import Call, Unruled
from converters.symmetry.dims import Dim, atom, multiply
from converters.symmetry.rules.common import (
    align,
    axes,
    broadcast,
    entrywise,
    rest_alike,
    rest_fixed,
    table,
)
from converters.symmetry.rules.segments import piece
from converters.symmetry.values import Value


def _taken(call: Call, value: Value, dim: Dim, index: Value) -> list[Dim]:
    """Return the dimensions that stand for one that is read at the entries of an index."""
    known = index.constant.value if index.constant is not None else None
    if known is not None and known.dim() == 1 and known.dtype != torch.bool and known.numel():
        first = int(known[0])
        ahead = torch.arange(first, first + known.numel())
        if torch.equal(known.cpu().to(torch.int64), ahead) and 0 <= first <= dim.size - len(ahead):
            call.leaves_out(value)
            return [piece(dim, first, first + len(ahead))]
    if call.looks_up(index, dim):
        return list(index.dims)
    # The entries of a table that is a parameter are no neurons.
    call.fix([dim], "is read at computed indices", natural=value.parameter is not None)
    return list(index.dims)


@entrywise
def embedding(call: Call) -> Value:
    """Look up rows: entry v of the vocabulary is told from others, the features are free."""
    weight, indices = call.value("weight"), call.value("indices")
    dims = [*_taken(call, weight, weight.dims[0], indices), weight.dims[1]]
    if len(dims) != len(indices.dims) + 1:
        dims = [*indices.dims, weight.dims[1]]
    inputs = [] if indices.constant is not None else [indices]
    return call.enter("embedding", inputs, Value(dims), {"weight": weight})


@entrywise
def embedding_bag(call: Call) -> list[Value | None]:
    """Look up rows and reduce each bag of them, feature by feature."""
    weight, scale = call.value("weight"), call.get("per_sample_weights")
    told = [call.value("indices"), call.value("offsets"), scale]
    call.fix([weight.dims[0]], "is read at computed indices", natural=weight.parameter is not None)
    call.fix([d for v in told if isinstance(v, Value) for d in v.dims], "is cut into bags")
    bags = Value((call.fixed(call.shape[0]), weight.dims[1]))
    inputs = [v for v in told if isinstance(v, Value) and v.constant is None]
    return rest_fixed(call, call.enter("embedding", inputs, bags, {"weight": weight}))


@entrywise
def index_select(call: Call) -> Value:
    """Read one axis at indices."""
    value, place = call.along()
    taken = _taken(call, value, value.dims[place], call.value("index"))
    return value.with_dim(place, *taken)


def _is_mask(item: Value) -> bool:
    return item.dtype in (torch.bool, torch.uint8)


class _Access:
    """Where indices meet the axes of a tensor; a mask covers as many axes as it has itself.

    Those axes are ``covered``. The others stand ``before`` and ``after`` the indices' own in the
    result, of which there are ``rank``.
    """

    def __init__(self, value: Value, indices: Sequence[Value | None]) -> None:
        self.items = [item for item in indices if item is not None]
        self.masked = any(map(_is_mask, self.items))
        self.rank = max(1 if _is_mask(item) else item.rank for item in self.items)
        places: list[int] = []
        place = 0
        for item in indices:
            width = item.rank if item is not None and _is_mask(item) else 1
            places += range(place, place + width) if item is not None else ()
            place += width
        self.covered = [value.dims[i] for i in places]
        rest = [dim for i, dim in enumerate(value.dims) if i not in places]
        # What is read comes first where the axes are apart.
        adjacent = len(places) == places[-1] - places[0] + 1
        start = places[0] if adjacent else 0
        self.before, self.after = rest[:start], rest[start:]

    def joint(self, call: Call, sizes: Sequence[int]) -> list[Dim]:
        """Return the indices' own dimensions; those of a mask are as long as it has entries set."""
        if self.masked:
            call.fix([dim for item in self.items for dim in item.dims], "are places that are told")
            return [call.fixed(size) for size in sizes]
        return broadcast([item.dims for item in self.items])


@entrywise
def index(call: Call) -> Value:
    """Read axes at indices that are broadcast against each other, or where a mask is set."""
    value = call.value("self")
    access = _Access(value, call["indices"])
    lead = len(access.before)
    if len(access.items) == 1 and not access.masked:
        joint = _taken(call, value, access.covered[0], access.items[0])
    else:
        told = access.covered if access.masked else [
            dim for item, dim in zip(access.items, access.covered, strict=True)
            if not call.looks_up(item, dim)
        ]
        call.fix(told, "is read at computed indices")
        joint = access.joint(call, call.shape[lead : lead + access.rank])
    return value.like([*access.before, *joint, *access.after])


@entrywise
def index_put(call: Call) -> Value:
    """Write at indices: the axes that are written at are fixed, the others are aligned.

    Where a mask is set, one number, or one for each index of the other axes, is written entry by
    entry: then the mask is aligned, and nothing is fixed.
    """
    value, source = call.value("self"), call.value("values")
    access = _Access(value, call["indices"])
    start, stop = len(access.before), len(access.before) + access.rank
    full = stop + len(access.after)
    written = [*(atom(1) for _ in range(full - source.rank)), *source.dims[-full:]]
    faced = written[start:stop]
    if len(access.items) == 1 and access.masked and all(dim.size == 1 for dim in faced):
        broadcast([access.covered, access.items[0].dims])
    else:
        call.fix([*access.covered, *faced], "is written at computed indices")
        joint = access.joint(call, [dim.size for dim in faced])
        call.fix(joint, "is written at computed indices")
    broadcast([written[:start], access.before])
    broadcast([written[stop:], access.after])
    return call.enter("scatter", [value, source], value.like(value.dims))


@entrywise
def gather(call: Call) -> Value:
    """Read one axis at an index for each entry: that axis is fixed, the others are aligned."""
    (value, place), index = call.along(), call.value("index")
    if value.dims:
        if not call.looks_up(index, value.dims[place]):
            call.fix([value.dims[place]], "is read at computed indices")
        _align_others(call, value, index, place)
    return value.like(index.dims)


@entrywise
def scatter(call: Call) -> Value:
    """Write (or add) along one axis at an index for each entry: that axis is fixed."""
    (value, place), index = call.along(), call.value("index")
    source = call.get("src", call.get("source"))
    if not call.looks_up(index, value.dims[place]):
        call.fix([value.dims[place]], "is written at computed indices")
    call.fix([index.dims[place]], "is written at computed indices")
    _align_others(call, value, index, place)
    inputs = [value, index]
    if isinstance(source, Value):
        call.fix([source.dims[place]], "is written at computed indices")
        _align_others(call, value, source, place)
        inputs.append(source)
    return call.enter("scatter", inputs, value.like(value.dims))


def _align_others(call: Call, value: Value, other: Value, place: int) -> None:
    for i, (mine, theirs) in enumerate(zip(value.dims, other.dims, strict=True)):
        if i != place and mine.size == theirs.size:
            align([mine, theirs])
        elif i != place:
            call.fix([mine, theirs], "is read or written in part")


@entrywise
def index_add(call: Call) -> Value:
    """Add or write slices at indices of one axis: that axis is fixed, the others are aligned."""
    (value, place), source = call.along(), call.value("source")
    call.fix([value.dims[place]], "is written at computed indices")
    call.fix([source.dims[place], *call.value("index").dims], "is added at computed indices")
    dims = [
        mine if i == place else align([mine, theirs])
        for i, (mine, theirs) in enumerate(zip(value.dims, source.dims, strict=True))
    ]
    return call.enter("add", [value, source], Value(dims))


@entrywise
def turn(call: Call) -> Value:
    """Shift along axes, or turn them round: their order counts."""
    value, rolls = call.value("self"), "shifts" in call.arguments
    if rolls and not call["dims"]:
        raise Unruled("rolls over all axes at once")
    turned = [value.dims[i] for i in axes(call["dims"], value.rank)]
    call.fix(turned, "is shifted" if rolls else "is turned round")
    return value.like(value.dims)


@entrywise
def scan(call: Call) -> list[Value | None]:
    """Accumulate along an axis, whose order counts."""
    value, place = call.along()
    call.fix([value.dims[place]], "is accumulated in order")
    return rest_alike(call, value.like(value.dims))


@entrywise
def one_hot(call: Call) -> Value:
    """Write each class as a unit vector; classes are told apart, unless they are places."""
    value = call.value("self")
    classes = call.copies(call.shape[-1])
    if not call.looks_up(value, classes):
        call.fix([classes], "counts classes", natural=True)
    return value.like([*value.dims, classes])


@entrywise
def nonzero(call: Call) -> Value:
    """List the positions of entries that are not zero."""
    value = call.value("self")
    call.fix(value.dims, "has positions of its entries listed")
    return value.like([call.fixed(size) for size in call.shape])


@entrywise
def grid_sample(call: Call) -> Value:
    """Read pixels at computed places, channel by channel."""
    value, grid = call.value("input"), call.value("grid")
    call.fix(value.dims[2:], "is read at computed places")
    call.fix(grid.dims[-1:], "counts coordinates")
    lead = broadcast([[value.dims[0]], [grid.dims[0]]])
    read = Value((*lead, value.dims[1], *grid.dims[1:-1]))
    return call.enter("gather", [value, grid], read)


@entrywise
def masked_scatter(call: Call) -> Value:
    """Write entries in order where a mask is set: the order of everything counts."""
    value, mask, source = (call.value(name) for name in ("self", "mask", "source"))
    call.fix([*value.dims, *mask.dims, multiply(source.dims)], "is filled in order")
    return call.enter("scatter", [value, source], value.like(value.dims))


INDEXING = {
    **table(embedding, "embedding"),
    **table(embedding_bag, "_embedding_bag", "_embedding_bag_forward_only"),
    **table(index_select, "index_select"),
    **table(index, "index", "_unsafe_index"),
    **table(index_put, "index_put", "_unsafe_index_put"),
    **table(gather, "gather"),
    **table(scatter, "scatter", "scatter_add", "scatter_reduce"),
    **table(index_add, "index_add", "index_reduce", "index_copy"),
    **table(turn, "roll", "flip"),
    **table(scan, "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"),
    **table(one_hot, "one_hot"),
    **table(nonzero, "nonzero", "argwhere"),
    **table(grid_sample, "grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
    **table(masked_scatter, "masked_scatter"),
}
