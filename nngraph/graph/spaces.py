r"""Neuron spaces: sets of neurons that are relabelled together, plain or within one another.

A plain space of d neurons has the group :math:`S_d`. A space *within* others has a permutation of
its own for each neuron of these: the dimensions inside of attention heads are relabelled
independently in every head, and the heads among themselves, so that the neurons of all heads, a
group with the factors (heads, dimensions), have the wreath product :math:`S_d \wr S_H`. A *fixed*
space is not relabelled; it is there for others to lie within, as the groups of a convolution are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError


@dataclass(frozen=True)
class Space:
    """A set of neurons that may be relabelled.

    Args:
        name: unique within an architecture.
        size: number of neurons.
        within: spaces, outermost first, on each of whose neurons it is relabelled independently.
        fixed: whether it is not relabelled.
    """

    name: str
    size: int
    within: tuple[str, ...] = ()
    fixed: bool = False


@dataclass(frozen=True)
class Factor:
    """One factor of a group's neurons, which are the product of all, the first outermost.

    It takes ``size`` values, which count a space, or are fixed where that is ``None``.
    """

    size: int
    space: str | None = None


def leading_factors(factors: Sequence[Factor], count: int) -> list[Factor] | None:
    """Return the outermost factors that count to ``count``; ``None`` if none do.

    A fixed factor may be cut, and fixed neighbours are one factor.
    """
    found: list[Factor] = []
    for factor in factors:
        if count == 1:
            break
        size = factor.size
        if count % size and factor.space is None and size % count == 0:
            size = count
        if count % size:
            return None
        count //= size
        if size > 1 and factor.space is None and found and found[-1].space is None:
            found[-1] = Factor(found[-1].size * size)
        elif size > 1:
            found.append(Factor(size, factor.space))
    return found if count == 1 else None


def copies(spaces: Mapping[str, Space], name: str) -> int:
    """Number of permutations that a relabelling has of a space: one per neuron of the outer."""
    return math.prod(spaces[outer].size for outer in spaces[name].within)


def outer_permutation(
    spaces: Mapping[str, Space], name: str, indices: Mapping[str, Tensor]
) -> Tensor:
    """Return what a relabelling does to the copies of a space: ``[*, copies]``."""
    return group_permutation(
        spaces, [Factor(spaces[outer].size, outer) for outer in spaces[name].within], indices
    )


def group_permutation(
    spaces: Mapping[str, Space], factors: Sequence[Factor], indices: Mapping[str, Tensor]
) -> Tensor:
    r"""Return the old neuron at each new place of a product of factors: ``[*, n]``.

    Args:
        factors: of the neurons, outermost first.
        indices: for each space that is relabelled its permutations: ``[*, d]``, or
            ``[*, copies, d]`` where it lies within others. The leading shape is one for all.
    """
    sizes = [factor.size for factor in factors]
    device = next(iter(indices.values())).device if indices else torch.device("cpu")
    # The new place, taken apart into factors.
    places = list(torch.unravel_index(torch.arange(math.prod(sizes), device=device), sizes))
    total: Tensor = torch.zeros(1, dtype=torch.long, device=device)
    for factor, place in zip(factors, places, strict=True):
        old = place
        space = None if factor.space is None else spaces[factor.space]
        if space is not None and not space.fixed:
            if space.within:
                own = [f.space for f in factors]
                copy = torch.zeros_like(place)
                for outer in space.within:
                    copy = copy * spaces[outer].size + places[own.index(outer)]
                old = indices[space.name][..., copy, place]
            else:
                old = indices[space.name][..., place]
        total = total * factor.size + old
    return total


def check_spaces(spaces: Mapping[str, Space]) -> None:
    """Raise an ArchitectureError unless spaces lie within known ones, and none within itself."""
    for space in spaces.values():
        seen, todo = set(), list(space.within)
        while todo:
            outer = todo.pop()
            if outer not in spaces:
                raise ArchitectureError(
                    f"neuron space {space.name!r} lies within {outer!r}, which no group has."
                )
            if outer == space.name:
                raise ArchitectureError(f"neuron space {space.name!r} lies within itself.")
            if outer not in seen:
                seen.add(outer)
                todo.extend(spaces[outer].within)
