r"""Linear maps that commute with signs or positive scales of neurons, beside relabelling them.

Let neuron i of a space be multiplied by :math:`q_i`, so that an entry of a tensor is multiplied by
:math:`\prod_a q_{i_a}^{p_a}` over its axes a, with the power :math:`p_a` of each (1, or -1 for the
input side of a weight). A matrix M commutes with it iff :math:`M[t, s] = 0` wherever the factors of
t and s differ: every neuron occurs in t and s with powers that cancel,

.. math:: \sum_{a \in t: i_a = i} p_a = \sum_{a \in s: i_a = i} p_a \text{ for all } i
    \quad (\text{modulo 2 for signs}).

Of the orbits of pairs that relabelling has, those are left in whose classes they do: a *class* is
what a neuron ties. So the elements are indicators of orbits (``distinct=True`` in
:class:`~nngraph.basis.Term`). Plain elements are none: these sum over orbits that do not commute.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np

from nngraph.basis.basis import Basis
from nngraph.basis.block import BasisBlock, Element, Matrix, as_matrix
from nngraph.basis.terms import Term, count_partitions
from nngraph.basis.weight_space import WeightSpace, WeightTensor, common_sizes, weight_space
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture

Maps = Literal["sign", "positive_scale"]

#: kind of maps -> a factor that generates them, as far as which entries stay is concerned
FACTORS: dict[Maps, float] = {"sign": -1.0, "positive_scale": 2.0}


class MapBlock:
    """Basis of the maps from one tensor to another that commute with relabelling and factors.

    Args:
        target, source: the tensors.
        maps: which factors.
        scaled: spaces whose neurons have them.
    """

    def __init__(
        self, target: WeightTensor, source: WeightTensor, maps: Maps, scaled: Collection[str]
    ) -> None:
        self.plain, self.maps, self.scaled = BasisBlock(target, source), maps, scaled

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Numbers of the terms whose orbits every factor leaves as they are."""
        return tuple(i for i, term in enumerate(self.plain.terms) if self._keeps(term))

    def _keeps(self, term: Term) -> bool:
        sums = (
            sum(self.plain.target.axes[a].power for a in c.target_axes)
            - sum(self.plain.source.axes[a].power for a in c.source_axes)
            for c in term.classes if c.space in self.scaled
        )
        return not any(total % 2 if self.maps == "sign" else total for total in sums)

    @property
    def dimension(self) -> int:
        """Number of elements, in closed form: a product over the spaces, no term is made."""
        axes = [(axis, 1) for axis in self.plain.target.axes]
        axes += [(axis, -1) for axis in self.plain.source.axes]
        count = self.plain.free_numel
        for name, size in {(a.space, a.size) for a, _ in axes if a.space is not None}:
            signs = [side * a.power for a, side in axes if a.space == name]
            up, down = signs.count(1), signs.count(-1)
            if name not in self.scaled:
                count *= count_partitions(up + down, size)
            elif self.maps == "sign":
                count *= sum(_even(up + down, k) for k in range(size + 1))
            else:
                count *= sum(_balanced(up, down, k) for k in range(size + 1))
        return count

    def elements(self) -> Iterator[Element]:
        """All elements, each the indicator of an orbit: ``element.matrix(distinct=True)``."""
        for element in self.plain.elements():
            if self._keeps(element.term):
                yield element

    def project(self, matrix: Matrix) -> Matrix:
        """Return the nearest map that commutes: means over orbits, and 0 where none is left."""
        kept = np.isin(self.plain.labels // self.plain.free_numel, self.kept)
        return np.where(kept, self.plain.project(matrix), 0.0)


class MapBasis:
    """Basis of the linear maps that commute with relabelling and with factors of neurons.

    Args:
        source: what the maps read: an architecture or a weight space.
        target: what they write; default ``source``.
        maps: ``"sign"`` or ``"positive_scale"``.
        scaled: spaces whose neurons have factors; default all. Inputs and outputs have none.

    Raises:
        ArchitectureError: if a space is unknown, or has different sizes in source and target.

    Example:
        >>> MapBasis(Architecture.mlp([2, 8, 8, 1]), maps="sign").dimension
        15
    """

    def __init__(
        self, source: Architecture | WeightSpace, target: Architecture | WeightSpace | None = None,
        *, maps: Maps, scaled: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self.source = weight_space(source)
        self.target = self.source if target is None else weight_space(target)
        spaces = common_sizes(self.source, self.target)
        if maps not in FACTORS:
            raise ArchitectureError(f"maps is {maps!r}; expected one of {', '.join(FACTORS)}.")
        if unknown := [name for name in scaled or () if name not in spaces]:
            raise ArchitectureError(f"{unknown[0]!r} is no space; expected some of {[*spaces]}.")
        self.maps, self.scaled = maps, tuple(spaces if scaled is None else scaled)

    @cached_property
    def blocks(self) -> dict[tuple[str, str], MapBlock]:
        """One per pair (from tensor, to tensor), target by target."""
        return {
            (s.name, t.name): MapBlock(t, s, self.maps, self.scaled)
            for t in self.target.tensors for s in self.source.tensors
        }

    @property
    def dimension(self) -> int:
        """Number of elements, in closed form."""
        return sum(block.dimension for block in self.blocks.values())

    @cached_property
    def constants(self) -> MapBasis:
        """Basis of the vectors of the target that nothing moves: the constant part of a map."""
        scaled = [name for name in self.scaled if name in self.target.sizes]
        free = WeightSpace.free("constant")
        return MapBasis(free, self.target, maps=self.maps, scaled=scaled)

    def project(self, matrix: Any) -> Matrix:
        """Return the nearest map that commutes: ``[target.numel, source.numel]``, float64."""
        m, n = self.target.numel, self.source.numel
        given = as_matrix(matrix, m, n, "the weight space")
        result, plain = np.empty_like(given), Basis(self.source, self.target)
        for key, block in self.blocks.items():
            where = plain.slices(key)
            result[where] = block.project(given[where])
        return result


# -- set partitions whose classes cancel -----------------------------------------------------------


@cache
def _even(items: int, classes: int) -> int:
    """Number of partitions of items into so many classes of even size each."""
    if items == 0 or classes == 0:
        return int(items == classes == 0)
    return sum(
        math.comb(items - 1, size - 1) * _even(items - size, classes - 1)
        for size in range(2, items + 1, 2)
    )


@cache
def _balanced(up: int, down: int, classes: int) -> int:
    """Number of partitions into so many classes with as many items of the one kind as the other."""
    if up != down or up == 0 or classes == 0:
        return int(up == down == classes == 0)
    return sum(
        math.comb(up - 1, size - 1) * math.comb(down, size)
        * _balanced(up - size, down - size, classes - 1)
        for size in range(1, up + 1)
    )
