r"""Coordinate descent over neuron spaces, from several starts.

One space after another takes the relabelling of most gain, all others held, until none gains any
more (Ainsworth et al., "Git Re-Basin", ICLR 2023, for chains). A step is taken only if the inner
product grows, so that it never falls. Spaces within others are assigned with them, pair by pair of
the outer space; a space that a term counts twice is a quadratic problem, and is relaxed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nngraph.alignment.gains import children
from nngraph.alignment.steps import Step, propose, propose_quadratic, propose_together
from nngraph.alignment.terms import PairTerm, Placement, scale_of
from nngraph.graph import Indices, Permutations

#: A step counts as better if it gains more than this share of what is there: rounding is less.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Descent:
    """What a descent found: how the second network is to stand, and the product on the way."""

    placed: Placement
    history: tuple[float, ...]


def descend(
    group: Permutations, terms: Sequence[PairTerm], signed: Collection[str] = (), starts: int = 1,
    generator: torch.Generator | int = 0, given: Indices | None = None,
) -> Descent:  # fmt: skip
    """Place the second network of some terms so that their inner product is large.

    Args:
        signed: spaces whose neurons may change sign.
        starts: the best is kept: first from what inputs, outputs and the spaces matched before say
            of each space; then from things as they are, or as ``given``; then from relabellings
            drawn at random.
        generator: source of randomness, or a seed.

    Raises:
        ValueError: if there are no starts.
    """
    if starts < 1:
        raise ValueError(f"starts is {starts!r}; expected at least 1.")
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    least = _TOLERANCE * scale_of(terms)
    best = _informed(group, terms, signed, least)
    _climb(best, signed, None)
    for number in range(1, starts):
        as_is = group.identity() if given is None else given
        start = as_is if number == 1 else group.sample(generator)
        state = _State(group, terms, start, least)
        _climb(state, signed, generator)
        if state.history[-1] > best.history[-1] + least:
            best = state
    return Descent(best.placed, tuple(best.history))


class _State:
    """How the second network is placed so far, and what each term is worth."""

    def __init__(
        self, group: Permutations, terms: Sequence[PairTerm], start: dict[str, Tensor],
        least: float,
    ) -> None:  # fmt: skip
        self.group, self.terms, self.least = group, terms, least
        self.placed = Placement(start)
        self.values = [term.inner(self.placed) for term in terms]
        self.history = [sum(self.values)]

    def of(self, *spaces: str) -> list[PairTerm]:
        """Return the terms that count one of some spaces."""
        return [term for term in self.terms if term.touches(spaces)]

    def take(self, step: Step, force: bool = False) -> bool:
        """Take a step if it makes the product larger, or if it must; return whether it did."""
        indices, flips = step
        if all(bool((i.cpu() == torch.arange(i.shape[-1])).all()) for i in indices.values()) and (
            not any(bool((flip < 0).any()) for flip in flips.values())
        ):
            return False
        relative = {**self.group.identity(), **indices}
        signs = {
            space: before[indices[space]] if space in indices else before
            for space, before in self.placed.signs.items()
        }
        for space, flip in flips.items():
            signs[space] = flip * signs.get(space, 1.0)
        placed = Placement(self.group.compose(relative, self.placed.indices), signs)
        places = [i for i, term in enumerate(self.terms) if term.touches(indices)]
        values = [self.terms[place].inner(placed) for place in places]
        gain = sum(values) - sum(self.values[place] for place in places)
        if gain <= self.least and not force:
            return False
        for place, value in zip(places, values, strict=True):
            self.values[place] = value
        self.placed = placed
        self.history.append(self.history[-1] + gain)
        return True


def _informed(
    group: Permutations, terms: Sequence[PairTerm], signed: Collection[str], least: float
) -> _State:
    """Match space by space, by what is known of each by then, however the second is labelled."""
    state = _State(group, terms, group.identity(), least)
    known: list[str] = []
    for space in group.shapes:
        if space in known:
            continue
        inner = _family(group, space)
        own = state.of(space, *inner)
        if inner:
            step = propose_together(group, own, space, state.placed, known)
        else:
            step, _ = propose(group, own, space, state.placed, signed, known)
        state.take(step, force=True)
        known += [space, *inner]
    state.history = [sum(state.values)]
    return state


def _family(group: Permutations, space: str) -> list[str]:
    """Return the spaces that are assigned with a space: those within it, if it is within none."""
    return [] if group.spaces[space].within else children(group, space)


def _climb(state: _State, signed: Collection[str], generator: torch.Generator | None) -> None:
    """Take steps until none gains; spaces in the order of computation, or in a random one."""
    group = state.group
    spaces = list(group.shapes)
    better = True
    while better:
        better = False
        if generator is not None:
            spaces = [spaces[i] for i in torch.randperm(len(spaces), generator=generator)]
        for space in spaces:
            own = state.of(space)
            if _family(group, space):
                better |= state.take(propose_together(group, own, space, state.placed))
            step, exact = propose(group, own, space, state.placed, signed)
            better |= state.take(step)
            for undecided in () if exact else (False, True):
                better |= state.take(propose_quadratic(group, own, space, state.placed, undecided))
