"""What maps of the neurons of a space do to a tensor along one of its axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from converters.symmetry.axes import Axis
from converters.symmetry.relabelling import Spaces, coordinates, copy_of, places


def act_along(
    spaces: Spaces, axes: Sequence[Axis], tensor: Tensor, place: tuple[int, int], space: str,
    maps: Tensor, matrices: bool,
) -> Tensor:
    """Return a tensor multiplied along an axis by the maps of a space.

    Args:
        spaces: all of the network.
        axes: what those of the tensor count.
        tensor: real numbers.
        place: along which axis, and at which occurrence of the space there.
        space: whose neurons.
        maps: ``[n]``, or ``[n, n]`` if they are matrices, with ``copies`` before for a space within
            others; matrices must have these on the same axis (:func:`is_whole`).
        matrices: whether they are.
    """
    axis, number = place
    position = [at for found, at, _ in coordinates(axes[axis]) if found == space][number]
    seen, counted = position >= 0, [places(other) for other in axes]
    copy, _ = copy_of(spaces, axis, space, counted, seen, len(axes))
    if matrices:
        return _multiplied(tensor, axis, position, copy.reshape(-1), maps)
    shape = [-1 if other == axis else 1 for other in range(len(axes))]
    own = maps.reshape(-1, maps.shape[-1])[copy, position.clamp(min=0).reshape(shape)]
    return tensor * torch.where(seen.reshape(shape), own, 1.0).to(tensor.device)


def is_whole(spaces: Spaces, axes: Sequence[Axis], axis: int, space: str) -> bool:
    """Whether an axis says by itself of which copy of the space it counts neurons, and once."""
    counted = [places(other) for other in axes]
    found = [position for name, position, _ in coordinates(axes[axis]) if name == space]
    return space in counted[axis] and not any(
        copy_of(spaces, axis, space, counted, position >= 0, len(axes))[1] for position in found
    )


def _multiplied(tensor: Tensor, axis: int, position: Tensor, copy: Tensor, maps: Tensor) -> Tensor:
    """Multiply, by a matrix each, the runs of indices of an axis that count one copy of a space."""
    n = maps.shape[-1]
    index = torch.arange(len(position))
    # Indices that differ in the neuron alone are a run: what else they count has its own order.
    order = torch.stack([index, position]).T[position >= 0]
    runs = order[order[:, 1].argsort(stable=True), 0].reshape(n, -1).T
    matrices = maps.reshape(-1, n, n)[copy.expand(len(position))[runs[:, 0]]].to(tensor.device)
    last = tensor.movedim(axis, -1)
    taken = last[..., runs.to(tensor.device)]
    moved = torch.einsum("rij,...rj->...ri", matrices, taken)
    result = last.clone()
    result[..., runs.to(tensor.device)] = moved
    return result.movedim(-1, axis)
