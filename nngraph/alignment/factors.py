r"""Soft relabellings: matrices in place of permutations, on entries that factors count.

A soft relabelling has a matrix :math:`P_s` for each space that it moves, rows the new places and
columns the old neurons, ``[d, d]``, or ``[copies, d, d]`` for a space within others, by the new
places of these. Entries :math:`i = (i_1, i_2, \dots)` with factors :math:`f` become

.. math:: y_i = \sum_j \prod_f P_f^{(i)}[i_f, j_f] \; x_j,

where :math:`P_f^{(i)}` is the matrix of the copy that the new place i is in. With permutation
matrices this is the permutation of the entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nngraph.alignment.terms import PairTerm


def soft_entries(term: PairTerm, matrices: Mapping[str, Tensor]) -> Tensor:
    """Return the entries of B of a term after a soft relabelling."""
    value, count = term.b, term.b.dim()
    # Outer spaces first: the matrices of inner ones go by the new places of these.
    for d in sorted(range(count), key=lambda d: len(term.within[d])):
        space = term.factors[d].space
        if space is not None and space in matrices:
            outer = term.within[d]
            matrix = matrices[space]
            if outer:
                matrix = matrix.reshape([*(value.shape[o] for o in outer), *matrix.shape[-2:]])
            old = [count if i == d else i for i in range(count)]
            value = torch.einsum(matrix, [*outer, d, count], value, old, [*range(count)])
    return value


def soft_inner_product(terms: Sequence[PairTerm], matrices: Mapping[str, Tensor]) -> Tensor:
    r""":math:`\langle A, P B \rangle` over terms; differentiable in the matrices."""
    return torch.stack([(term.a * soft_entries(term, matrices)).sum() for term in terms]).sum()
