r"""Matching on state dicts: tensor by tensor, as a spec says what their axes count.

No edges are made, and no tensor is copied whole: terms are views of the tensors, which may be
mapped into memory, and their entries are moved, converted and multiplied in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from nngraph.alignment.descent import descend
from nngraph.alignment.gains import likeness
from nngraph.alignment.terms import PairTerm, pair_term
from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph import Indices, Permutations, TensorPiece

#: Entries of tensors that are summed at once.
_CHUNK = 2**22


class TensorSymmetry(Protocol):
    """What relabelling does to a state dict, as :class:`converters.symmetry.PermutationSpec`."""

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the tensors that are no parameters: they move, and do not count."""

    @property
    def first_names(self) -> Mapping[str, str]:
        """The name that counts, by each other name of a tied tensor."""

    @property
    def permutations(self) -> Permutations:
        """The group of permutations of its spaces."""

    def pieces(self, name: str) -> tuple[TensorPiece, ...]:
        """Return a tensor as parts that products of factors count."""

    def permute(self, state: Mapping[str, Tensor], relabelling: Indices) -> dict[str, Tensor]:
        """Return tensors relabelled."""


@dataclass(frozen=True)
class StateAlignment:
    """How the neurons of a second state dict stand for those of a first.

    Attributes:
        spec: of both.
        relabelling: of the second: neuron i of the first is its neuron ``index[i]``.
        history: the inner product that was maximised, at the start and after each step.
        likeness: space -> mean cosine of what matched neurons carry, 1 for equal ones.
    """

    spec: TensorSymmetry
    relabelling: Indices
    history: tuple[float, ...] = ()
    likeness: Mapping[str, float] = field(default_factory=dict)

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the second state dict, or some of it, with its neurons in the order of the first.

        Names are those of the spec.
        """
        return self.spec.permute(state, self.relabelling)

    def apply_to(self, name: str, tensor: Tensor) -> Tensor:
        """Return one tensor with its neurons in the order of the first."""
        return self.spec.permute({name: tensor}, self.relabelling)[name]


def match_states(
    spec: TensorSymmetry, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, starts: int = 3,
    generator: torch.Generator | int = 0, start: Indices | None = None,
) -> StateAlignment:  # fmt: skip
    r"""Find the relabelling of a state dict b whose tensors are closest to those of a.

    .. math:: \max_g \langle A, g B \rangle

    over all tensors that both have, of floating point, buffers left out. Sums are taken in float32,
    in float64 for tensors of float64; those that decide whether a step is taken in float64.

    Args:
        spec: what each axis counts, as :func:`converters.permutation_spec` derives it.
        a, b: tensors by their names in the spec; a tied tensor counts once, under all its names.
        starts: as of :func:`match_weights`.
        generator: source of randomness, or a seed.
        start: what the second start begins from, in place of b as it is.

    Raises:
        InvalidGraphError: if a tensor has other shapes in the two.
        NonFiniteError: if an entry is NaN or infinite.
    """
    terms = state_terms(spec, a, b)
    found = descend(spec.permutations, terms, (), starts, generator, start)
    group, placed = spec.permutations, found.placed
    like = {space: likeness(terms, space, placed) for space in group.shapes}
    return StateAlignment(spec, placed.indices, found.history, like)


def state_terms(
    spec: TensorSymmetry, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> list[PairTerm]:
    """Return the terms of what two state dicts have in common, and relabelling moves."""
    spaces, free, terms = spec.permutations.spaces, spec.permutations.shapes, []
    for name, first in a.items():
        second = b.get(name)
        if second is None or not _counts(spec, a, name):
            continue
        if first.shape != second.shape:
            raise InvalidGraphError(
                f"tensor {name!r} has shape {tuple(first.shape)} in the first network and "
                f"{tuple(second.shape)} in the second; expected one architecture."
            )
        for which, value in (("first", first), ("second", second)):
            if not all(bool(torch.isfinite(part).all()) for (part,) in chunks(value)):
                raise NonFiniteError(
                    f"tensor {name!r} of the {which} network has entries that are NaN or infinite, "
                    "which nothing is close to; expected finite numbers."
                )
        for piece in spec.pieces(name):
            if any(factor.space in free for factor in piece.factors):
                views = (piece.view(value.detach()) for value in (first, second))
                terms.append(pair_term(spaces, piece.factors, piece.axes, *views))
    return terms


def _counts(spec: TensorSymmetry, state: Mapping[str, Tensor], name: str) -> bool:
    """Whether a tensor is a parameter that has not been counted under another name."""
    own = spec.first_names.get(name, name)
    twice = own != name and own in state
    return not twice and own not in spec.buffers and state[name].is_floating_point()


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the entries of tensors of one shape part by part: for each part those of each."""
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), _CHUNK):
        yield tuple(each[start : start + _CHUNK] for each in flat)


@dataclass(frozen=True)
class Products:
    r"""Sums over two tensors, or over all tensors of two networks.

    Attributes:
        first, second, both: :math:`\|A\|^2`, :math:`\|B\|^2` and :math:`\langle A, B \rangle`.
        apart: :math:`\|A - B\|^2`.
    """

    first: float = 0.0
    second: float = 0.0
    both: float = 0.0
    apart: float = 0.0

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Products:
        """Return those of two tensors of one shape, summed in float64."""
        total = cls()
        for pair in chunks(a, b):
            x, y = (part.double() for part in pair)
            total += cls(*(float(u.dot(v)) for u, v in ((x, x), (y, y), (x, y), (x - y, x - y))))
        return total

    def __add__(self, other: Products) -> Products:
        return Products(*map(float.__add__, astuple(self), astuple(other)))

    @property
    def distance(self) -> float:
        r""":math:`\|A - B\| / \|A\|`, or :math:`\|B\|` if A is 0."""
        return math.sqrt(self.apart / self.first if self.first else self.apart)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 if both are 0, and 0 if one is."""
        scale = math.sqrt(self.first * self.second)
        return self.both / scale if scale else float(self.first == self.second)


def states_apart(
    spec: TensorSymmetry, a: Mapping[str, Tensor], b: Mapping[str, Tensor],
    relabelling: Indices | None = None,
) -> Products:  # fmt: skip
    """Return the sums over all parameters of two state dicts, the second relabelled if asked to."""
    total = Products()
    for name, first in a.items():
        if name in b and _counts(spec, a, name):
            second = b[name]
            if relabelling is not None:
                second = spec.permute({name: second}, relabelling)[name]
            total += Products.of(first, second)
    return total
