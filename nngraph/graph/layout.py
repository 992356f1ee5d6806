r"""Where the entries of a parameter land in the graph: on edges, on nodes, and in which channel.

A parameter falls into *slabs*. A slab is a window of the tensor whose axes, each split into factors
where needed, count one of

====== ==========================================================================
``t``  neurons of the target group
``s``  neurons of the source group
``b``  parts: neurons of both ends at once, as the groups of a grouped convolution
``n``  neurons of the group, for parameters on nodes
``f``  features, such as the taps of a kernel
====== ==========================================================================

Written as one letter per factor, a linear weight is ``ts``, a 2-d convolution ``tsff``, with groups
``btsff``, the scale of a norm ``b``, a bias ``n``, the weight after a flattening ``tsf``. An axis
that counts several groups one after another, as after a concatenation, makes a slab of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, starmap

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError

#: Names of the dtypes that buffers of whole numbers have.
INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class Slab:
    """A window of a parameter and where it lands.

    Args:
        axes: one letter per factor of the window's axes; see the top of the module. A letter may
            repeat: its factors are then taken together, the first outermost.
        target: group that the edges lead to, or on whose nodes the entries are.
        source: group that the edges come from; ``None`` for entries on nodes.
        column: name of the column of node features; ``None`` for edges.
        window: ``(start, stop)`` for each axis of the tensor; ``()`` for all of it.
        split: for each axis of the tensor the sizes of its factors; ``()`` for axes as they are.
        part: ``(start, stop)`` for each factor; ``()`` for all of them. One part of a concatenation
            inside of a product, such as the queries of each head, or some of a kernel's taps.
    """

    axes: str
    target: int
    source: int | None = None
    column: str | None = None
    window: tuple[tuple[int, int], ...] = ()
    split: tuple[tuple[int, ...], ...] = ()
    part: tuple[tuple[int, int], ...] = ()

    @property
    def letters(self) -> str:
        """The letters of such a slab, in the order of the graph."""
        return "btsf" if self.column is None else "nf"

    def window_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the window in a tensor of that shape."""
        return tuple(stop - start for start, stop in self.window) if self.window else tuple(shape)

    def factors(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Size of each factor, one per letter."""
        if self.part:
            return tuple(stop - start for start, stop in self.part)
        return self.whole_factors(shape)

    def whole_factors(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Size of each factor, of which the slab may hold a part."""
        if not self.split:
            return self.window_shape(shape)
        return tuple(size for axis in self.split for size in axis)

    def sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """Product of the factors of each letter; 1 where there is none."""
        found = dict.fromkeys(self.letters, 1)
        for letter, size in zip(self.axes, self.factors(shape), strict=True):
            found[letter] *= size
        return found


@dataclass(frozen=True)
class Parameter:
    """One tensor of the network: its axes, and where it lands in the graph.

    Args:
        name: key in the state dict, such as ``"0.weight"``.
        shape: shape of the tensor, in torch's own order (``[out, in]`` for a weight).
        axes: for each axis the index of the neuron group that it counts, target before source;
            ``None`` for a free axis, such as the taps of a kernel.
        column: ``None`` if the tensor is a block of edges; otherwise the column of node features
            that it fills at the neurons of its group, such as ``"bias"``.
        slabs: where the entries land, for tensors that are more than that: their ``axes`` are then
            ``()``, and their ``column`` ``None``.
        integer: dtype of a buffer of whole numbers, such as a count of batches; ``None`` for all
            else. These are carried beside the features: ``axes`` and ``slabs`` are ``()``.
        aliases: further keys of the state dict that are this very tensor, as tied weights have.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int | None, ...] = ()
    column: str | None = None
    slabs: tuple[Slab, ...] = ()
    integer: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        """Number of entries of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Block:
    """All edges of one slab between two groups: edges ``start:stop``, a dense array.

    The edges are sorted by part, then by target and then by source, so that edge
    ``start + (b * rows + i) * columns + j`` runs from neuron ``b * columns + j`` of group
    ``source`` to neuron ``b * rows + i`` of group ``target``. All but grouped and diagonal blocks
    have one part: edge ``start + i * columns + j`` then carries entry ``[i, j]`` of a weight.

    Args:
        index: place among the blocks of the architecture.
        parameter: whose entries the edges carry; of an identity, one that no state dict holds.
        slab: which of them.
        parts, rows, columns: number of parts, and targets and sources of each.
        taps: number of features per edge.
        identity: whether the edges are those of a residual addition; they carry the number 1.
    """

    index: int
    parameter: Parameter
    slab: Slab
    source: int
    target: int
    start: int
    stop: int
    parts: int
    rows: int
    columns: int
    taps: int
    identity: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """``(targets, sources)`` of a part, torch's ``[out, in]``."""
        return self.rows, self.columns


@dataclass(frozen=True)
class Column:
    """Where a slab on nodes lands: rows ``start:stop``, ``width`` columns from ``column`` on."""

    parameter: Parameter
    slab: Slab
    group: int
    column: int
    width: int
    start: int
    stop: int


def slabs_of(parameter: Parameter) -> tuple[Slab, ...]:
    """Return the slabs of a parameter; made from its axes where it lists none."""
    if parameter.slabs or parameter.integer:
        return parameter.slabs
    groups = [group for group in parameter.axes if group is not None]
    letters = iter("ts" if parameter.column is None else "n")
    axes = "".join("f" if group is None else next(letters) for group in parameter.axes)
    if parameter.column is None:
        return (Slab(axes, groups[0], groups[1]),)
    return (Slab(axes, groups[0], column=parameter.column),)


def _order(slab: Slab) -> list[int]:
    """Places of the factors in the order part, target, source, feature."""
    return sorted(range(len(slab.axes)), key=lambda i: slab.letters.index(slab.axes[i]))


def _is_plain(slab: Slab) -> bool:
    return not slab.window and not slab.part and _order(slab) == list(range(len(slab.axes)))


def read_slab(value: Tensor, parameter: Parameter, slab: Slab) -> Tensor:
    """Return the entries of a slab in the order of the graph; a view where that is possible.

    Shape:
        value ``[*lead, *shape]`` -> ``[*lead, parts, rows, columns, taps]`` for edges,
        ``[*lead, neurons, width]`` for nodes.
    """
    lead = value.shape[: value.dim() - len(parameter.shape)]
    sizes = tuple(slab.sizes(parameter.shape).values())
    if _is_plain(slab):
        return value.reshape(*lead, *sizes)
    return _factored(value, slab, len(lead)).reshape(*lead, *sizes)


def write_slab(entries: Tensor, out: Tensor, parameter: Parameter, slab: Slab) -> None:
    """Set the entries of a slab in ``out [*lead, *shape]``: what :func:`read_slab` undoes."""
    target = _factored(out, slab, out.dim() - len(parameter.shape))
    target.copy_(entries.reshape(target.shape))


def whole_slab(entries: Tensor, parameter: Parameter, slab: Slab) -> Tensor | None:
    """Return the tensor of which ``entries`` are all, as a view; ``None`` if they are not all."""
    if not _is_plain(slab):
        return None
    lead = entries.shape[: entries.dim() - (4 if slab.column is None else 2)]
    return entries.reshape((*lead, *parameter.shape))


def _factored(value: Tensor, slab: Slab, lead: int) -> Tensor:
    """View the window of a tensor with one axis per factor, in the order of the graph."""
    for axis, (start, stop) in enumerate(slab.window, lead):
        value = value.narrow(axis, start, stop - start)
    # From the last axis on, so that places in front stay.
    for axis, sizes in reversed([*enumerate(slab.split, lead)]):
        if len(sizes) != 1:
            value = torch.unflatten(value, axis, sizes) if sizes else value.squeeze(axis)
    for axis, (start, stop) in enumerate(slab.part, lead):
        value = value.narrow(axis, start, stop - start)
    return value.permute([*range(lead), *(lead + i for i in _order(slab))])


def check_slab(slab: Slab, parameter: Parameter, sizes: Sequence[int]) -> None:
    """Raise an ArchitectureError unless a slab fits its parameter and the sizes of the groups."""
    where = f"parameter {parameter.name!r}, slab {slab.axes!r}"
    ends = [slab.target] if slab.column is not None else [slab.target, slab.source]
    for group in ends:
        if not isinstance(group, int) or isinstance(group, bool) or not 0 <= group < len(sizes):
            raise ArchitectureError(
                f"{where}: it names the group {group!r}; expected an index below {len(sizes)}."
            )
    if slab.column is not None and slab.source is not None:
        raise ArchitectureError(f"{where}: a slab on nodes has no source; got {slab.source}.")
    if not isinstance(slab.axes, str) or set(slab.axes) - set(slab.letters):
        raise ArchitectureError(f"{where}: expected letters of {slab.letters!r}.")
    if slab.window and not _within(slab.window, parameter.shape):
        raise ArchitectureError(
            f"{where}: its window {slab.window} is not one of a tensor of shape {parameter.shape}."
        )
    window = slab.window_shape(parameter.shape)
    if slab.split and (
        len(slab.split) != len(window)
        or any(math.prod(split) != size for split, size in zip(slab.split, window, strict=True))
    ):
        raise ArchitectureError(
            f"{where}: the factors {slab.split} do not multiply to the sizes {window}."
        )
    factors = slab.whole_factors(parameter.shape)
    if len(factors) != len(slab.axes):
        raise ArchitectureError(f"{where}: it has {len(factors)} factors; expected one per letter.")
    if slab.part and not _within(slab.part, factors):
        raise ArchitectureError(f"{where}: its part {slab.part} is not one of {factors}.")
    found = slab.sizes(parameter.shape)
    expected = (
        {"n": sizes[slab.target]} if slab.column is not None
        else {"t": sizes[slab.target], "s": sizes[slab.source or 0]}
    )
    for letter, size in expected.items():
        count = found[letter] * found.get("b", 1)
        if count != size:
            raise ArchitectureError(
                f"{where}: axes {letter!r} count {count} neurons; the group has {size}."
            )


def _within(bounds: Sequence[tuple[int, int]], sizes: Sequence[int]) -> bool:
    return len(bounds) == len(sizes) and all(
        0 <= start < stop <= size for (start, stop), size in zip(bounds, sizes, strict=True)
    )


def check_cover(parameter: Parameter) -> None:
    """Raise an ArchitectureError unless slabs hold each entry of a parameter exactly once."""
    whole = tuple((0, size) for size in parameter.shape)
    held = sum(math.prod(slab.factors(parameter.shape)) for slab in parameter.slabs)

    def apart(one: Slab, other: Slab) -> bool:
        windows = one.window or whole, other.window or whole
        if _disjoint(*windows):
            return True
        return windows[0] == windows[1] and one.split == other.split and _disjoint(
            one.part, other.part
        )

    overlap = not all(starmap(apart, combinations(parameter.slabs, 2)))
    if held != parameter.numel or overlap:
        raise ArchitectureError(
            f"parameter {parameter.name!r}: its {len(parameter.slabs)} slabs hold {held} entries "
            f"of {parameter.numel}" + (" and overlap" if overlap else "") + "; expected each once."
        )


def _disjoint(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
    return any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(one, other, strict=False))
