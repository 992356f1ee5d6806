"""The basis of all maps between weight spaces that commute with neuron relabelling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.basis.block import BasisBlock, Element, Matrix, as_matrix
from nngraph.basis.weight_space import WeightSpace, checked, common_sizes, weight_space
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture


class Basis:
    r"""Basis of the linear maps from one weight space to another that commute with relabelling.

    .. math:: M g = g M \text{ for all } g \in G, \quad
        \dim = \sum_{A, B} c_A c_B \prod_h \#\{\text{partitions of the axes of } A, B \text{ in }
        h \text{ into at most } d_h \text{ classes}\}

    The truth that layers are held against; it shares no code with them. Nothing is materialised
    before it is asked for: 784-h-h-10 has 1,269,190 elements. (Navon et al., ICML 2023.)

    Args:
        source: what the maps read: an architecture or a weight space.
        target: what they write; default ``source``.
        permute_io: relabel input and output neurons too; for architectures.

    Raises:
        ArchitectureError: if a space has different sizes in source and target.

    Example:
        >>> basis = Basis(Architecture.mlp([2, 8, 8, 1]))
        >>> basis.dimension, basis.constants.dimension, basis.invariants.dimension
        (75, 7, 7)
    """

    def __init__(
        self,
        source: Architecture | WeightSpace,
        target: Architecture | WeightSpace | None = None,
        *,
        permute_io: bool = False,
    ) -> None:
        self.source = weight_space(source, permute_io)
        self.target = self.source if target is None else weight_space(target, permute_io)
        common_sizes(self.source, self.target)

    @cached_property
    def blocks(self) -> dict[tuple[str, str], BasisBlock]:
        """One per pair (from tensor, to tensor), target by target."""
        return {
            (s.name, t.name): BasisBlock(t, s)
            for t in self.target.tensors
            for s in self.source.tensors
        }

    def block(self, source: str, target: str) -> BasisBlock:
        """The block from one tensor to another."""
        return self.blocks[self.source.tensor(source).name, self.target.tensor(target).name]

    @cached_property
    def dimension(self) -> int:
        """Number of elements, in closed form."""
        return sum(block.dimension for block in self.blocks.values())

    def elements(self) -> Iterator[Element]:
        """All elements, block by block, made one at a time."""
        for block in self.blocks.values():
            yield from block.elements()

    @cached_property
    def constants(self) -> Basis:
        """Basis of the invariant vectors of the target: the constant part of an affine map."""
        return Basis(WeightSpace.free("constant"), self.target)

    @cached_property
    def invariants(self) -> Basis:
        """Basis of the invariant linear functions of the source."""
        return Basis(self.source, WeightSpace.free("invariant"))

    def project(self, matrix: Any, block: tuple[str, str] | None = None) -> Matrix:
        """Reynolds average: the nearest equivariant map, exact and without enumerating the group.

        Shape:
            matrix ``[target.numel, source.numel]`` (array or tensor), or that of the block named
            by ``block`` = (from, to); the result is a float64 array of that shape.
        """
        if block is not None:
            part = self.block(*block)
            name = f"the block {part.source.name} -> {part.target.name}"
            return part.project(as_matrix(matrix, part.target.numel, part.source.numel, name))
        whole = self._matrix(matrix)
        result = np.empty_like(whole)
        for key, part in self.blocks.items():
            where = self.slices(key)
            result[where] = part.project(whole[where])
        return result

    def coefficients(self, matrix: Any, block: tuple[str, str] | None = None) -> Coefficients:
        """Coefficients of the projection on the named elements, and what is left over."""
        if block is not None:
            part = self.block(*block)
            basis = Basis(WeightSpace((part.source,)), WeightSpace((part.target,)))
            return basis.coefficients(matrix)
        matrix = self._matrix(matrix)
        norm = float(np.linalg.norm(matrix)) or 1.0
        values, residuals = {}, {}
        for key, part in self.blocks.items():
            given = matrix[self.slices(key)]
            means = part.orbit_means(given)
            values[key] = part.to_plain(means)
            residuals[key] = float(np.linalg.norm(given - means[part.labels])) / norm
        return Coefficients(self, values, residuals)

    def matrix(self, coefficients: Mapping[tuple[str, str], Matrix]) -> Matrix:
        """Matrix ``[target.numel, source.numel]`` with these coefficients on named elements."""
        result = np.empty((self.target.numel, self.source.numel))
        for key, part in self.blocks.items():
            result[self.slices(key)] = part.to_orbits(coefficients[key])[part.labels]
        return result

    def sample(self, seed: int = 0) -> EquivariantMap:
        """A random equivariant affine map: independent normal coefficients from this seed.

        Each coefficient is divided by the root of the number of values that its element sums and
        of the number of elements that write each entry of the target, so that independent inputs
        of order one give values of order one.
        """
        random = np.random.default_rng(seed)
        writers: Counter[str] = Counter()
        for (_, name), part in self.blocks.items():
            writers[name] += len(part.terms) * part.source.free_numel
        linear = {}
        for key, part in self.blocks.items():
            pooled = [
                math.prod(c.size for c in term.classes if not c.target_axes) for term in part.terms
            ]
            scale = (np.array(pooled, np.float64) * writers[key[1]]) ** -0.5
            draw = random.standard_normal((len(pooled), part.free_numel))
            linear[key] = (draw * scale[:, None]).reshape(-1)
        constant = {
            key: random.standard_normal(part.dimension)
            for key, part in self.constants.blocks.items()
        }
        return EquivariantMap(self, linear, constant)

    def slices(self, key: tuple[str, str]) -> tuple[slice, slice]:
        """Rows and columns of a block (from, to) in the matrix of the whole."""
        row, column = self.target.index(key[1]), self.source.index(key[0])
        starts = self.target.starts[row : row + 2], self.source.starts[column : column + 2]
        return slice(*starts[0]), slice(*starts[1])

    def _matrix(self, matrix: Any) -> Matrix:
        return as_matrix(matrix, self.target.numel, self.source.numel, "the weight space")


@dataclass(frozen=True)
class Coefficients:
    """A matrix on the named elements of a basis.

    Args:
        basis: the basis.
        values: per block (from, to) one coefficient per element, in order.
        residuals: per block, norm of what is outside the span, relative to the whole matrix.
    """

    basis: Basis
    values: dict[tuple[str, str], Matrix]
    residuals: dict[tuple[str, str], float]

    @property
    def residual(self) -> float:
        """Norm of the part outside the span, relative to the matrix: 0 for equivariant maps."""
        return float(np.sqrt(sum(r**2 for r in self.residuals.values())))

    def matrix(self) -> Matrix:
        """The projection."""
        return self.basis.matrix(self.values)

    def items(self) -> Iterator[tuple[Element, float]]:
        """Each element with its coefficient."""
        for key, part in self.basis.blocks.items():
            yield from zip(part.elements(), self.values[key].tolist(), strict=True)


@dataclass(frozen=True)
class EquivariantMap:
    """An affine map that commutes with relabelling, given by coefficients on named elements.

    Args:
        basis: the basis.
        linear: per block (from, to) one coefficient per element.
        constant: the same on the basis of constants.
    """

    basis: Basis
    linear: dict[tuple[str, str], Matrix]
    constant: dict[tuple[str, str], Matrix]

    def matrix(self) -> Matrix:
        """Linear part, ``[target.numel, source.numel]``."""
        return self.basis.matrix(self.linear)

    def bias(self) -> Matrix:
        """Constant part, ``[target.numel]``."""
        return self.basis.constants.matrix(self.constant)[:, 0]

    def apply(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Act on a dict of tensors ``[..., *shape]``, term by term, without the matrix."""
        result: dict[str, Tensor] = {}
        for basis, coefficients, given in (
            (self.basis, self.linear, values),
            (self.basis.constants, self.constant, {"constant": self._ones(values)}),
        ):
            for key, part in basis.blocks.items():
                for number, term in enumerate(part.terms):
                    weight = torch.as_tensor(part.weight(coefficients[key], number))
                    value = given[key[0]]
                    change = term.apply(given, weight.to(value))
                    name = term.target.name
                    result[name] = result[name] + change if name in result else change
        return result

    __call__ = apply

    def _ones(self, values: Mapping[str, Tensor]) -> Tensor:
        if not self.basis.source.tensors:
            raise ArchitectureError("a weight space without tensors has no map to apply.")
        first = self.basis.source.tensors[0]
        value = checked(first, values)
        return value.new_ones(value.shape[: value.dim() - len(first.axes)])


