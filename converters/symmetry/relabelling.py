"""What a relabelling does to the tensors of a network, given its permutation spec."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.symmetry.spec import (
    Axis,
    Factor,
    PermutationSpec,
    Relabelling,
    Space,
    axis_size,
    factors_of,
    segment_size,
)
from nngraph.errors import ArchitectureError

__all__ = [
    "Tie",
    "change_factors",
    "count_free",
    "identity",
    "only_tie",
    "permute",
    "permute_tie",
    "sample",
    "tied_entries",
    "ties_of",
    "under_all_names",
]


def _outer_sizes(spec: PermutationSpec, space: Space) -> tuple[int, ...]:
    return tuple(spec.by_name[outer].size for outer in space.within)


def identity(spec: PermutationSpec) -> Relabelling:
    """Return the relabelling that moves nothing."""
    return {
        space.name: torch.arange(space.size).expand(*_outer_sizes(spec, space), space.size)
        for space in spec.free_spaces
    }


def sample(
    spec: PermutationSpec,
    generator: torch.Generator | int | None = None,
    spaces: Sequence[str] | None = None,
) -> Relabelling:
    """Return a relabelling drawn uniformly; of some spaces only, if they are named."""
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    result = identity(spec)
    for name in result if spaces is None else spaces:
        space = spec.by_name.get(name)
        if space is None or space.fixed:
            raise ArchitectureError(
                f"{name!r} is no neuron space that may be relabelled; expected one of "
                f"{[s.name for s in spec.free_spaces]}."
            )
        shape = (*_outer_sizes(spec, space), space.size)
        result[name] = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(dim=-1)
    return result


def permute(
    spec: PermutationSpec, state: Mapping[str, Tensor], relabelling: Relabelling
) -> dict[str, Tensor]:
    """Return the tensors of a network with their neurons relabelled."""
    indices = _checked(spec, relabelling)
    first_names = {other: name for name, others in spec.aliases.items() for other in others}
    done: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        own = first_names.get(name, name)
        if own not in spec.parameters:
            raise ArchitectureError(
                f"tensor {name!r} is not one of this spec's; expected {sorted(spec.parameters)}."
            )
        if own not in done:
            if tuple(tensor.shape) != spec.shape(own):
                raise ArchitectureError(
                    f"tensor {name!r} has shape {tuple(tensor.shape)}; this spec has "
                    f"{spec.shape(own)} for it."
                )
            done[own] = _permuted(spec, spec.parameters[own], tensor, indices)
        result[name] = done[own]
    return result


@dataclass(frozen=True)
class Tie:
    """One place at which a parameter counts the neurons of a space.

    Args:
        name: the parameter.
        axis: its axis.
        number: which of the axis's factors of this space, in order; an axis that holds a space
            several times, as the projection of queries, keys and values does, has as many ties.
    """

    name: str
    axis: int
    number: int = 0

    def __str__(self) -> str:
        return f"{self.name}[{self.axis}]" + (f" (part {self.number})" if self.number else "")


def ties_of(spec: PermutationSpec, space: str) -> tuple[Tie, ...]:
    """Return every tie of a space."""
    return tuple(
        Tie(name, axis, number)
        for name, axis in spec.ties(space)
        for number in range(
            sum(f.space == space for f in factors_of(spec.parameters[name][axis]))
        )
    )


def permute_tie(
    spec: PermutationSpec,
    state: Mapping[str, Tensor],
    relabelling: Relabelling,
    space: str,
    tie: Tie,
) -> dict[str, Tensor]:
    """Relabel a space at one tie alone, which is no symmetry in general; return what has changed.

    Args:
        spec: of the network.
        state: its tensors.
        relabelling: of this space; others stay.
        space: whose tie it is.
        tie: the place.
    """
    axes = [
        only_tie(axis, space, tie.number) if place == tie.axis else _held(axis)
        for place, axis in enumerate(spec.parameters[tie.name])
    ]
    indices = identity(spec) | {space: relabelling[space]}
    changed = _permuted(spec, axes, state[tie.name], indices, spec.parameters[tie.name])
    return under_all_names(spec, tie.name, changed)


def tied_entries(spec: PermutationSpec, space: str, tie: Tie) -> Tensor:
    """Return which entries of its parameter a tie relabels, broadcastable over the others."""
    axes = spec.parameters[tie.name]
    axis = only_tie(axes[tie.axis], space, tie.number)
    touched = torch.stack([p >= 0 for s, p, _ in _coordinates(axis) if s == space]).any(0)
    return touched.reshape([-1 if place == tie.axis else 1 for place in range(len(axes))])


def only_tie(axis: Axis, space: str, number: int) -> Axis:
    """Return an axis in which one of the factors of a space is kept, and all else is fixed."""
    count = itertools.count()

    def held(factor: Factor) -> Factor:
        here = factor.space == space and next(count) == number
        return factor if here else Factor(factor.size)

    return change_factors(axis, held)


def change_factors(axis: Axis, change: Callable[[Factor], Factor]) -> Axis:
    """Return an axis with other factors, wherever they stand; their sizes stay."""

    def changed(factor: Factor) -> Factor:
        if factor.parts:
            return Factor(factor.size, parts=change_factors(factor.parts, change))
        return change(factor)

    return tuple(tuple(map(changed, segment)) for segment in axis)


def under_all_names(spec: PermutationSpec, name: str, value: Tensor) -> dict[str, Tensor]:
    """Return a tensor under its name and its aliases."""
    return dict.fromkeys((name, *spec.aliases.get(name, ())), value)


def _held(axis: Axis) -> Axis:
    """Return an axis of the same size of which nothing is relabelled."""
    return ((Factor(axis_size(axis)),),)


def _checked(spec: PermutationSpec, relabelling: Relabelling) -> Relabelling:
    expected = identity(spec)
    if set(relabelling) != set(expected):
        raise ArchitectureError(
            f"the relabelling names {sorted(relabelling)}; this spec's free spaces are "
            f"{sorted(expected)}."
        )
    for name, index in relabelling.items():
        if tuple(index.shape) != tuple(expected[name].shape) or not torch.equal(
            index.sort(-1)[0].cpu(), expected[name]
        ):
            raise ArchitectureError(
                f"the index of space {name!r} is of shape {tuple(index.shape)} and no permutation "
                f"in each row; expected shape {tuple(expected[name].shape)}."
            )
    return relabelling


def _permuted(
    spec: PermutationSpec,
    axes: Sequence[Axis],
    tensor: Tensor,
    indices: Relabelling,
    full: Sequence[Axis] | None = None,
) -> Tensor:
    if tensor.numel() == 0 or not any(spec.is_free(axis) for axis in axes):
        return tensor
    places = [_places(spec, axis) for axis in full or axes]
    rank = len(axes)
    gathered = []
    crossing = False
    for number, axis in enumerate(axes):
        index, crosses = _axis_index(spec, number, axis, places, indices, rank)
        gathered.append(index)
        crossing = crossing or crosses
    if crossing:
        return tensor[tuple(index.to(tensor.device) for index in gathered)]
    for number, axis in enumerate(axes):
        if spec.is_free(axis):
            tensor = tensor.index_select(number, gathered[number].reshape(-1).to(tensor.device))
    return tensor


def _places(spec: PermutationSpec, axis: Axis) -> dict[str, Tensor]:
    """Return for each space the neuron that each index of an axis counts; -1 where it counts none.

    Spaces that an index counts twice are left out: nothing can lie within them there.
    """
    counts: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for space, position, _ in _coordinates(axis):
        if space is None:
            continue
        seen = position >= 0
        if space in found:
            counts[space] += seen
            found[space] = torch.where(seen, position, found[space])
        else:
            counts[space], found[space] = seen.long(), position
    return {space: found[space] for space in found if int(counts[space].max()) <= 1}


def _coordinates(axis: Axis) -> list[tuple[str | None, Tensor, int]]:
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
                _coordinates(factor.parts) if factor.parts
                else [(factor.space, torch.arange(factor.size), 1)]
            )
            for space, position, step in inner:
                full = torch.full((total,), -1)
                full[start : start + size] = position[coordinate]
                result.append((space, full, step * stride))
        start += size
    return result


def _axis_index(
    spec: PermutationSpec,
    number: int,
    axis: Axis,
    places: Sequence[dict[str, Tensor]],
    indices: Relabelling,
    rank: int,
) -> tuple[Tensor, bool]:
    """Return the old index for each new one of an axis, broadcastable over all axes of the tensor.

    Old neurons stand where their coordinates were replaced, factor by factor: each coordinate moves
    the index by its difference times the factor's stride.
    """

    def spread(values: Tensor, place: int) -> Tensor:
        return values.reshape([-1 if i == place else 1 for i in range(rank)])

    length = axis_size(axis)
    result = spread(torch.arange(length), number)
    crosses = False
    for space, position, stride in _coordinates(axis):
        if space is None or spec.by_name[space].fixed:
            continue
        seen = position >= 0
        new = position.clamp(min=0)
        outer: list[Tensor] = []
        for name in spec.by_name[space].within:
            place = number if name in places[number] and bool(
                (places[number][name][seen] >= 0).all()
            ) else next(i for i in range(rank) if i != number and name in places[i])
            crosses = crosses or place != number
            outer.append(spread(places[place][name].clamp(min=0), place))
        at = (*outer, spread(new, number))
        old = indices[space].cpu()[at]
        move = (old - spread(new, number)) * stride
        result = result + torch.where(spread(seen, number), move, 0)
    return result, crosses


def count_free(spec: PermutationSpec) -> tuple[int, int]:
    """Return how many axes of parameters are free in part, and how many there are (size > 1)."""
    axes = [
        axis for name, all_axes in spec.parameters.items() if name not in spec.buffers
        for axis in all_axes if axis_size(axis) > 1
    ]
    return sum(spec.is_free(axis) for axis in axes), len(axes)


