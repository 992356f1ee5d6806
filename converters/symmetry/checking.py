"""The check of one space: its relabellings change nothing, and breaking any of its ties is seen.

A check that nothing could fail proves nothing. So each tie of the space is broken alone: the
outputs must move, by far more than rounding, on one of the draws on which the relabellings of the
space were checked. A tie that is not seen is told apart by noise in its place:

- If strong noise moves nothing, the function does not depend on what is tied (the bias of keys,
  which a softmax cancels). The tie is *idle*, and nothing can go wrong there.
- If noise as large as the change by the broken tie is seen, the draw sees that closely, and the
  tie alone is a symmetry of its own: the function sums over it. It is *loose*, more than need be.
- Else the draws hide the tie (a softmax that is saturated, dead neurons): it is *unseen*, and the
  space is not proven.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from converters.symmetry.running import Draw
from converters.symmetry.shaking import Draws
from converters.symmetry.spec import PermutationSpec
from converters.symmetry.spec_ties import Tie, moved, under_all_names
from nngraph.graph import Indices, Permutations

#: What counts as no change of the outputs, relative to their largest entry.
TOLERANCE = 1e-9
#: What a broken tie must change the outputs by, in multiples of the tolerance.
SEEN = 1e3

Status: TypeAlias = Literal["holds", "not proven", "fails"]
#: Ties that are broken alone: so many for each space, more where the network is small.
TIES, TIED_PARAMETERS = 8, 10**8


@dataclass(frozen=True)
class SpaceCheck:
    """What was found for one space.

    Args:
        space: its name.
        size: number of its neurons.
        ties: (parameter, axis) pairs that it ties.
        error: largest relative change of the outputs under its relabellings.
        power: smallest relative change when one tie alone is relabelled, each on the draw that
            shows it; ``None`` if it ties a single axis. Idle and loose ties do not count.
        status: whether it holds.
        tried: how many of its ties were broken alone.
        idle: ties without effect: noise in their place changes nothing.
        loose: ties that may be relabelled alone: less symmetry is claimed than there is.
        unseen: ties with an effect that could be broken unseen.
    """

    space: str
    size: int
    ties: tuple[tuple[str, int], ...]
    error: float
    power: float | None
    status: Status = "holds"
    tried: int = 0
    idle: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it does not hold, or is not proven; empty if it holds."""
        if self.status == "fails":
            return "changes the function"
        if self.unseen:
            return f"not proven: what is wrong at {', '.join(self.unseen)} would not be seen"
        return "" if self.status == "holds" else "not proven: the outputs do not depend on it"


class Claims(Protocol):
    """The relabellings that are said to leave a network's function as it is."""

    spec: PermutationSpec
    group: Permutations

    def relabel(self, state: Mapping[str, Tensor], indices: Indices) -> Mapping[str, Tensor]:
        """Return the relabelled tensors."""

    def ties(self, space: str) -> tuple[Tie, ...]:
        """Return the places at which tensors count the neurons of a space."""

    def broken(self, state: Mapping[str, Tensor], space: str, tie: Tie, indices: Indices) -> Tensor:
        """Return the parameter of a tie, relabelled at this tie alone."""

    def touched(self, space: str, tie: Tie) -> Tensor:
        """Return which entries of its parameter a tie relabels, broadcastable over the others."""


