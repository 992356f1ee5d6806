r"""Scales of least norm: a convex function of their logarithms.

With entries of squares :math:`a_e`, each multiplied by powers :math:`p_{es}` of scales
:math:`e^{z_s}`, the squared norm is :math:`f(z) = \sum_e a_e \exp(2 \sum_s p_{es} z_s)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, diags, hstack, identity
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

#: Steps of Newton's method, of which a dozen are common, and where it ends.
_MAX_STEPS, _SETTLED = 60, 1e-13


class Powers:
    """The squares of entries, and by which powers of which scales entries are multiplied.

    Args:
        size: number of scales.
    """

    def __init__(self, size: int) -> None:
        self.size, self._count = size, 0
        self._squares: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._powers: list[Tensor] = []

    def add(self, tensor: Tensor, columns: Sequence[tuple[Tensor, Tensor, int]]) -> None:
        """Add a tensor.

        Args:
            tensor: real numbers.
            columns: number of the scale at each entry, whether there is one, and its power; each
                broadcastable to the tensor. Entries of the same scales are taken together.
        """
        alike = [
            axis for axis in range(tensor.dim())
            if tensor.shape[axis] > 1 and all(index.shape[axis] == 1 for index, _, _ in columns)
        ]
        squares = tensor.square()
        squares = squares.sum(alike, keepdim=True) if alike else squares
        rows = self._count + torch.arange(squares.numel()).reshape(squares.shape)
        for index, seen, power in columns:
            there = (seen.expand_as(squares) & (squares > 0)).reshape(-1)
            self._rows.append(rows.reshape(-1)[there])
            self._columns.append(index.expand_as(squares).reshape(-1)[there])
            self._powers.append(torch.full((int(there.sum()),), float(power)))
        self._squares.append(squares.reshape(-1))
        self._count += squares.numel()

    def matrix(self) -> tuple[Any, Any]:
        """Return ``[entries, scales]`` powers, and squares, of entries that scales move."""
        rows, columns, powers = map(torch.cat, (self._rows, self._columns, self._powers))
        size = (self._count, self.size)
        found = csr_matrix(coo_matrix((powers.numpy(), (rows.numpy(), columns.numpy())), size))
        found.eliminate_zeros()
        moved = found.getnnz(axis=1) > 0
        return found[moved], torch.cat(self._squares).numpy()[moved]


def least_scales(powers: Powers) -> Tensor:
    """Return the logarithms of the scales of least norm, 0 of those that move nothing.

    Where the norm has no least, as with neurons that nothing leads to or from, entries that can
    vanish on the way are left out.
    """
    matrix, squares = powers.matrix()
    found = _newton(matrix, squares)
    if found is None:
        kept = _not_vanishing(matrix)
        found = _newton(matrix[kept], squares[kept])
    return torch.zeros(powers.size, dtype=torch.float64) if found is None else torch.tensor(found)


def _newton(matrix: Any, squares: Any) -> Any:
    """Minimise by damped steps, for which the function is self-concordant; None without an end."""
    logarithms = np.zeros(matrix.shape[1])
    if not matrix.shape[0]:
        return logarithms
    magnitude, turned = abs(matrix).T.tocsr(), matrix.T.tocsr()
    offset = np.log(squares)
    for _ in range(_MAX_STEPS):
        exponents = offset + 2 * (matrix @ logarithms)
        weights = np.exp(exponents - exponents.max())
        gradient, total = turned @ weights, magnitude @ weights
        touched = total > 0
        if np.all(np.abs(gradient[touched]) <= _SETTLED * total[touched]):
            return logarithms
        step = _solved(matrix, turned, weights, -gradient)
        largest = 2 * np.abs(matrix @ step).max()
        logarithms += step * (np.log1p(largest) / largest if largest else 1.0)
    return None


def _solved(matrix: Any, turned: Any, weights: Any, wanted: Any) -> Any:
    """Solve with twice the matrix's Gram matrix, also where scales together move nothing."""
    hessian = (2 * turned @ diags(weights) @ matrix).tocsr()
    diagonal = hessian.diagonal()
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    if len(wanted) <= 1000:
        dense = scale[:, None] * hessian.toarray() * scale
        return scale * np.linalg.lstsq(dense, scale * wanted, rcond=1e-12)[0]
    operator = LinearOperator(hessian.shape, lambda x: scale * (hessian @ (scale * x)))
    return scale * cg(operator, scale * wanted, rtol=1e-13, maxiter=2000)[0]


def _not_vanishing(matrix: Any) -> Any:
    """Return which entries no scales make vanish while they make none grow.

    The largest sum of t in [0, 1] with :math:`P d + t \\le 0` has t = 1 at all others.
    """
    rows, columns = matrix.shape
    bound = hstack([matrix, identity(rows)]).tocsr()
    cost = np.concatenate([np.zeros(columns), -np.ones(rows)])
    ranges = [(None, None)] * columns + [(0, 1)] * rows
    solved = linprog(cost, bound, np.zeros(rows), bounds=ranges, method="highs")
    return solved.x[columns:] < 0.5
