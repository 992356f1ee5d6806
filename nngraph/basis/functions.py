"""The basis by function call; each makes a :class:`Basis` and asks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nngraph.basis.basis import Basis, Coefficients, EquivariantMap
from nngraph.basis.block import Element, Matrix
from nngraph.basis.weight_space import WeightSpace
from nngraph.graph import Architecture

Space = Architecture | WeightSpace


def elements(
    source: Space, target: Space | None = None, *, permute_io: bool = False
) -> Iterator[Element]:
    """All basis elements, one at a time; see :meth:`Basis.elements`."""
    return Basis(source, target, permute_io=permute_io).elements()


def project(
    matrix: Any,
    source: Space,
    target: Space | None = None,
    *,
    block: tuple[str, str] | None = None,
    permute_io: bool = False,
) -> Matrix:
    """Nearest equivariant map; see :meth:`Basis.project`, and use that for several matrices."""
    return Basis(source, target, permute_io=permute_io).project(matrix, block)


def coefficients(
    matrix: Any,
    source: Space,
    target: Space | None = None,
    *,
    block: tuple[str, str] | None = None,
    permute_io: bool = False,
) -> Coefficients:
    """Coefficients on the named elements, with the residual; see :meth:`Basis.coefficients`."""
    return Basis(source, target, permute_io=permute_io).coefficients(matrix, block)


def sample(
    source: Space, target: Space | None = None, *, permute_io: bool = False, seed: int = 0
) -> EquivariantMap:
    """A random equivariant affine map; see :meth:`Basis.sample`."""
    return Basis(source, target, permute_io=permute_io).sample(seed)