# -- by function call: each makes a basis and asks it ----------------------------------------------

_Space = Architecture | WeightSpace


def elements(
    source: _Space, target: _Space | None = None, *, permute_io: bool = False
) -> Iterator[Element]:
    """All basis elements, one at a time; see :meth:`Basis.elements`."""
    return Basis(source, target, permute_io=permute_io).elements()


def project(
    matrix: Any, source: _Space, target: _Space | None = None, *,
    block: tuple[str, str] | None = None, permute_io: bool = False,
) -> Matrix:  # fmt: skip
    """Nearest equivariant map; see :meth:`Basis.project`, and use that for several matrices."""
    return Basis(source, target, permute_io=permute_io).project(matrix, block)


def coefficients(
    matrix: Any, source: _Space, target: _Space | None = None, *,
    block: tuple[str, str] | None = None, permute_io: bool = False,
) -> Coefficients:  # fmt: skip
    """Coefficients on the named elements, with the residual; see :meth:`Basis.coefficients`."""
    return Basis(source, target, permute_io=permute_io).coefficients(matrix, block)


def sample(
    source: _Space, target: _Space | None = None, *, permute_io: bool = False, seed: int = 0
) -> EquivariantMap:
    """A random equivariant affine map; see :meth:`Basis.sample`."""
    return Basis(source, target, permute_io=permute_io).sample(seed)
