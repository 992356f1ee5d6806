"""Mutation testing of the proof: specs with one mistake in them, none of which may be proven.

A mutant claims more than its spec. What survives is told apart: the network may not depend on the
entries that the mistake moves (*idle*: the bias of keys), or the mutant is a symmetry that the spec
does not have (*true*), or the proof is blind (*missed*).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from converters.symmetry.axes import Axis, AxisFactor, change_factors, factors_of, held
from converters.symmetry.checking import SEEN, TOLERANCE, Claims, Tie, moved, under_all_names
from converters.symmetry.located import as_arguments
from converters.symmetry.running import Draw, Draws, Network
from converters.symmetry.spec import PermutationSpec
from nngraph.graph import Space

_Item = TypeVar("_Item")
_Axes: TypeAlias = Mapping[str, tuple[Axis, ...]]

#: Draws on which it is looked at why a mutant survived all of them.
DRAWS = 3


@dataclass(frozen=True)
class Mutant:
    """A wrong spec, and the original one."""

    spec: PermutationSpec
    original: PermutationSpec
    #: of the mistake, and what it is, for people
    kind: str
    text: str
    #: that is claimed wrongly
    space: str
    #: parameters that the mistake moves, or does not
    names: tuple[str, ...]
    #: ties of the right spec that it breaks, each with its space
    ties: tuple[tuple[str, Tie], ...] = ()


@dataclass(frozen=True)
class MutationTest:
    """How many of all mutants were caught, and (kind of survivor, mutant) of the others."""

    total: int
    caught: int
    survivors: tuple[tuple[str, Mutant], ...]

    @property
    def blind(self) -> tuple[Mutant, ...]:
        """Survivors for which there is no excuse."""
        return tuple(mutant for reason, mutant in self.survivors if reason == "missed")

    def __str__(self) -> str:
        counts = Counter(reason for reason, _ in self.survivors)
        text = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        return f"{self.caught} of {self.total} mutants caught" + (f"; {text}" if text else "")


def mutants(spec: PermutationSpec, generator: torch.Generator | int, count: int) -> list[Mutant]:
    """Return so many wrong specs, drawn at random; fewer if there is nothing to get wrong."""
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    mistakes = _Mistakes(spec, generator)
    found: list[Mutant] = []
    for _ in range(20 * count):
        try:
            mutant = mistakes.draw()
        except _Nothing:
            continue
        if mutant.spec != spec and _is_well_formed(mutant.spec):
            found.append(mutant)
            if len(found) == count:
                break
    return found


def _is_well_formed(spec: PermutationSpec) -> bool:
    """Whether every space stands beside all of those that it lies within."""

    def counts(axis: Axis, space: str) -> int:
        return sum(factor.space == space for factor in factors_of(axis))

    def has_outer(inner: str, outer: str, name: str, place: int) -> bool:
        own, others = spec.parameters[name][place], list(spec.parameters[name])
        del others[place]
        return any(counts(axis, outer) == 1 for axis in others) or all(
            counts((s,), outer) == 1 for s in own if counts((s,), inner)
        )

    return all(
        has_outer(space.name, outer, *tie)
        for space in spec.spaces for outer in space.within for tie in spec.ties(space.name)
    )


class _Nothing(Exception):
    """There is nothing to get wrong in that way."""


class _Mistakes:
    """Gets a spec wrong, each time in another way; ``_Nothing`` where a way is not possible."""

    def __init__(self, spec: PermutationSpec, generator: torch.Generator) -> None:
        self.spec, self.generator, self.ties_of = spec, generator, Claims(spec).ties
        self.spaces = [space for space in spec.free_spaces if space.size > 1]

    def draw(self) -> Mutant:
        kinds = self.dropped, self.split, self.swapped, self.freed, self.nested
        return self.chosen(kinds)()

    def chosen(self, items: Sequence[_Item]) -> _Item:
        if not items:
            raise _Nothing
        return items[int(torch.randint(len(items), (), generator=self.generator))]

    def tie(self) -> tuple[Space, Tie]:
        """Choose a tie of a space that has several."""
        several = [s for s in self.spaces if len(self.ties_of(s.name)) > 1]
        space = self.chosen(several)
        return space, self.chosen(self.ties_of(space.name))

    def mutant(
        self, kind: str, text: str, space: str, *ties: tuple[str, Tie], names: Iterable[str] = (),
        **changes: Any,
    ) -> Mutant:  # fmt: skip
        named = tuple(dict.fromkeys([*names, *(tie.name for _, tie in ties)]))
        return Mutant(replace(self.spec, **changes), self.spec, kind, text, space, named, ties)

    def dropped(self) -> Mutant:
        """A tie is dropped: that axis stays when its space is relabelled."""
        space, tie = self.tie()
        axes = _with_factor(self.spec.parameters, space.name, tie, AxisFactor(space.size))
        text = f"{space.name} without {tie}"
        return self.mutant("dropped", text, space.name, (space.name, tie), parameters=axes)

    def split(self) -> Mutant:
        """A tie is given a space of its own."""
        space, tie = self.tie()
        own = Space(f"{space.name} apart", space.size, space.within)
        if any(own.name in other.within for other in self.spec.spaces):
            raise _Nothing
        axes = _with_factor(self.spec.parameters, space.name, tie, AxisFactor(space.size, own.name))
        return self.mutant(
            "split", f"{tie} apart from {space.name}", own.name, (space.name, tie),
            spaces=(*self.spec.spaces, own), parameters=axes,
        )  # fmt: skip

    def swapped(self) -> Mutant:
        """Two ties of spaces of one size change places."""
        one, other = self.chosen([
            pair for pair in itertools.combinations(self.spaces, 2)
            if pair[0].size == pair[1].size and pair[0].within == pair[1].within
        ])  # fmt: skip
        first, second = (self.chosen(self.ties_of(space.name)) for space in (one, other))
        own = Tie(first.name, first.axis)
        axes = _with_factor(self.spec.parameters, one.name, first, AxisFactor(one.size, "\0"))
        axes = _with_factor(axes, other.name, second, AxisFactor(one.size, one.name))
        axes = _with_factor(axes, "\0", own, AxisFactor(one.size, other.name))
        text = f"{first} of {one.name} and {second} of {other.name} exchanged"
        broken = (one.name, first), (other.name, second)
        return self.mutant("swapped", text, one.name, *broken, parameters=axes)

    def freed(self) -> Mutant:
        """A fixed axis is given a space of its own."""
        name, place, size = self.chosen([
            (name, place, axis[0][0].size)
            for name, axes in self.spec.parameters.items() if name not in self.spec.unused
            for place, axis in enumerate(axes)
            if axis == held(axis) and axis[0][0].size > 1
        ])  # fmt: skip
        axes = list(self.spec.parameters[name])
        axes[place] = ((AxisFactor(size, "freed"),),)
        return self.mutant(
            "freed", f"{name}[{place}] free", "freed", names=[name],
            spaces=(*self.spec.spaces, Space("freed", size)),
            parameters={**self.spec.parameters, name: tuple(axes)},
        )  # fmt: skip

    def nested(self) -> Mutant:
        """A space is said to lie within another, with an order of its own for each neuron there."""
        inner, outer = self.chosen([
            (inner, outer) for inner, outer in itertools.permutations(self.spaces, 2)
            if outer.name not in inner.within and not outer.within
            and not any(inner.name in space.within for space in self.spec.spaces)
        ])  # fmt: skip
        within = replace(inner, within=(*inner.within, outer.name))
        return self.mutant(
            "nested", f"{inner.name} within {outer.name}", inner.name,
            names=[tie.name for tie in self.ties_of(inner.name)],
            spaces=tuple(within if space is inner else space for space in self.spec.spaces),
        )  # fmt: skip


def _with_factor(axes: _Axes, space: str, tie: Tie, factor: AxisFactor) -> _Axes:
    """Return the axes of all parameters, with another factor at one tie."""
    numbers = itertools.count()

    def exchanged(old: AxisFactor) -> AxisFactor:
        return factor if old.space == space and next(numbers) == tie.number else old

    own = list(axes[tie.name])
    own[tie.axis] = change_factors(own[tie.axis], exchanged)
    return {**axes, tie.name: tuple(own)}


def catch_mutants(
    spec: PermutationSpec, module: nn.Module, example_inputs: Any, *,
    kwargs: Mapping[str, Any] | None = None, count: int = 20, seed: int = 0,
    tolerance: float = TOLERANCE,
) -> MutationTest:  # fmt: skip
    """Return how many mutants of a spec, which holds, are caught on its network.

    A mutant is caught by the first relabelling that it claims and that moves the outputs, on one of
    several draws; of one that is caught, the network is run once or twice.

    Args:
        module: the network.
        example_inputs: one tensor, or a tuple of positional arguments.
        kwargs: keyword arguments of its forward.
        count: mutants to try.
        seed: of mutants, draws and relabellings.
        tolerance: largest relative change that counts as none.
    """
    network = Network(module, as_arguments(example_inputs), kwargs or {}, spec)
    draws = Draws(network, spec, seed)
    generator = torch.Generator().manual_seed(seed)
    found = mutants(spec, generator, count)
    survivors = [
        (_excuse(mutant, draws, generator, tolerance), mutant) for mutant in found
        if all(draw.change(_relabelled(mutant, draw, generator)) <= tolerance for draw in draws)
    ]
    return MutationTest(len(found), len(found) - len(survivors), tuple(survivors))


def _relabelled(mutant: Mutant, draw: Draw, generator: torch.Generator) -> Mapping[str, Tensor]:
    relabelling = moved(mutant.spec.sample(generator, (mutant.space,)), mutant.space)
    return mutant.spec.permute(draw.state, relabelling)


def _excuse(mutant: Mutant, draws: Draws, generator: torch.Generator, tolerance: float) -> str:
    """Say why a mutant may survive; ``missed`` if it may not."""
    depends, close = False, True
    for draw in draws.first(DRAWS):
        sizes = _touched(mutant, draw, generator)
        strong = {name: (size != 0).to(size) for name, size in sizes.items()}
        depends = depends or _change_by_noise(mutant, draw, strong, generator) > tolerance
        close = close and _change_by_noise(mutant, draw, sizes, generator) > SEEN * tolerance
    return "idle" if not depends else "true" if close else "missed"


def _change_by_noise(
    mutant: Mutant, draw: Draw, sizes: Mapping[str, Tensor], generator: torch.Generator
) -> float:
    noisy = {}
    for name, size in sizes.items():
        noise = torch.randn(size.shape, generator=generator, dtype=size.dtype).to(size.device)
        noisy[name] = draw.state[name] + size * noise
    return draw.change(under_all_names(mutant.original, noisy))


def _touched(mutant: Mutant, draw: Draw, generator: torch.Generator) -> dict[str, Tensor]:
    """Return by how much a mistake moves, or should have moved, each entry."""
    claims, state = Claims(mutant.original), draw.state
    moves: list[Mapping[str, Tensor]] = []
    for space, tie in mutant.ties:
        indices = moved(claims.group.sample(generator, names=(space,)), space)
        moves.append({tie.name: claims.broken(state, space, tie, indices)})
    sizes = {n: torch.zeros_like(state[n]) for n in mutant.names if state[n].is_floating_point()}
    for change in moves or [_relabelled(mutant, draw, generator)]:
        for name in sizes.keys() & change.keys():
            sizes[name] += (change[name] - state[name]).abs()
    return sizes
