"""What maps of the neurons of a space do to a tensor along one of its axes."""

from __future__ import annotations

import math
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
    if matrices:
        return _multiplied(tensor, place[0], *_runs(spaces, axes, place, space), maps)
    index, seen = neurons_along(spaces, axes, place, space)
    return tensor * torch.where(seen, maps.reshape(-1)[index], 1.0).to(tensor.device)


def neurons_along(
    spaces: Spaces, axes: Sequence[Axis], place: tuple[int, int], space: str
) -> tuple[Tensor, Tensor]:
    """Return which neuron of all copies of a space each entry counts, and whether it counts one.

    Both are broadcastable over all axes of the tensor; arguments are those of :func:`act_along`.
    """
    position, copy = _counted(spaces, axes, place, space)
    shape = [-1 if other == place[0] else 1 for other in range(len(axes))]
    index = copy * spaces[space].size + position.clamp(min=0).reshape(shape)
    return index, (position >= 0).reshape(shape)


def columns_along(
    spaces: Spaces, axes: Sequence[Axis], tensor: Tensor, place: tuple[int, int], space: str
) -> list[Tensor]:
    """Return for each copy of a space what a tensor has along its neurons, ``[n, entries]``.

    Arguments are those of :func:`act_along`; the copies must be told by the same axis.
    """
    runs, copy = _runs(spaces, axes, place, space)
    taken = tensor.movedim(place[0], -1)[..., runs]  # [..., runs, n]
    count = math.prod(spaces[outer].size for outer in spaces[space].within)
    return [
        taken[..., copy == number, :].reshape(-1, runs.shape[-1]).T for number in range(count)
    ]


def _counted(
    spaces: Spaces, axes: Sequence[Axis], place: tuple[int, int], space: str
) -> tuple[Tensor, Tensor]:
    """Return the neuron that each index of an axis counts, or -1, and of which copy it is."""
    axis, number = place
    position = [at for found, at, _ in coordinates(axes[axis]) if found == space][number]
    counted = [places(other) for other in axes]
    return position, copy_of(spaces, axis, space, counted, position >= 0, len(axes))[0]


def _runs(
    spaces: Spaces, axes: Sequence[Axis], place: tuple[int, int], space: str
) -> tuple[Tensor, Tensor]:
    """Return the runs of indices of an axis that count one copy of a space, and which.

    Indices that differ in the neuron alone are a run: what else they count has its own order.
    """
    position, copy = _counted(spaces, axes, place, space)
    index = torch.arange(len(position))
    order = torch.stack([index, position]).T[position >= 0]
    found = order[order[:, 1].argsort(stable=True), 0]
    runs = found.reshape(spaces[space].size, -1).T
    return runs, copy.reshape(-1).expand(len(position))[runs[:, 0]]


def is_whole(spaces: Spaces, axes: Sequence[Axis], axis: int, space: str) -> bool:
    """Whether an axis says by itself of which copy of the space it counts neurons, and once."""
    counted = [places(other) for other in axes]
    found = [position for name, position, _ in coordinates(axes[axis]) if name == space]
    return space in counted[axis] and not any(
        copy_of(spaces, axis, space, counted, position >= 0, len(axes))[1] for position in found
    )


def _multiplied(tensor: Tensor, axis: int, runs: Tensor, copy: Tensor, maps: Tensor) -> Tensor:
    """Multiply, by a matrix each, the runs of indices of an axis that count one copy of a space."""
    n = maps.shape[-1]
    matrices = maps.reshape(-1, n, n)[copy].to(tensor.device)
    last = tensor.movedim(axis, -1)
    taken = last[..., runs.to(tensor.device)]
    moved = torch.einsum("rij,...rj->...ri", matrices, taken)
    result = last.clone()
    result[..., runs.to(tensor.device)] = moved
    return result.movedim(-1, axis)
