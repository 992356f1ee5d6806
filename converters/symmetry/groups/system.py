"""Homogeneous linear systems with few terms a row, over the rationals or over the field of two."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import Generic, TypeVar

Unknown = TypeVar("Unknown", bound=Hashable)


class System(Generic[Unknown]):
    """Rows ``sum of coefficient times unknown = 0``, reduced as they come.

    Args:
        modulus: 2 for the field of two elements; ``None`` for the rationals.
    """

    def __init__(self, modulus: int | None) -> None:
        self.modulus = modulus
        #: unknowns that are wanted, in order: others are eliminated first
        self.kept: dict[Unknown, None] = {}
        #: unknown -> what it is in terms of others
        self._solved: dict[Unknown, dict[Unknown, Fraction]] = {}

    def add(self, row: Mapping[Unknown, Fraction | int]) -> None:
        """Demand that a sum is zero."""
        left = self._reduced({key: Fraction(value) for key, value in row.items()})
        if not left:
            return
        pivot = min(left, key=lambda key: (key in self.kept, abs(left[key].numerator) != 1))
        scale = -1 / left.pop(pivot)
        self._solved[pivot] = self._field({key: scale * value for key, value in left.items()})

    def null_space(self) -> list[dict[Unknown, int]]:
        """Return a basis of what the kept unknowns may be, whole numbers without a common factor.

        Each vector has its first unknown positive.
        """
        # What is kept is solved by what is kept alone, since the others are eliminated first.
        values = {key: self._reduced({key: Fraction(1)}) for key in self.kept}
        free = [key for key in self.kept if key not in self._solved]
        return [
            _whole({key: row[unknown] for key, row in values.items() if unknown in row})
            for unknown in free
        ]

    def _reduced(self, row: dict[Unknown, Fraction]) -> dict[Unknown, Fraction]:
        """Put in what is solved, until nothing of it is left."""
        done: dict[Unknown, Fraction] = {}
        while row:
            key, value = row.popitem()
            put = self._solved.get(key)
            target = done if put is None else row
            for other, factor in ((key, 1),) if put is None else put.items():
                target[other] = target.get(other, Fraction(0)) + value * factor
        return self._field(done)

    def _field(self, row: dict[Unknown, Fraction]) -> dict[Unknown, Fraction]:
        if self.modulus is not None:
            row = {key: Fraction(int(value) % self.modulus) for key, value in row.items()}
        return {key: value for key, value in row.items() if value}


def _whole(vector: Mapping[Unknown, Fraction]) -> dict[Unknown, int]:
    common = lcm(*(value.denominator for value in vector.values()))
    numbers = {key: int(value * common) for key, value in vector.items()}
    divisor = gcd(*numbers.values()) * (1 if next(iter(numbers.values())) > 0 else -1)
    return {key: number // divisor for key, number in numbers.items()}
