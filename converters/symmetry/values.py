"""Tensors as the derivation sees them: dimensions in place of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converters.symmetry.dims import Dim

__all__ = ["Constant", "Reason", "Value"]

#: Constants with more entries than this are not computed, and taken to vary everywhere.
MAX_ENTRIES = 2**26


@dataclass(frozen=True, eq=False)
class Reason:
    """Why something is fixed.

    Args:
        op: the operation that fixed it; ``"input"`` and ``"output"`` of the network stand for
            themselves.
        module_path: where it is.
        text: why, for people.
        unknown: whether that is for want of a rule.
        natural: whether nothing was lost by it, as at inputs and outputs.
    """

    op: str
    module_path: str = ""
    text: str = ""
    unknown: bool = False
    natural: bool = False


@dataclass(eq=False)
class Constant:
    """A tensor that depends on no parameter and no input; its value, where it is known."""

    shape: tuple[int, ...]
    value: Tensor | None
    _varies: dict[int, bool] = field(default_factory=dict)

    def varies(self, axis: int) -> bool:
        """Whether entries differ along an axis; an unknown value is taken to."""
        if self.shape[axis] == 1:
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


@dataclass(eq=False)
class Value:
    """A tensor of the network.

    Attributes:
        dims: its dimensions.
        sources: layers of the record from which it comes.
        constant: what is known of it, if it depends on no parameter and no input.
        parameter: its name, if it is a parameter as stored.
        dtype: type of its entries.
    """

    dims: tuple[Dim, ...]
    sources: tuple[int, ...] = ()
    constant: Constant | None = None
    parameter: str | None = None
    dtype: torch.dtype | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return tuple(dim.size for dim in self.dims)

    def like(self, dims: Sequence[Dim]) -> Value:
        """Return a value from the same layers with other dimensions."""
        return Value(tuple(dims), self.sources)
