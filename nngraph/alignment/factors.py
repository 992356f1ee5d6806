r"""Soft relabellings: matrices in place of permutations, on neurons that are products of factors.

A soft relabelling has a matrix :math:`P_s` for each space that it moves, rows the new places and
columns the old neurons, ``[d, d]``, or ``[copies, d, d]`` for a space within others, by the new
places of these. A group of neurons :math:`i = (i_1, i_2, \dots)` with factors :math:`f` has

.. math:: M[i, j] = \prod_f P_f^{(i)}[i_f, j_f],

where :math:`P_f^{(i)}` is the matrix of the copy that the new place i is in. With permutation
matrices this is the permutation of the group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nngraph.alignment.terms import PairTerm
from nngraph.graph import Architecture, Factor


def split_factors(factors: Sequence[Factor], count: int) -> tuple[list[Factor], list[Factor]]:
    """Split the factors of a group into the outermost ones, which count ``count``, and the rest."""
    outer, rest = [], list(factors)
    while count > 1:
        factor = rest.pop(0)
        if factor.size > count:  # a fixed one, of which the parts are the first places
            outer.append(Factor(count))
            rest.insert(0, Factor(factor.size // count))
            break
        outer.append(factor)
        count //= factor.size
    return outer, rest


def end_matrices(
    architecture: Architecture, group: int, parts: int, matrices: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Return what a soft relabelling does at one end of a term; ``None`` where nothing moves.

    To its parts ``[parts, parts]``, and to the neurons of each, by its new place ``[parts, n, n]``.
    """
    outer, rest = split_factors(architecture.groups[group].factors, parts)
    own = _matrix(architecture, [*outer, *rest], rest, matrices)
    size = math.prod(factor.size for factor in rest)
    return (
        _matrix(architecture, outer, outer, matrices),
        None if own is None else own.view(-1, size, size),
    )


def _matrix(
    architecture: Architecture,
    factors: Sequence[Factor],
    moving: Sequence[Factor],
    matrices: Mapping[str, Tensor],
) -> Tensor | None:
    """Return M of the innermost factors ``moving``: ``[n, n_moving]``, rows by all factors."""
    if not any(factor.space in matrices for factor in moving):
        return None
    sizes = [factor.size for factor in factors]
    places = torch.unravel_index(torch.arange(math.prod(sizes)), sizes)
    spaces = architecture.all_spaces
    own = [factor.space for factor in factors]
    total: Tensor | None = None
    for factor, place in list(zip(factors, places, strict=True))[len(factors) - len(moving) :]:
        if factor.space is not None and factor.space in matrices:
            matrix, within = matrices[factor.space], spaces[factor.space].within
            copy = torch.zeros_like(place)
            for outer in within:
                copy = copy * spaces[outer].size + places[own.index(outer)]
            rows = matrix[copy, place] if within else matrix[place]
        else:
            like = next(iter(matrices.values()))
            rows = torch.eye(factor.size, dtype=like.dtype, device=like.device)[place]
        total = rows if total is None else (total.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)
    return total


def soft_entries(
    architecture: Architecture,
    entries: Tensor,
    target: int,
    source: int | None,
    matrices: Mapping[str, Tensor],
) -> Tensor:
    """Return entries ``[parts, rows, columns, features]`` after a soft relabelling.

    The parts stand at both ends and are moved once.
    """
    parts = entries.shape[0]
    outer, rows = end_matrices(architecture, target, parts, matrices)
    columns = None
    if source is not None:
        _, columns = end_matrices(architecture, source, parts, matrices)
    if outer is not None:
        entries = torch.einsum("pq,qrcf->prcf", outer, entries)
    if rows is not None:
        entries = torch.einsum("prs,pscf->prcf", rows, entries)
    if columns is not None:
        entries = torch.einsum("pcd,prdf->prcf", columns, entries)
    return entries


def soft_inner_product(
    architecture: Architecture, terms: Sequence[PairTerm], matrices: Mapping[str, Tensor]
) -> Tensor:
    r""":math:`\langle A, P B \rangle` over terms; differentiable in the matrices."""
    products = [
        (term.a * soft_entries(architecture, term.b, term.target, term.source, matrices)).sum()
        for term in terms
    ]
    return torch.stack(products).sum()
