"""Single steps of matching: the best relabelling of one space, or of one and those within it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nngraph.alignment.factors import soft_inner_product
from nngraph.alignment.gains import children, family_gains, space_gains
from nngraph.alignment.terms import PairTerm, Placement
from nngraph.graph import Permutations

#: What a step moves: space -> index of the neurons, and space -> signs of them.
Step = tuple[dict[str, Tensor], dict[str, Tensor]]
#: Steps of the relaxation of a quadratic problem at the most, and the least that one must change:
#: a permutation is read off the end, so that nothing finer counts.
_MAX_STEPS, _LEAST_CHANGE = 30, 0.01


def assign(gains: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each matrix ``[*, d, d]`` the column that each row takes, and what they gain."""
    lead, size = gains.shape[:-2], gains.shape[-1]
    matrices = gains.detach().cpu().numpy().reshape(-1, size, size)
    indices = np.empty((len(matrices), size), dtype=np.int64)
    for number, matrix in enumerate(matrices):
        indices[number] = linear_sum_assignment(matrix, maximize=True)[1]
    index = torch.from_numpy(indices).view(*lead, size)
    values = gains.cpu().gather(-1, index.unsqueeze(-1)).squeeze(-1).sum(-1)
    return index, values


def propose(
    group: Permutations, terms: Sequence[PairTerm], space: str, placed: Placement,
    signed: Collection[str] = (), known: Collection[str] | None = None,
) -> tuple[Step, bool]:  # fmt: skip
    r"""Return the best relabelling of one space by assignment, and whether it is the best.

    It need not be where a term counts the space twice. In a space of ``signed`` a pair gains
    :math:`|G_{ij}|`, and its sign is that of :math:`G_{ij}`.
    """
    matrix, exact = space_gains(group, terms, space, placed, known)
    if space not in signed:
        return ({space: assign(matrix)[0].view(group.shapes[space])}, {}), exact
    index = assign(matrix.abs())[0]
    taken = matrix.cpu().gather(-1, index.unsqueeze(-1)).squeeze(-1)
    signs = torch.where(taken < 0, -1.0, 1.0)
    return ({space: index[0]}, {space: signs[0].to(torch.float64)}), exact


def propose_together(
    group: Permutations, terms: Sequence[PairTerm], space: str, placed: Placement,
    known: Collection[str] | None = None,
) -> Step:  # fmt: skip
    """Return the best relabelling of a space, such as heads, with the spaces within it.

    What the assignments within gain for a pair of its neurons is the gain of the pair.
    """
    inner = children(group, space)
    total, pairs = family_gains(group, terms, space, inner, placed, known)
    total = total.cpu().double()
    within: dict[str, Tensor] = {}
    for child, gains in pairs.items():
        within[child], values = assign(gains)
        total = total + values.sum(-1)
    (index,), _ = assign(total[None])
    indices = {space: index}
    for child, assigned in within.items():
        indices[child] = _copies_of(group, space, child, assigned, index)
    return indices, {}


def _copies_of(
    group: Permutations, space: str, child: str, assigned: Tensor, index: Tensor
) -> Tensor:
    """Return a child's index ``[copies, d]`` of assignments ``[d_outer, d_outer, others, d]``."""
    outers = group.spaces[child].within
    sizes = [group.spaces[name].size for name in outers]
    place = outers.index(space)
    chosen = assigned[torch.arange(len(index)), index]
    others = [size for i, size in enumerate(sizes) if i != place]
    chosen = chosen.reshape(len(index), *others, chosen.shape[-1]).movedim(0, place)
    return chosen.reshape(-1, chosen.shape[-1])


def propose_quadratic(
    group: Permutations, terms: Sequence[PairTerm], space: str, placed: Placement,
    undecided: bool = False,
) -> Step:  # fmt: skip
    r"""Return a good relabelling of a space that a term counts twice.

    :math:`\langle A, P B P^\top \rangle` is quadratic in P: Frank-Wolfe on doubly stochastic
    matrices, from things as they are or ``undecided`` from equal entries, with exact line search;
    the nearest permutation at the end (Vogelstein et al., "Fast Approximate Quadratic Programming
    for Graph Matching", 2015).
    """
    shape = group.shapes[space]
    size = shape[-1]
    twice = [
        replace(term, a=term.a.double(), b=term.moved(placed).double())
        for term in terms if len(term.counts(space)) > 1
    ]
    once = [term for term in terms if len(term.counts(space)) == 1]
    linear = space_gains(group, once, space, placed)[0].double()
    eye = torch.eye(size, dtype=torch.float64, device=twice[0].a.device)

    def value(matrix: Tensor) -> Tensor:
        product = soft_inner_product(twice, {space: matrix.view(*shape, size)})
        return product + (linear * matrix).sum()

    begin = torch.full_like(eye, 1 / size) if undecided else eye
    current = begin.expand_as(linear).clone()
    for _ in range(_MAX_STEPS):
        point = current.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(point), point)
        end = eye[assign(slope)[0]]
        with torch.no_grad():
            at = [float(value(current + t * (end - current))) for t in (0.0, 0.5, 1.0)]
        # The parabola through the three; exact, as the product is quadratic along a line.
        second, first = 2 * (at[0] - 2 * at[1] + at[2]), 4 * at[1] - 3 * at[0] - at[2]
        best = -first / (2 * second) if second < 0 else float(at[2] > at[0])
        best = min(max(best, 0.0), 1.0)
        change = best * (end - current)
        current = current + change
        if float(change.abs().max()) < _LEAST_CHANGE:
            break
    return {space: assign(current)[0].view(shape)}, {}
