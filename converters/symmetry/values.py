"""Tensors as the derivation sees them: dimensions in place of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from converters.symmetry.dims import Dim, concatenate, unify

#: Constants with more entries than this are not computed, and taken to vary everywhere.
MAX_ENTRIES = 2**26

#: Constants with more entries than this are not looked through for equal entries off the diagonal.
MAX_COMPARED = 2**20


@dataclass(eq=False)
class Constant:
    """A tensor that depends on no parameter and no input; its value, where it is known."""

    shape: tuple[int, ...]
    value: Tensor | None
    _varies: dict[int, bool] = field(default_factory=dict)

    def varies(self, axis: int) -> bool:
        """Whether entries differ along an axis; an unknown value is taken to."""
        if self.shape[axis] <= 1:
            return False
        if self.value is None:
            return True
        if axis not in self._varies:
            value = self.value
            if value.stride(axis) == 0:
                self._varies[axis] = False
            else:
                first = value.narrow(axis, 0, 1)
                same = value == first
                if value.is_floating_point():
                    same |= torch.isnan(value) & torch.isnan(first)
                self._varies[axis] = not bool(same.all())
        return self._varies[axis]

    @property
    def number(self) -> float | None:
        """The number that every entry is; ``None`` if they differ, or are no real numbers."""
        value = self.value
        if value is None or value.numel() == 0 or value.is_complex() or value.dtype == torch.bool:
            return None
        if any(map(self.varies, range(len(self.shape)))):
            return None
        number = float(value[(0,) * value.dim()])
        return number if math.isfinite(number) else None

    def joint_axes(self) -> tuple[int, int] | None:
        """Return the two axes along which entries differ, if both may be relabelled alike.

        That is so for the unit matrix: two relabellings generate all, a swap and a turn.
        """
        varying = [axis for axis in range(len(self.shape)) if self.varies(axis)]
        if self.value is None or len(varying) != 2 or self.value.numel() > MAX_COMPARED:
            return None
        one, other = varying
        size = self.shape[one]
        if size != self.shape[other]:
            return None
        turn = torch.arange(size).roll(1)
        swap = torch.tensor([1, 0, *range(2, size)])
        value = self.value.cpu()
        same = all(
            torch.equal(value.index_select(one, order).index_select(other, order), value)
            for order in (swap, turn)
        )
        return (one, other) if same else None

    def uniform(self, but: int) -> bool:
        """Whether entries differ along no axis but one."""
        return not any(self.varies(axis) for axis in range(len(self.shape)) if axis != but)

    def part(self, axis: int, start: int, stop: int) -> Constant:
        """Return consecutive indices of an axis."""
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        value = None if self.value is None else self.value.narrow(axis, start, stop - start)
        return Constant(shape, value)


class Value:
    """A tensor of the network.

    One that was put together along an axis, or that will be taken apart along one, may be held in
    **blocks**: pieces along that axis whose other dimensions are not tied to one another, as the
    features of queries and of values in a projection for both. Asking for its dimensions ties the
    pieces together for good.

    Args:
        dims: its dimensions.
        sources: layers of the record from which it comes.
        constant: what is known of it, if it depends on no parameter and no input.
        parameter: its name, if it is a parameter as stored.
        dtype: type of its entries.
        blocks: in place of dimensions, an axis and the pieces along it.
    """

    def __init__(
        self, dims: Iterable[Dim] = (), sources: tuple[int, ...] = (),
        constant: Constant | None = None, parameter: str | None = None,
        dtype: torch.dtype | None = None, blocks: tuple[int, tuple[Value, ...]] | None = None,
    ) -> None:  # fmt: skip
        self._dims, self.blocks, self.sources = tuple(dims), blocks, sources
        self.constant, self.parameter, self.dtype = constant, parameter, dtype
        #: the dimension whose indices its entries are, where they are relabelled with it
        self.indexes: Dim | None = None
        #: parameters that it is computed from, where it depends on no input of the network
        self.made_from: tuple[str, ...] = ()

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The dimensions; pieces are tied together."""
        if self.blocks is not None:
            axis, pieces = self.blocks
            for piece in pieces[1:]:
                for place, (one, other) in enumerate(zip(pieces[0].dims, piece.dims, strict=True)):
                    if place != axis:
                        unify(one, other)
            self._dims, self.blocks = self.shown, None
        return self._dims

    @property
    def shown(self) -> tuple[Dim, ...]:
        """The dimensions, those of the first piece where pieces differ; nothing is tied."""
        if self.blocks is None:
            return self._dims
        axis, pieces = self.blocks
        dims = list(pieces[0].shown)
        dims[axis] = concatenate(piece.shown[axis] for piece in pieces)
        return tuple(dims)

    @property
    def cells(self) -> list[tuple[Dim, ...]]:
        """The dimensions of each piece."""
        if self.blocks is None:
            return [self._dims]
        return [cell for piece in self.blocks[1] for cell in piece.cells]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        if self.blocks is None:
            return tuple(dim.size for dim in self._dims)
        axis, pieces = self.blocks
        sizes = list(pieces[0].shape)
        sizes[axis] = sum(piece.shape[axis] for piece in pieces)
        return tuple(sizes)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self._dims) if self.blocks is None else self.blocks[1][0].rank

    def like(self, dims: Iterable[Dim]) -> Value:
        """Return a value from the same layers with other dimensions."""
        return Value(dims, self.sources)

    def with_dim(self, axis: int, *dims: Dim) -> Value:
        """Return a value with others, or none, in place of one dimension."""
        return self.like([*self.dims[:axis], *dims, *self.dims[axis + 1 :]])

    def made_by(self, entry: int) -> Value:
        """Return the same value as the result of an entry of the record of layers."""
        return Value(self._dims, (entry,), blocks=self.blocks)


def tensors(arguments: Any) -> list[Value]:
    """Return the values among arguments, lists opened, in order."""
    if isinstance(arguments, Value):
        return [arguments]
    if isinstance(arguments, dict):
        return tensors(list(arguments.values()))
    if isinstance(arguments, (list, tuple)):
        return [value for item in arguments for value in tensors(item)]
    return []
