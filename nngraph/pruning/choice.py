"""How many neurons stay of each space, and which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.pruning.scores import Scores

#: space -> indices of the neurons that stay, ascending
Kept = dict[str, tuple[int, ...]]
#: Of each space at least this share stays under a budget: the global order may be unfair to some.
LEAST = 0.05
#: A budget is met when at most so much of it is left unused.
SLACK = 0.01


def matching(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that a pattern fits, such as ``layer4.*``.

    Raises:
        ArchitectureError: if a pattern fits none.
    """
    found: set[str] = set()
    for pattern in patterns:
        fits = {name for name in names if fnmatchcase(name, pattern)}
        if not fits:
            raise ArchitectureError(
                f"{pattern!r} fits no space; expected one of: {', '.join(names) or 'none'}."
            )
        found |= fits
    return found


def keep_shares(
    groups: Sequence[tuple[str, ...]], scores: Scores, shares: Mapping[str, float]
) -> Kept:
    """Return the best neurons of each space, a share of them, at least one.

    Args:
        groups: spaces that keep equally many; the largest share of a group counts.
        scores: of every neuron.
        shares: of the spaces that lose neurons.
    """
    kept: Kept = {}
    for group in groups:
        share = max((shares.get(name, 1.0) for name in group), default=1.0)
        for name in group:
            kept |= _best(name, scores[name], round(share * len(scores[name])))
    return kept


def keep_within(
    groups: Sequence[tuple[str, ...]], scores: Scores, cost: Callable[[Kept], float], budget: float
) -> Kept:
    """Return the best neurons of all spaces whose cost is within a budget.

    The neurons of all spaces are ordered together by their scores, relative to the mean of their
    space, and the least cost that ever holds is with a twentieth of each.

    Raises:
        ArchitectureError: if the budget cannot be met.
    """
    relative = {
        name: scores[name] / scores[name].mean().clamp(min=1e-30)
        for group in groups for name in group
    }
    if not relative:
        raise ArchitectureError("no space may lose neurons, so that no budget can be met.")
    order = torch.cat(list(relative.values())).sort().values
    if cost({}) <= budget:
        return {}
    low, high = 0, len(order)  # so many of the neurons fall: too few, enough
    best = _above(groups, relative, torch.inf)
    least = cost(best)
    if least > budget:
        raise ArchitectureError(
            f"the budget is {budget:.4g}, and with {LEAST:.0%} of the neurons of each space the "
            f"network still has {least:.4g}; expected a larger budget, or fewer spaces left out."
        )
    while high - low > 1:
        middle = (low + high) // 2
        kept = _above(groups, relative, float(order[middle]))
        found = cost(kept)
        if found <= budget:
            best, high = kept, middle
            if found >= (1 - SLACK) * budget:
                break
        else:
            low = middle
    return best


def _above(
    groups: Sequence[tuple[str, ...]], relative: Mapping[str, Tensor], threshold: float
) -> Kept:
    kept: Kept = {}
    for group in groups:
        count = max(int((relative[name] >= threshold).sum()) for name in group)
        for name in group:
            size = len(relative[name])
            kept |= _best(name, relative[name], max(count, round(LEAST * size)))
    return kept


def _best(name: str, score: Tensor, count: int) -> Kept:
    count = max(count, 1)
    if count >= len(score):
        return {}
    # Stable: of equal scores the first stay.
    order = score.argsort(descending=True, stable=True)[:count]
    return {name: tuple(sorted(order.tolist()))}
