"""The exponents of all tensors of a program, and what operations demand of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

from converters.symmetry.dims import Dim
from converters.symmetry.groups.occurrences import Occurrence, occurrences
from converters.symmetry.groups.system import System
from converters.symmetry.memory import shared_stretches
from converters.symmetry.program import Program, Ref
from converters.symmetry.values import Value

#: (tensor, axis, space, which of its occurrences there): one exponent
Place = tuple[Ref, int, Dim, int]
#: the places of one axis by space and number
OfAxis = Mapping[tuple[Dim, int], Place]


class Exponents:
    """The exponents of all tensors of a program, and what its operations demand of them.

    Args:
        values: every tensor after the pass of the permutation rules.
        parameters: those of which the exponents are wanted.
    """

    def __init__(self, values: Mapping[Ref, Value], parameters: Iterable[Ref]) -> None:
        self.values = values
        self._occurrences: dict[Ref, list[Occurrence]] = {}
        #: spaces that a tensor counts and along which its entries are alike
        self.alike: dict[Ref, set[Dim]] = {}
        #: spaces along which some operation goes neuron by neuron: no matrix may mix these
        self.entrywise: set[Dim] = set()
        #: squares that are yet to be summed, and the spaces along which they are taken
        self.squares: dict[Ref, set[Dim]] = {}
        #: of positive scales, and of signs
        self.systems = (System[Place](None), System[Place](2))
        kept = [place for ref in parameters for places in self.of(ref).values() for place in places]
        for system in self.systems:
            system.kept.update(dict.fromkeys(kept))

    @classmethod
    def of_program(
        cls, program: Program, values: Mapping[Ref, Value], tensors: Mapping[str, Tensor]
    ) -> Exponents:
        """Return those of a program, of which inputs, outputs and shared memory are not scaled."""
        known = cls(values, program.parameters.values())
        known.zero(*program.inputs.values(), *program.outputs)
        for pair in program.updates:
            known.zero(*pair)
        for stretch in shared_stretches(tensors.values()):
            ids = {id(tensor) for tensor in stretch.tensors}
            known.zero(*(r for n, r in program.parameters.items() if id(tensors[n]) in ids))
        return known

    # -- where exponents are ----------------------------------------------------------------------

    def occurrences(self, ref: Any) -> list[Occurrence]:
        """Return where a tensor counts spaces that may be relabelled, whatever its entries are."""
        value = self.values.get(ref) if isinstance(ref, Ref) else None
        if value is None:
            return []
        if ref not in self._occurrences:
            self._occurrences[ref] = occurrences(value)
        return self._occurrences[ref]

    def axis(self, ref: Ref | None, axis: int) -> OfAxis:
        """Return the places of one axis."""
        if ref is None or not self.varies(self.values[ref]):
            return {}
        axis %= self.rank(ref)
        return {
            (o.space, o.number): (ref, axis, o.space, o.number)
            for o in self.occurrences(ref) if o.axis == axis
        }

    def counted(self, ref: Any) -> set[Dim]:
        """Return the spaces along which entries of a tensor may differ, whatever these are."""
        occurrences = self.occurrences(ref)
        constant = self.values[ref].constant if occurrences else None
        found = {o.space for o in occurrences if constant is None or constant.varies(o.axis)}
        return found - self.alike[ref] if ref in self.alike else found

    def apart(self, *refs: Any) -> None:
        """Let no matrix mix the neurons of the spaces that tensors count."""
        for ref in refs:
            self.entrywise |= self.counted(ref)

    def square(self, ref: Ref) -> None:
        """Wait for the sum of a tensor of squares: over all of a space it does not change.

        Under rotations of the space, that is; anything else that is done to squares goes neuron by
        neuron (:meth:`use`).
        """
        self.squares[ref] = self.counted(ref)

    def use(self, ref: Ref, *sums: Ref) -> None:
        """Note what is made of a tensor: of squares, sums over spaces, or something else."""
        left = set[Dim]().union(*map(self.counted, sums)) if sums else None
        own = self.squares.get(ref, set())
        self.entrywise |= own if left is None else own & left

    def one_by_one(self, ref: Ref, axis: int) -> None:
        """Let no matrix mix the neurons that one axis of a tensor counts."""
        axis %= self.rank(ref)
        self.entrywise.update(o.space for o in self.occurrences(ref) if o.axis == axis)

    @staticmethod
    def varies(value: Value) -> bool:
        """Whether a tensor may be scaled at all: a constant and indices may not."""
        return bool(value.dtype and value.dtype.is_floating_point) and value.constant is None

    def rank(self, ref: Ref) -> int:
        """Number of axes of a tensor."""
        return self.values[ref].rank

    def of(self, ref: Any) -> dict[Dim, list[Place]]:
        """Return the places of each space of a tensor; a number or a constant has none."""
        found: dict[Dim, list[Place]] = {}
        if isinstance(ref, Ref) and ref in self.values and self.varies(self.values[ref]):
            for o in self.occurrences(ref):
                found.setdefault(o.space, []).append((ref, o.axis, o.space, o.number))
        return found

    # -- what is demanded -------------------------------------------------------------------------

    def demand(self, row: Mapping[Place, Fraction | int], systems: Sequence[int] = (0, 1)) -> None:
        """Demand that a sum of exponents is zero."""
        for system in systems:
            self.systems[system].add(row)

    def zero(self, *refs: Any) -> None:
        """Let nothing of some tensors be scaled."""
        for ref in refs:
            for places in self.of(ref).values():
                for place in places:
                    self.demand({place: 1})

    def link(self, *terms: tuple[OfAxis, int]) -> None:
        """Let exponents of axes that are one space have a sum of zero, each with its coefficient.

        An axis that does not count a space has exponent zero there; axes that count it not equally
        often have so all of them.
        """
        for part in dict.fromkeys(part for found, _ in terms for part, _ in found):
            counts = {sum(other is part for other, _ in found) for found, _ in terms} - {0}
            for number in range(max(counts)):
                row: dict[Place, int] = {}
                for found, coefficient in terms:
                    if (place := found.get((part, number))) is not None:
                        row[place] = row.get(place, 0) + coefficient
                        if len(counts) > 1:
                            self.demand({place: 1})
                self.demand(row)

    def matched(self, *refs: Any) -> Iterable[tuple[Dim, list[Place | None]]]:
        """Iterate over the spaces of tensors, with the place that each has in each of them.

        A space that one of them counts on two axes, or that they count not equally often, is zero.
        """
        every = [self.of(ref) for ref in refs]
        for part in dict.fromkeys(part for found in every for part in found):
            places = [found.get(part, []) for found in every]
            axes = [{axis for _, axis, _, _ in each} for each in places]
            counts = {len(each) for each in places if each}
            if len(counts) > 1 or any(len(each) > 1 for each in axes):
                for place in (place for each in places for place in each):
                    self.demand({place: 1})
            else:
                for number in range(counts.pop()):
                    yield part, [each[number] if each else None for each in places]


def row(*terms: tuple[Place | None, Fraction | int]) -> dict[Place, Fraction | int]:
    """Return coefficients by their places; a place that is none has exponent zero."""
    found: dict[Place, Fraction | int] = {}
    for place, coefficient in terms:
        if place is not None:
            found[place] = found.get(place, 0) + coefficient
    return found
