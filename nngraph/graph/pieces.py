"""Pieces of tensors: parts whose entries are a product of factors, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nngraph.graph.spaces import Factor


@dataclass(frozen=True)
class TensorPiece:
    """A part of a tensor whose entries a product of factors counts.

    Args:
        factors: axis by axis, outermost first.
        axes: the axis of the tensor that each factor is of.
        strides: how far apart on its axis the indices of each factor are.
        starts: where the part begins on each axis of the tensor.
    """

    factors: tuple[Factor, ...]
    axes: tuple[int, ...]
    strides: tuple[int, ...]
    starts: tuple[int, ...]

    def view(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor, ``[*sizes of the factors]``, in the same memory."""
        steps = tensor.stride()
        return tensor.as_strided(
            [factor.size for factor in self.factors],
            [steps[axis] * stride for axis, stride in zip(self.axes, self.strides, strict=True)],
            tensor.storage_offset()
            + sum(step * start for step, start in zip(steps, self.starts, strict=True)),
        )
