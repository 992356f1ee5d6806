"""The check of one space: its relabellings change nothing, and breaking any of its ties is seen.

A check that nothing could fail proves nothing. So each tie of the space is broken alone: the
outputs must move, by far more than rounding, on a draw on which the space was checked. Noise in the
place of a tie that is not seen tells why:

- If strong noise moves nothing, the function does not depend on what is tied (the bias of keys,
  which a softmax cancels). The tie is *idle*, and nothing can go wrong there.
- If noise as large as the change by the broken tie is seen, the draw sees that closely, and the
  tie alone is a symmetry of its own: the function sums over it. It is *loose*, more than need be.
- Else the draws hide the tie (a softmax that is saturated, dead neurons): it is *unseen*, and the
  space is not proven.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from converters.symmetry.axes import factors_of, held, only_tie
from converters.symmetry.relabelling import coordinates, permuted
from converters.symmetry.running import Draw, Draws
from converters.symmetry.spec import PermutationSpec
from nngraph.graph import Indices

#: What counts as no change of the outputs, relative to their largest entry.
TOLERANCE = 1e-9
#: What a broken tie must change the outputs by, in multiples of the tolerance.
SEEN = 1e3

_Item = TypeVar("_Item")
Status: TypeAlias = Literal["holds", "not proven", "fails"]
#: Ties that are broken alone: so many for each space, more where the network is small.
TIES, TIED_PARAMETERS = 8, 10**8


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

    def all_moved(
        self, state: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Return the tensors with everything moved at random that may be moved."""
        return self.relabel(state, self.group.sample(generator))

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
        idle, loose, unseen: ties that were not seen: without effect (noise changes nothing), free
            alone (less symmetry is claimed than there is), with an effect that could hide.
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


Kind: TypeAlias = Literal["seen", "idle", "loose", "unseen"]


def check_space(
    claims: Claims, space: str, draws: Draws, samples: int, tolerance: float,
    generator: torch.Generator,
) -> SpaceCheck:  # fmt: skip
    """Check one space of those that are claimed.

    Args:
        draws: the network on several sets of parameters.
        samples: relabellings to try; a tie that is not seen on their draws is looked for on others.
        tolerance: largest relative change that counts as none.
        generator: chooses relabellings, and ties where there are many.
    """
    ties = claims.ties(space)
    axes = tuple(dict.fromkeys((tie.name, tie.axis) for tie in ties))
    size = claims.group.spaces[space].size
    breaking = _Breaking(claims, space, draws, samples, tolerance, generator)
    error = max(draw.change(breaking.relabelled(draw)) for draw in draws.first(samples))
    if error > tolerance:
        return SpaceCheck(space, size, axes, error, None, "fails")
    parameters = sum(tensor.numel() for tensor in draws.network.state.values())
    count = max(TIES, TIED_PARAMETERS // max(parameters, 1))
    found = {tie: breaking.kind(tie) for tie in drawn(ties, count, generator)}
    error = max(error, breaking.error)

    def named(kind: Kind) -> tuple[str, ...]:
        return tuple(str(tie) for tie, other in found.items() if other == kind)

    vacuous = all(kind == "idle" for kind in found.values())
    hidden = vacuous or "unseen" in found.values()
    return SpaceCheck(
        space, size, axes, error, min(breaking.powers, default=None) if len(ties) > 1 else None,
        "fails" if error > tolerance else "not proven" if hidden else "holds",
        len(found), named("idle"), named("loose"), named("unseen"),
    )  # fmt: skip


def drawn(items: Sequence[_Item], count: int | None, generator: torch.Generator) -> list[_Item]:
    """Return so many of some items, drawn at random, in their order; all of them for ``None``."""
    if count is None or count >= len(items):
        return list(items)
    chosen = torch.randperm(len(items), generator=generator)[:count].sort()[0]
    return [items[i] for i in chosen.tolist()]


@dataclass
class _Breaking:
    """Breaks ties of one space, each on one draw after the other until it is seen."""

    claims: Claims
    space: str
    draws: Draws
    samples: int
    tolerance: float
    generator: torch.Generator
    #: of the space on draws on which it was not checked before
    error: float = 0.0
    #: changes of the outputs by broken ties that are not idle or loose
    powers: list[float] = field(default_factory=list)

    def relabelled(self, draw: Draw) -> Mapping[str, Tensor]:
        """Relabel the space, each time anew."""
        return self.claims.relabel(draw.state, self._sample())

    def kind(self, tie: Tie) -> Kind:
        """Say what breaking a tie shows."""
        level = SEEN * self.tolerance
        best, depends, close, number = 0.0, False, 0, 0
        for number, draw in enumerate(self.draws):
            indices = moved(self._sample(), self.space)
            broken = self.claims.broken(draw.state, self.space, tie, indices)
            change = self._change(draw, tie, broken)
            best = max(best, change)
            if change > level:
                if number >= self.samples:
                    self.error = max(self.error, draw.change(self.relabelled(draw)))
                self.powers.append(best)
                return "seen"
            near = self._change(draw, tie, self._noisy(draw, tie, broken)) > level
            close += near and change <= self.tolerance
            depends = depends or near or (
                self._change(draw, tie, self._noisy(draw, tie)) > self.tolerance
            )
            if number + 1 >= self.samples and (not depends or close > number):
                return "loose" if depends else "idle"
        if close > number:
            return "loose"
        self.powers += [best] if depends else []
        return "unseen" if depends else "idle"

    def _sample(self) -> Indices:
        return self.claims.group.sample(self.generator, names=(self.space,))

    def _change(self, draw: Draw, tie: Tie, value: Tensor) -> float:
        return draw.change(under_all_names(self.claims.spec, {tie.name: value}))

    def _noisy(self, draw: Draw, tie: Tie, broken: Tensor | None = None) -> Tensor:
        """Put noise where a tie relabels: strong, or as large as the change by the broken tie."""
        value = draw.state[tie.name]
        noise = torch.randn(value.shape, generator=self.generator, dtype=torch.float64).to(value)
        touched = self.claims.touched(self.space, tie)
        return value + noise * (touched.to(value) if broken is None else broken - value)
