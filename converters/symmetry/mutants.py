"""Mutation testing of the proof: specs with one mistake in them, none of which may be proven.

A mutant claims more than its spec: a tie is dropped or given a space of its own, two ties change
places, a fixed axis is freed, a space is said to lie within another. What survives is told apart:
the network may not depend on the entries that the mistake moves (*idle*: the bias of keys), or the
mutant is a symmetry that the spec does not have (*true*), or the proof is blind (*missed*).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from converters.symmetry.arguments import as_arguments
from converters.symmetry.axes import Axis, Factor, change_factors, factors_of
from converters.symmetry.checking import SEEN, TOLERANCE
from converters.symmetry.running import Draw, Network
from converters.symmetry.shaking import Draws
from converters.symmetry.spec import PermutationSpec
from converters.symmetry.spec_ties import (
    Tie,
    moved,
    permute_tie,
    ties_of,
    under_all_names,
)
from nngraph.graph import Space

#: Draws on which it is looked at why a mutant survived all of them.
DRAWS = 3


@dataclass(frozen=True)
class Mutant:
    """A spec with a mistake in it.

    Args:
        spec: the wrong spec.
        original: the right one.
        kind: of the mistake.
        text: what it is, for people.
        space: the space that is claimed wrongly.
        names: parameters that the mistake moves, or does not.
        ties: ties of the right spec that it breaks, each with its space.
    """

    spec: PermutationSpec
    original: PermutationSpec
    kind: str
    text: str
    space: str
    names: tuple[str, ...]
    ties: tuple[tuple[str, Tie], ...] = ()


@dataclass(frozen=True)
class MutationTest:
    """How many mutants were caught.

    Args:
        total: mutants in all.
        caught: those that were not proven.
        survivors: (kind of survivor, mutant) of the others.
    """

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


def mutants(
    spec: PermutationSpec, generator: torch.Generator | int, count: int
) -> list[Mutant]:
    """Return so many wrong specs, drawn at random; fewer if there is nothing to get wrong."""
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    found: list[Mutant] = []
    for number in itertools.count():
        if len(found) == count or number == 20 * count:
            return found
        mutant = _chosen(_KINDS, generator)(spec, generator)
        if mutant is not None and mutant.spec != spec and _is_well_formed(mutant.spec):
            found.append(mutant)
    raise AssertionError


def _is_well_formed(spec: PermutationSpec) -> bool:
    """Whether every space stands beside all of those that it lies within."""
    return all(
        _has_outer(spec, space.name, outer, name, place)
        for space in spec.spaces for outer in space.within
        for name, place in spec.ties(space.name)
    )


def _has_outer(spec: PermutationSpec, inner: str, outer: str, name: str, place: int) -> bool:
    def counts(axis: Axis, space: str) -> int:
        return sum(factor.space == space for factor in factors_of(axis))

    axes = spec.parameters[name]
    if any(counts(axis, outer) == 1 for number, axis in enumerate(axes) if number != place):
        return True
    return all(counts((s,), outer) == 1 for s in axes[place] if counts((s,), inner))


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _chosen(items: Sequence[Any], generator: torch.Generator) -> Any:
    return items[_below(len(items), generator)] if items else None


def _moving(spec: PermutationSpec) -> list[Space]:
    return [space for space in spec.free_spaces if space.size > 1]


def _with_factor(
    spec: PermutationSpec, space: str, tie: Tie, factor: Factor
) -> dict[str, tuple[Any, ...]]:
    """Return the axes of all parameters, with another factor at one tie."""
    axes = list(spec.parameters[tie.name])
    numbers = itertools.count()

    def exchanged(old: Factor) -> Factor:
        return factor if old.space == space and next(numbers) == tie.number else old

    axes[tie.axis] = change_factors(axes[tie.axis], exchanged)
    return {**spec.parameters, tie.name: tuple(axes)}


def _tie(
    spec: PermutationSpec, generator: torch.Generator
) -> tuple[Space, Tie] | None:
    several = [(space, ties_of(spec, space.name)) for space in _moving(spec)]
    space, ties = _chosen([(s, t) for s, t in several if len(t) > 1], generator) or (None, ())
    return None if space is None else (space, _chosen(ties, generator))


def _dropped(spec: PermutationSpec, generator: torch.Generator) -> Mutant | None:
    """A tie is dropped: that axis stays when its space is relabelled."""
    if (found := _tie(spec, generator)) is None:
        return None
    space, tie = found
    axes = _with_factor(spec, space.name, tie, Factor(space.size))
    return Mutant(
        replace(spec, parameters=axes), spec, "dropped", f"{space.name} without {tie}",
        space.name, (tie.name,), ((space.name, tie),),
    )  # fmt: skip


def _split(spec: PermutationSpec, generator: torch.Generator) -> Mutant | None:
    """A tie is given a space of its own."""
    if (found := _tie(spec, generator)) is None:
        return None
    space, tie = found
    own = Space(f"{space.name} apart", space.size, space.within)
    if any(own.name in other.within for other in spec.spaces):
        return None
    axes = _with_factor(spec, space.name, tie, Factor(space.size, own.name))
    changed = replace(spec, spaces=(*spec.spaces, own), parameters=axes)
    text = f"{tie} apart from {space.name}"
    return Mutant(changed, spec, "split", text, own.name, (tie.name,), ((space.name, tie),))


def _swapped(spec: PermutationSpec, generator: torch.Generator) -> Mutant | None:
    """Two ties of spaces of one size change places."""
    pairs = [
        (one, other) for one, other in itertools.combinations(_moving(spec), 2)
        if one.size == other.size and one.within == other.within
    ]
    if (pair := _chosen(pairs, generator)) is None:
        return None
    one, other = pair
    first = _chosen(ties_of(spec, one.name), generator)
    second = _chosen(ties_of(spec, other.name), generator)
    axes = _with_factor(spec, one.name, first, Factor(one.size, "\0"))
    held = replace(spec, spaces=(*spec.spaces, Space("\0", one.size)), parameters=axes)
    axes = _with_factor(held, other.name, second, Factor(one.size, one.name))
    held = replace(held, parameters=axes)
    axes = _with_factor(held, "\0", Tie(first.name, first.axis), Factor(one.size, other.name))
    changed = replace(spec, parameters=axes)
    text = f"{first} of {one.name} and {second} of {other.name} exchanged"
    return Mutant(
        changed, spec, "swapped", text, one.name, tuple(dict.fromkeys((first.name, second.name))),
        ((one.name, first), (other.name, second)),
    )  # fmt: skip


def _freed(spec: PermutationSpec, generator: torch.Generator) -> Mutant | None:
    """A fixed axis is given a space of its own."""
    plain = [
        (name, place, axis[0][0].size)
        for name, axes in spec.parameters.items() if name not in spec.unused
        for place, axis in enumerate(axes)
        if len(axis) == 1 and len(axis[0]) == 1 and axis[0][0].size > 1
        and not spec.is_free(axis) and not axis[0][0].parts and axis[0][0].space is None
    ]
    if (found := _chosen(plain, generator)) is None:
        return None
    name, place, size = found
    axes = list(spec.parameters[name])
    axes[place] = ((Factor(size, "freed"),),)
    changed = replace(
        spec, spaces=(*spec.spaces, Space("freed", size)),
        parameters={**spec.parameters, name: tuple(axes)},
    )
    return Mutant(changed, spec, "freed", f"{name}[{place}] free", "freed", (name,))


def _nested(spec: PermutationSpec, generator: torch.Generator) -> Mutant | None:
    """A space is said to lie within another, with an order of its own for each of its neurons."""
    pairs = [
        (inner, outer) for inner in _moving(spec) for outer in _moving(spec)
        if inner is not outer and outer.name not in inner.within and not outer.within
        and not any(inner.name in space.within for space in spec.spaces)
    ]
    if (pair := _chosen(pairs, generator)) is None:
        return None
    inner, outer = pair
    spaces = tuple(
        replace(space, within=(*space.within, outer.name)) if space is inner else space
        for space in spec.spaces
    )
    return Mutant(
        replace(spec, spaces=spaces), spec, "nested", f"{inner.name} within {outer.name}",
        inner.name, tuple(dict.fromkeys(tie.name for tie in ties_of(spec, inner.name))),
    )  # fmt: skip


_KINDS: tuple[Callable[[PermutationSpec, torch.Generator], Mutant | None], ...] = (
    _dropped, _split, _swapped, _freed, _nested,
)


def catch_mutants(
    spec: PermutationSpec,
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    count: int = 20,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> MutationTest:
    """Return how many mutants of a spec are caught on its network.

    A mutant is caught by the first relabelling that it claims and that moves the outputs, on one of
    several draws; of one that is caught, the network is run once or twice.

    Args:
        spec: which holds.
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
        if not _is_caught(mutant, draws, generator, tolerance)
    ]
    return MutationTest(len(found), len(found) - len(survivors), tuple(survivors))


