r"""What each pair of neurons gains: from the terms of two networks to assignment problems.

With all other neurons held, :math:`\langle A, g B \rangle` is a sum over the pairs that g makes:
:math:`\sum_i G[i, p(i)]`, where :math:`G[i, j]` is the inner product of everything that neuron i
of A and neuron j of B, as it is placed, carry.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from nngraph.alignment.terms import PairTerm, Placement
from nngraph.graph import Permutations

#: B as its tensors have it.
_AS_IS = Placement({})


def children(group: Permutations, space: str) -> list[str]:
    """Return the spaces that are relabelled and lie directly within a space."""
    spaces = group.spaces
    inner = [name for name in group.shapes if space in spaces[name].within]
    return [
        name for name in inner
        if not any(other in inner and other in spaces[name].within for other in inner)
    ]  # fmt: skip


def _told(
    group: Permutations, term: PairTerm, moving: Collection[str], known: Collection[str] | None
) -> bool:
    """Whether what a term says depends on known spaces alone, and on one that moves."""
    if known is None:
        return True
    told = {*known, *moving}
    free = [f.space for f in term.factors if f.space in group.shapes]
    ends = [space for space in free if space in moving]
    inner = [space for space in ends if any(o in moving for o in group.spaces[space or ""].within)]
    return told.issuperset(free) and len(inner) < 2 and len(set(ends)) == len(ends)


def space_gains(
    group: Permutations, terms: Sequence[PairTerm], space: str, placed: Placement = _AS_IS,
    known: Collection[str] | None = None,
) -> tuple[Tensor, bool]:  # fmt: skip
    """Return the gains of pairs of a space, all others staying: ``[copies, d, d]``.

    Rows are new places, columns the neurons that are there now; one matrix for each new place of
    the spaces that it lies within. They add up to the change of the inner product, which is told
    too, save where a term counts the space twice.

    Args:
        known: if given, terms that count further spaces are left out, and those that count the
            space twice: what they gain depends on neurons that nothing is known of.
    """
    *outer, size = group.shapes[space]
    shape = (*(outer or (1,)), size, size)
    total: Tensor | None = None
    exact = True
    for term in terms:
        places = term.counts(space)
        if places and _told(group, term, (space,), known):
            exact = exact and len(places) == 1
            for d in places:
                part = term.products(placed, (d,), term.within[d]).reshape(shape)
                total = part if total is None else total.to(part).add_(part)
    return torch.zeros(shape, dtype=torch.float64) if total is None else total, exact


def family_gains(
    group: Permutations, terms: Sequence[PairTerm], space: str, inner: Sequence[str],
    placed: Placement, known: Collection[str] | None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Return the gains of pairs of a space by itself, and those of the spaces within it by pairs.

    The first ``[d, d]``, of terms that count none of the spaces within. For each of these
    ``[d, d, others, e, e]``: new and old neuron of the outer space, copies by further spaces, new
    and old neuron of the inner one. A term that counts two of them counts for the first.
    """
    size, moving = group.shapes[space][-1], (space, *inner)
    alone: Tensor | None = None
    pairs: dict[str, Tensor] = {}
    for term in terms:
        if not term.counts(space) or not _told(group, term, moving, known):
            continue
        child = next((d for d, f in enumerate(term.factors) if f.space in inner), None)
        if child is None:
            for d in term.counts(space):
                part = term.products(placed, (d,), ())
                alone = part if alone is None else alone.to(part).add_(part)
            continue
        name = str(term.factors[child].space)
        around = next(d for d in term.within[child] if term.factors[d].space == space)
        others = [d for d in term.within[child] if d != around]
        part = term.products(placed, (around, child), others)
        # [others, outer, child, old outer, old child]
        part = part.reshape(-1, *part.shape[len(others) :]).permute(1, 3, 0, 2, 4)
        pairs[name] = pairs[name].to(part) + part if name in pairs else part
    return torch.zeros(size, size, dtype=torch.float64) if alone is None else alone, pairs


def likeness(terms: Sequence[PairTerm], space: str, placed: Placement) -> float:
    """Return the mean cosine of what the neurons of a space carry in A, and in B as placed.

    It is 1 where all are equal; neurons that carry nothing in either count as like.
    """
    sums: Tensor | None = None
    for term in terms:
        for d in term.counts(space):
            kept, every = [*term.within[d], d], [*range(len(term.factors))]
            for a, b in term.chunks(placed, kept):
                pairs = ((a, b), (a, a), (b, b))
                part = [torch.einsum(x, every, y, every, kept).reshape(-1) for x, y in pairs]
                found = torch.stack(part).double()
                sums = found if sums is None else sums + found
    if sums is None:
        return 1.0
    both, first, second = sums
    scale = (first * second).sqrt()
    alike = ((first == 0) & (second == 0)).double()
    return float(torch.where(scale > 0, both / torch.where(scale > 0, scale, 1.0), alike).mean())
