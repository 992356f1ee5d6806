"""All equivariant maps from one tensor to another: counts, elements, orbit labels, projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from nngraph.basis.terms import Term, axis_pairs, count_terms, terms
from nngraph.basis.weight_space import WeightTensor, checked
from nngraph.errors import ArchitectureError, NonFiniteError

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Element:
    """One basis element: a term at one pair of free coordinates.

    Args:
        term: which indices are pooled, kept and spread.
        target_free: free coordinates that are written, one per free axis of the target.
        source_free: free coordinates that are read.
    """

    term: Term
    target_free: tuple[int, ...]
    source_free: tuple[int, ...]

    @property
    def name(self) -> str:
        """Such as ``"0.weight[:, 1] -> 1.bias: pool over the output side, spread over ..."``."""
        return self.term.name_at(self.target_free, self.source_free)

    def sparse(self, distinct: bool = False) -> csr_array:
        """Matrix of zeros and ones, ``[target.numel, source.numel]``.

        Args:
            distinct: the indicator of the orbit instead of the plain element; see :class:`Term`.
        """
        rows, columns = self.term.entries(self.target_free, self.source_free, distinct)
        shape = (self.term.target.numel, self.term.source.numel)
        return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)

    def matrix(self, distinct: bool = False) -> Matrix:
        """The same, dense."""
        dense: Matrix = self.sparse(distinct).toarray()
        return dense

    def apply(self, values: Mapping[str, Tensor], distinct: bool = False) -> dict[str, Tensor]:
        """Act on a dict of tensors ``[..., *shape]``; gives the target alone, the rest being 0.

        No matrix is made: O(source + target) operations, times the number of coarser terms for an
        orbit indicator.
        """
        parts = list(self.term.coarser()) if distinct else [(1, self.term)]
        source = self.term.source
        lead = checked(source, values).dim() - len(source.axes)
        total: Tensor | float = 0.0
        for factor, term in parts:
            read = term.read(values, self.source_free)
            total = total + factor * term.write(read, lead, self.target_free)
        assert isinstance(total, Tensor)
        return {self.term.target.name: total}


class BasisBlock:
    """Basis of the equivariant linear maps from one tensor to another.

    Elements are numbered term by term, then by the target's and the source's free coordinates.
    """

    def __init__(self, target: WeightTensor, source: WeightTensor) -> None:
        self.target = target
        self.source = source

    def __repr__(self) -> str:
        return f"BasisBlock({self.source.name} -> {self.target.name}, {self.dimension})"

    @property
    def free_numel(self) -> int:
        """Elements per term."""
        return self.target.free_numel * self.source.free_numel

    @property
    def dimension(self) -> int:
        """Number of elements, in closed form."""
        return count_terms(self.target, self.source) * self.free_numel

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Terms; each stands for ``free_numel`` elements."""
        return tuple(terms(self.target, self.source))

    def elements(self) -> Iterator[Element]:
        """All elements in order, made one at a time."""
        for term in self.terms:
            for target_free in np.ndindex(*self.target.free_shape):
                for source_free in np.ndindex(*self.source.free_shape):
                    yield Element(term, target_free, source_free)

    def element(self, number: int) -> Element:
        """The element of this number."""
        shape = (len(self.terms), *self.target.free_shape, *self.source.free_shape)
        term, *free = (int(i) for i in np.unravel_index(number, shape))
        split = len(self.target.free_shape)
        return Element(self.terms[term], tuple(free[:split]), tuple(free[split:]))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Number of the element whose orbit each pair of coordinates lies in: ``[m, n]``."""
        shape = (*self.target.shape, *self.source.shape)
        pairs = axis_pairs(self.target, self.source)
        if len(pairs) > 62:
            raise ArchitectureError(
                f"{self!r} ties {len(pairs)} pairs of axes; projection handles at most 62."
            )

        def indices(axis: int) -> NDArray[np.int64]:
            return np.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - 1 - axis))

        codes = np.zeros(shape, np.int64)
        for bit, (a, b) in enumerate(pairs):
            codes |= (indices(a) == indices(b)).astype(np.int64) << bit
        known = np.array([term.code for term in self.terms], np.int64)
        order = np.argsort(known)
        labels = order[np.searchsorted(known[order], codes)]
        shift = len(self.target.axes)
        for axis in (*self.target.free_axes, *(shift + a for a in self.source.free_axes)):
            labels = labels * shape[axis] + indices(axis)
        return labels.reshape(self.target.numel, self.source.numel)

    @cached_property
    def orbit_sizes(self) -> NDArray[np.int64]:
        """Number of pairs in each orbit."""
        return np.bincount(self.labels.reshape(-1), minlength=self.dimension)

    @cached_property
    def zeta(self) -> Matrix:
        """``[T, T]``: plain term t is the sum of the orbit indicators of all u with zeta[u, t].

        Those are the coarser ones, u >= t; unitriangular, hence invertible, also when the
        partitions with more classes than a space has neurons are left out.
        """
        codes = [term.code for term in self.terms]
        return np.array([[float(t & u == t) for t in codes] for u in codes])

    def orbit_means(self, matrix: Matrix) -> Matrix:
        """Mean over each orbit: the coefficients of the projection on orbit indicators."""
        sums = np.bincount(
            self.labels.reshape(-1), weights=matrix.reshape(-1), minlength=self.dimension
        )
        return np.asarray(sums / self.orbit_sizes)

    def project(self, matrix: Matrix) -> Matrix:
        """Average over the group, exactly: each entry becomes the mean over its orbit."""
        return self.orbit_means(matrix)[self.labels]

    def to_plain(self, orbits: Matrix) -> Matrix:
        """Coefficients on the plain elements from those on orbit indicators."""
        table = orbits.reshape(len(self.terms), self.free_numel)
        return np.asarray(np.linalg.solve(self.zeta, table), np.float64).reshape(-1)

    def to_orbits(self, plain: Matrix) -> Matrix:
        """Coefficients on orbit indicators from those on the plain elements."""
        table: Matrix = self.zeta @ plain.reshape(len(self.terms), self.free_numel)
        return table.reshape(-1)

    def weight(self, plain: Any, term: int) -> Any:
        """Coefficients ``[c(target), c(source)]`` of one term in a vector of plain ones."""
        part = plain[term * self.free_numel : (term + 1) * self.free_numel]
        return part.reshape(self.target.free_numel, self.source.free_numel)


def as_matrix(values: Any, rows: int, columns: int, what: str) -> Matrix:
    """A float64 array of this shape, from an array or a tensor."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (rows, columns):
        raise ArchitectureError(
            f"a matrix has shape {matrix.shape}; {what} has {rows} x {columns} entries."
        )
    if not np.isfinite(matrix).all():
        raise NonFiniteError(f"a matrix on {what} has entries that are not finite.")
    return matrix
