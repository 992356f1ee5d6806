r"""What each pair of neurons gains: from the terms of two networks to assignment problems.

With all other neurons held, :math:`\langle A, g B \rangle` is a sum over the pairs that g makes:
:math:`\sum_i G[i, p(i)]`, where :math:`G[i, j]` is the inner product of everything that neuron i
of A and neuron j of B carry. For a group whose neurons are products, G is cut down to the pairs
that a relabelling of one space can make, all else staying as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from nngraph.alignment.factors import split_factors
from nngraph.alignment.terms import PairTerm
from nngraph.graph import Architecture, Factor


@dataclass(frozen=True)
class Gains:
    """Gains of the neurons of each group, when some spaces move.

    Of a group G ``[n, n]``, rows neurons of A and columns neurons of B; ``exact`` says whether all
    gains add up to the change of the inner product: not where a term moves at both of its ends.
    """

    groups: dict[int, Tensor]
    exact: bool


def children(architecture: Architecture, space: str) -> list[str]:
    """Return the spaces that are relabelled and lie directly within a space."""
    spaces = architecture.all_spaces
    inner = [name for name in architecture.spaces if space in spaces[name].within]
    return [
        name for name in inner
        if not any(other in inner and other in spaces[name].within for other in inner)
    ]  # fmt: skip


def _moves(factors: Iterable[Factor], spaces: Collection[str]) -> bool:
    return any(factor.space in spaces for factor in factors)


def touched(
    architecture: Architecture, terms: Sequence[PairTerm], spaces: Collection[str]
) -> list[int]:
    """Return the places of the terms that change when the spaces move."""
    return [
        place for place, term in enumerate(terms)
        if any(_moves(architecture.groups[group].factors, spaces) for group in term.ends())
    ]  # fmt: skip


def group_gains(
    architecture: Architecture,
    terms: Sequence[PairTerm],
    spaces: Collection[str],
    known: Collection[str] | None = None,
) -> Gains:
    """Return the gains of the groups of some spaces.

    Args:
        spaces: the ones that move.
        known: if given, terms that have neurons of further spaces are left out, and those that
            move at both ends: what they gain depends on neurons that nothing is known of.
    """
    gains: dict[int, Tensor] = {}
    exact = True
    told = architecture.spaces if known is None else {*known, *spaces}

    def add(group: int, letters: str, term: PairTerm) -> None:
        size = architecture.groups[group].size
        gain = torch.einsum(letters, term.a, term.b).reshape(size, size)
        gains[group] = gains[group] + gain if group in gains else gain

    for place in touched(architecture, terms, spaces):
        term = terms[place]
        ends = [architecture.groups[group].factors for group in term.ends()]
        splits = [split_factors(factors, term.parts) for factors in ends]
        moving = [_moves(rest, spaces) for _, rest in splits]
        at_both = len(moving) == 2 and all(moving)
        untold = any(f.space in architecture.spaces and f.space not in told
                     for factors in ends for f in factors)  # fmt: skip
        if untold or (known is not None and at_both):
            continue
        # The parts are at both ends: they count at the end whose own neurons move, or at the first.
        if moving[0] or not any(moving):
            add(term.target, "prcf,qscf->prqs", term)
        if term.source is not None and moving[1]:
            add(term.source, "prcf,qrdf->pcqd", term)
        exact = exact and not at_both
    for group in gains:
        own = [factor.space for factor in architecture.groups[group].factors]
        repeated = any(own.count(space) > 1 for space in spaces)
        exact = exact and not repeated
    return Gains(gains, exact)


def _factored(architecture: Architecture, group: int, gain: Tensor) -> tuple[Tensor, list[str]]:
    """View G by factors, new ones and then old ones; and name the factors by their spaces."""
    factors = architecture.groups[group].factors
    sizes = [factor.size for factor in factors]
    return gain.view(*sizes, *sizes), [factor.space or "" for factor in factors]


def space_gains(architecture: Architecture, gains: Gains, space: str) -> Tensor:
    """Return the gains of pairs of a space, all other spaces staying: ``[copies, d, d]``.

    Rows are new places, columns the neurons that are there now; one matrix for each new place of
    the spaces that it lies within.
    """
    size, copies = architecture.spaces[space], architecture.copies(space)
    parts = []
    for group, gain in gains.groups.items():
        view, names = _factored(architecture, group, gain)
        count, outer = len(names), architecture.all_spaces[space].within
        for place in [i for i, name in enumerate(names) if name == space]:
            # New and old are the same for all factors but this one: a diagonal.
            old = [i if i != place else count for i in range(count)]
            kept = [*map(names.index, outer), place, count]
            part = torch.einsum(view, [*range(count), *old], kept)
            parts.append(part.reshape(copies, size, size))
    return reduce(torch.add, parts) if parts else torch.zeros(copies, size, size)


def pair_gains(architecture: Architecture, gains: Gains, outer: str, child: str) -> Tensor | None:
    """Return the gains of pairs of a child for each pair of a space that it lies within.

    ``[d_outer, d_outer, copies / d_outer, d, d]``: new and old place of the outer space, places of
    further spaces, new and old place of the child. ``None`` if no group has both.
    """
    within = architecture.all_spaces[child].within
    size, whole = architecture.spaces[child], architecture.spaces[outer]
    parts = []
    for group, gain in gains.groups.items():
        view, names = _factored(architecture, group, gain)
        if child not in names or outer not in names:
            continue
        inner, around, count = names.index(child), names.index(outer), len(names)
        old = [{inner: count, around: count + 1}.get(i, i) for i in range(count)]
        others = [names.index(name) for name in within if name != outer]
        kept = [around, count + 1, *others, inner, count]
        part = torch.einsum(view, [*range(count), *old], kept)
        parts.append(part.reshape(whole, whole, -1, size, size))
    return reduce(torch.add, parts) if parts else None


def lone_gains(architecture: Architecture, gains: Gains, inner: Sequence[str]) -> Gains:
    """Return the gains of the groups that have none of the spaces within another."""
    groups = architecture.groups
    alone = {g: gain for g, gain in gains.groups.items() if not _moves(groups[g].factors, inner)}
    return replace(gains, groups=alone)
