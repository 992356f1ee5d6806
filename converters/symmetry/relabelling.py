"""What permutations of neuron spaces do to a tensor whose axes count neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from converters.symmetry.axes import Axis, axis_size, factors_of, segment_size
from nngraph.graph import Indices, Space

#: Every space of a network by its name.
Spaces = Mapping[str, Space]


def is_free(spaces: Spaces, axis: Axis) -> bool:
    """Whether some neurons of an axis may be relabelled."""
    return any(
        factor.space is not None and not spaces[factor.space].fixed for factor in factors_of(axis)
    )


def permuted(
    spaces: Spaces, axes: Sequence[Axis], tensor: Tensor, indices: Indices,
    full: Sequence[Axis] | None = None,
) -> Tensor:  # fmt: skip
    """Return a tensor relabelled along ``axes``; outer neurons are read off ``full``, if given."""
    if tensor.numel() == 0 or not any(is_free(spaces, axis) for axis in axes):
        return tensor
    counted = [places(axis) for axis in full or axes]
    found = [
        _axis_index(spaces, number, axis, counted, indices, len(axes))
        for number, axis in enumerate(axes)
    ]
    gathered = [index for index, _ in found]
    if any(crosses for _, crosses in found):
        return tensor[tuple(index.to(tensor.device) for index in gathered)]
    for number, axis in enumerate(axes):
        if is_free(spaces, axis):
            tensor = tensor.index_select(number, gathered[number].reshape(-1).to(tensor.device))
    return tensor


def places(axis: Axis) -> dict[str, Tensor]:
    """Return for each space the neuron that each index of an axis counts; -1 where it counts none.

    Spaces that an index counts twice are left out: nothing can lie within them there.
    """
    found: dict[str, list[Tensor]] = {}
    for space, position, _ in coordinates(axis):
        if space is not None:
            found.setdefault(space, []).append(position)
    every = {space: torch.stack(positions) for space, positions in found.items()}
    return {space: p.amax(0) for space, p in every.items() if int((p >= 0).sum(0).max()) <= 1}


def coordinates(axis: Axis) -> list[tuple[str | None, Tensor, int]]:
    """Return the factors of an axis: space, the coordinate at each index (or -1), and stride."""
    total = axis_size(axis)
    result: list[tuple[str | None, Tensor, int]] = []
    start = 0
    for segment in axis:
        size = segment_size(segment)
        stride = size
        within = torch.arange(size)
        for factor in segment:
            stride //= factor.size
            coordinate = (within // stride) % factor.size
            inner = (
                coordinates(factor.parts) if factor.parts
                else [(factor.space, torch.arange(factor.size), 1)]
            )
            for space, position, step in inner:
                full = torch.full((total,), -1)
                full[start : start + size] = position[coordinate]
                result.append((space, full, step * stride))
        start += size
    return result


def copy_of(
    spaces: Spaces, number: int, space: str, counted: Sequence[dict[str, Tensor]], seen: Tensor,
    rank: int,
) -> tuple[Tensor, bool]:
    """Return of which copy of a space an axis counts neurons, and whether another axis says it.

    The copies are broadcastable over all axes of the tensor; 0 for a space within no other.
    """
    copy, crosses = torch.zeros((), dtype=torch.long), False
    for name in spaces[space].within:
        here = name in counted[number] and bool((counted[number][name][seen] >= 0).all())
        place = number if here else next(
            i for i in range(rank) if i != number and name in counted[i]
        )
        crosses = crosses or not here
        outer = _spread(counted[place][name].clamp(min=0), place, rank)
        copy = copy * spaces[name].size + outer
    return copy, crosses


def _spread(values: Tensor, place: int, rank: int) -> Tensor:
    return values.reshape([-1 if i == place else 1 for i in range(rank)])


def _axis_index(
    spaces: Spaces, number: int, axis: Axis, counted: Sequence[dict[str, Tensor]],
    indices: Indices, rank: int,
) -> tuple[Tensor, bool]:  # fmt: skip
    """Return the old index for each new one of an axis, broadcastable over all axes of the tensor.

    Factor by factor, each coordinate moves the index by its difference times the factor's stride.
    """
    result = _spread(torch.arange(axis_size(axis)), number, rank)
    crosses = False
    for space, position, stride in coordinates(axis):
        if space is None or spaces[space].fixed:
            continue
        seen = position >= 0
        copy, crossing = copy_of(spaces, number, space, counted, seen, rank)
        crosses = crosses or crossing
        at = _spread(position.clamp(min=0), number, rank)
        old = indices[space].cpu().reshape(-1, spaces[space].size)[copy, at]
        result = result + torch.where(_spread(seen, number, rank), (old - at) * stride, 0)
    return result, crosses