def _is_caught(
    mutant: Mutant, draws: Draws, generator: torch.Generator, tolerance: float
) -> bool:
    return any(
        draw.change(_relabelled(mutant, draw, generator)) > tolerance for draw in draws
    )


def _relabelled(
    mutant: Mutant, draw: Draw, generator: torch.Generator
) -> Mapping[str, Tensor]:
    relabelling = moved(mutant.spec.sample(generator, (mutant.space,)), mutant.space)
    return mutant.spec.permute(draw.state, relabelling)


def _excuse(
    mutant: Mutant, draws: Draws, generator: torch.Generator, tolerance: float
) -> str:
    """Say why a mutant may survive; ``missed`` if it may not."""
    depends, close = False, True
    for draw in draws.first(DRAWS):
        sizes = _touched(mutant, draw, generator)
        strong = {name: (size != 0).to(size) for name, size in sizes.items()}
        depends = depends or draw.change(_noisy(mutant, draw, strong, generator)) > tolerance
        close = close and draw.change(_noisy(mutant, draw, sizes, generator)) > SEEN * tolerance
    return "idle" if not depends else "true" if close else "missed"


def _touched(mutant: Mutant, draw: Draw, generator: torch.Generator) -> dict[str, Tensor]:
    """Return by how much a mistake moves, or should have moved, each entry."""
    spec, state = mutant.original, draw.state
    sizes = {name: torch.zeros_like(state[name]) for name in mutant.names}
    moves: list[Mapping[str, Tensor]] = [
        under_all_names(
            spec, tie.name,
            permute_tie(
                spec, state[tie.name], moved(spec.sample(generator, (space,)), space), space, tie
            ),
        )
        for space, tie in mutant.ties
    ] or [_relabelled(mutant, draw, generator)]
    for name in sizes:
        for change in moves:
            if name in change and state[name].is_floating_point():
                sizes[name] += (change[name] - state[name]).abs()
    return {name: size for name, size in sizes.items() if size.is_floating_point()}


def _noisy(
    mutant: Mutant, draw: Draw, sizes: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for name, size in sizes.items():
        noise = torch.randn(size.shape, generator=generator, dtype=size.dtype).to(size.device)
        changed |= under_all_names(mutant.original, name, draw.state[name] + size * noise)
    return changed
