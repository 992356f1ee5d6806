"""The ties of a spec: the places at which tensors count the neurons of a space, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.symmetry.axes import axis_size, factors_of, held, only_tie
from converters.symmetry.relabelling import coordinates, permuted
from converters.symmetry.spec import PermutationSpec
from nngraph.graph import Indices


@dataclass(frozen=True)
class Tie:
    """One place at which a parameter counts the neurons of a space.

    An axis that holds a space several times, as the projection of queries, keys and values does,
    has as many ties; ``number`` is which of its factors of this space.
    """

    name: str
    axis: int
    number: int = 0

    def __str__(self) -> str:
        return f"{self.name}[{self.axis}]" + (f" (part {self.number})" if self.number else "")


class Claims:
    """The relabellings that a spec says leave its network's function as it is."""

    def __init__(self, spec: PermutationSpec) -> None:
        self.spec, self.group = spec, spec.permutations

    def relabel(self, state: Mapping[str, Tensor], indices: Indices) -> Mapping[str, Tensor]:
        """Return the relabelled tensors."""
        return self.spec.permute(state, indices)

    def ties(self, space: str) -> tuple[Tie, ...]:
        """Return every tie of a space."""
        return tuple(
            Tie(name, axis, number)
            for name, axis in self.spec.ties(space)
            for number in range(
                sum(f.space == space for f in factors_of(self.spec.parameters[name][axis]))
            )
        )

    def broken(self, state: Mapping[str, Tensor], space: str, tie: Tie, indices: Indices) -> Tensor:
        """Return the parameter of a tie, relabelled there alone, which is no symmetry in general.
        """
        full = self.spec.parameters[tie.name]
        axes = [
            only_tie(axis, space, tie.number) if place == tie.axis else held(axis)
            for place, axis in enumerate(full)
        ]
        indices = self.spec.identity() | {space: indices[space]}
        return permuted(self.spec.by_name, axes, state[tie.name], indices, full)

    def touched(self, space: str, tie: Tie) -> Tensor:
        """Return which entries of its parameter a tie relabels, broadcastable over the others."""
        axes = self.spec.parameters[tie.name]
        axis = only_tie(axes[tie.axis], space, tie.number)
        found = torch.stack([p >= 0 for s, p, _ in coordinates(axis) if s == space]).any(0)
        return found.reshape([-1 if place == tie.axis else 1 for place in range(len(axes))])


def under_all_names(spec: PermutationSpec, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name, those that are shared under all of their names."""
    others = {
        other: value for name, value in values.items() for other in spec.aliases.get(name, ())
    }
    return {**values, **others}


def moved(indices: Indices, space: str) -> Indices:
    """Return a relabelling, with a cyclic shift of a space of which it moves nothing by chance."""
    index = indices[space]
    still = torch.equal(index, torch.arange(index.shape[-1]).expand(index.shape))
    return indices | {space: index.roll(1, -1)} if still else indices


def count_free(spec: PermutationSpec) -> tuple[int, int]:
    """Return how many axes of parameters are free in part, and how many there are (size > 1)."""
    axes = [
        axis for name, all_axes in spec.parameters.items() if name not in spec.buffers
        for axis in all_axes if axis_size(axis) > 1
    ]
    return sum(spec.is_free(axis) for axis in axes), len(axes)