class Claim:
    """What is claimed of one space; its methods return the tensors that change."""

    def __init__(self, claims: Claims, space: str, generator: torch.Generator) -> None:
        self.claims, self.space, self.generator = claims, space, generator
        self.size = claims.group.spaces[space].size
        self.ties = claims.ties(space)
        self.axes = tuple(dict.fromkeys((tie.name, tie.axis) for tie in self.ties))

    def relabelled(self, draw: Draw) -> Mapping[str, Tensor]:
        """Relabel the space, each time anew."""
        return self.claims.relabel(draw.state, self._sample())

    def broken(self, draw: Draw, tie: Tie) -> Mapping[str, Tensor]:
        """Relabel it at one tie alone."""
        indices = moved(self._sample(), self.space)
        return self.named(tie.name, self.claims.broken(draw.state, self.space, tie, indices))

    def named(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        """Return a parameter under all of its names."""
        return under_all_names(self.claims.spec, name, value)

    def _sample(self) -> Indices:
        return self.claims.group.sample(self.generator, names=(self.space,))


Kind: TypeAlias = Literal["seen", "idle", "loose", "unseen"]


def check_space(
    claim: Claim, draws: Draws, samples: int, tolerance: float, generator: torch.Generator
) -> SpaceCheck:
    """Check one space.

    Args:
        claim: what is claimed of it.
        draws: the network on several sets of parameters.
        samples: relabellings to try; a tie that is not seen on their draws is looked for on others.
        tolerance: largest relative change that counts as none.
        generator: chooses ties, where there are many.
    """
    error = max(draw.change(claim.relabelled(draw)) for draw in draws.first(samples))
    if error > tolerance:
        return SpaceCheck(claim.space, claim.size, claim.axes, error, None, "fails")
    ties = _chosen(claim.ties, draws, generator)
    breaking = _Breaking(claim, draws, samples, tolerance, generator)
    found = {tie: breaking.kind(tie) for tie in ties}
    error = max(error, breaking.error)

    def named(kind: Kind) -> tuple[str, ...]:
        return tuple(str(tie) for tie, other in found.items() if other == kind)

    vacuous = all(kind == "idle" for kind in found.values())
    hidden = vacuous or "unseen" in found.values()
    return SpaceCheck(
        claim.space, claim.size, claim.axes, error, breaking.power,
        "fails" if error > tolerance else "not proven" if hidden else "holds",
        len(ties), named("idle"), named("loose"), named("unseen"),
    )  # fmt: skip


def _chosen(ties: Sequence[Tie], draws: Draws, generator: torch.Generator) -> Sequence[Tie]:
    parameters = sum(tensor.numel() for tensor in draws.network.state.values())
    count = max(TIES, TIED_PARAMETERS // max(parameters, 1))
    if count >= len(ties):
        return ties
    order = torch.randperm(len(ties), generator=generator)[:count].sort()[0]
    return [ties[i] for i in order.tolist()]


@dataclass
class _Breaking:
    """Breaks ties of one space, each on one draw after the other until it is seen.

    Attributes:
        error: of the space on draws on which it was not checked before.
        power: smallest change of the outputs by a broken tie that is not idle or loose.
    """

    claim: Claim
    draws: Draws
    samples: int
    tolerance: float
    generator: torch.Generator
    error: float = 0.0
    power: float | None = None

    def kind(self, tie: Tie) -> Kind:
        """Say what breaking a tie shows."""
        level = SEEN * self.tolerance
        best, depends, close, number = 0.0, False, 0, 0
        for number, draw in enumerate(self.draws):
            broken = self.claim.broken(draw, tie)
            change = draw.change(broken)
            best = max(best, change)
            if change > level:
                if number >= self.samples:
                    self.error = max(self.error, draw.change(self.claim.relabelled(draw)))
                return self._counted(best, "seen")
            near = draw.change(self._noise(draw, tie, broken)) > level
            close += near and change <= self.tolerance
            depends = depends or near or draw.change(self._noise(draw, tie)) > self.tolerance
            if number + 1 >= self.samples and (not depends or close > number):
                return "loose" if depends else "idle"
        if close > number:
            return "loose"
        return self._counted(best, "unseen") if depends else "idle"

    def _counted(self, power: float, kind: Kind) -> Kind:
        if len(self.claim.ties) > 1:
            self.power = power if self.power is None else min(self.power, power)
        return kind

    def _noise(
        self, draw: Draw, tie: Tie, broken: Mapping[str, Tensor] | None = None
    ) -> Mapping[str, Tensor]:
        """Put noise where a tie relabels: strong, or as large as the change by the broken tie."""
        touched = self.claim.claims.touched(self.claim.space, tie)
        name, value = tie.name, draw.state[tie.name]
        noise = torch.randn(value.shape, generator=self.generator, dtype=torch.float64).to(value)
        size = touched.to(value) if broken is None else broken[name] - value
        return self.claim.named(name, value + size * noise)
