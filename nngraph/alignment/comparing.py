r"""Comparing state dicts: are two networks one function, one made from the other, or mixtures.

After matching, what is left between two networks is told tensor by tensor. A network is a mixture
of others, matched to it, if :math:`\theta \approx \sum_k c_k \, g_k \theta_k` with the coefficients
of least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nngraph.alignment.merging import State, combined
from nngraph.alignment.states import (
    Products,
    StateAlignment,
    TensorSymmetry,
    chunks,
    match_states,
)
from nngraph.errors import InvalidGraphError

#: What two networks are to each other: equal bit by bit; equal bit by bit once relabelled; equal
#: up to rounding; one made from the other (or both from a third); none of these.
Relation = Literal["equal", "relabelled", "rounded", "related", "unrelated"]
#: Cosine of the parameters of matched networks from which they count as related: what is left of
#: it after merging with as much of another network. A judgement, not a proof.
RELATED = 0.7
#: Rounds of matching parts to what the others leave, and what a round must take off the rest.
_MAX_ROUNDS, _LEAST_GAIN = 10, 1e-3
#: Entries from which a matrix that is the same in both is no accident.
_MATRIX = 64


@dataclass(frozen=True)
class TensorDifference:
    """What is left between two tensors of matched networks.

    Attributes:
        name: in the spec.
        equal: whether they are the same bit by bit.
        products: sums over both; none for tensors that are no floating-point numbers.
    """

    name: str
    equal: bool
    products: Products | None


@dataclass(frozen=True)
class StateComparison:
    """Two networks, the second with its neurons in the order of the first.

    Attributes:
        alignment: of the second.
        tensors: every tensor that both have.
        tolerance: relative distance of tensors that counts as rounding.
        counted: the sums over all parameters; buffers do not count.
        shared: weights of 64 entries or more that are the same in both.
    """

    alignment: StateAlignment
    tensors: tuple[TensorDifference, ...]
    tolerance: float
    counted: Products
    shared: tuple[str, ...]

    @property
    def moved(self) -> bool:
        """Whether any neuron stands elsewhere."""
        return any(
            not torch.equal(index, torch.arange(index.shape[-1]).expand_as(index))
            for index in self.alignment.relabelling.values()
        )

    @property
    def relation(self) -> Relation:
        """What the two networks are to each other."""
        if all(tensor.equal for tensor in self.tensors):
            return "relabelled" if self.moved else "equal"
        if all(t.products is None or t.products.distance <= self.tolerance for t in self.tensors):
            return "rounded"
        return "related" if self.shared or self.counted.cosine >= RELATED else "unrelated"

    @property
    def same_function(self) -> bool:
        """Whether both compute the same, up to rounding."""
        return self.relation in ("equal", "relabelled", "rounded")

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return {
            "relation": self.relation, "same_function": self.same_function,
            "cosine": self.counted.cosine, "distance": self.counted.distance,
            "likeness": dict(self.alignment.likeness), "shared": list(self.shared),
            "tensors": [
                {
                    "name": t.name, "equal": t.equal,
                    "distance": None if t.products is None else t.products.distance,
                    "cosine": None if t.products is None else t.products.cosine,
                }
                for t in self.tensors
            ],
        }  # fmt: skip


def compare_states(
    spec: TensorSymmetry, a: State, b: State, *, tolerance: float | None = None, starts: int = 3,
    generator: torch.Generator | int = 0,
) -> StateComparison:  # fmt: skip
    """Match a network b to a network a, and tell what is left between them.

    Args:
        spec: of both.
        a, b: tensors by their names in the spec.
        tolerance: relative distance of a tensor that counts as rounding; by default the unit
            roundoff of the coarser of the dtypes of the two, the coarsest of all tensors.
        starts, generator: as of :func:`match_states`.

    Raises:
        InvalidGraphError, NonFiniteError: as :func:`match_states` does.
    """
    alignment = match_states(spec, a, b, starts=starts, generator=generator)
    tensors, counted, shared = [], Products(), []
    for name, first in a.items():
        if name not in b:
            continue
        second = alignment.apply_to(name, b[name])
        equal = first.dtype == second.dtype and torch.equal(first, second)
        products = Products.of(first, second) if first.is_floating_point() else None
        if products is not None and name not in spec.buffers:
            counted += products
            if equal and first.dim() > 1 and first.numel() >= _MATRIX and bool(first.any()):
                shared.append(name)
        tensors.append(TensorDifference(name, equal, products))
    if tolerance is None:
        floats = [v.dtype for s in (a, b) for v in s.values() if v.is_floating_point()]
        tolerance = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    return StateComparison(alignment, tuple(tensors), tolerance, counted, tuple(shared))


@dataclass(frozen=True)
class Mixture:
    """A network as a sum of others.

    Attributes:
        coefficients: one for each of the others, of least squares.
        residual: norm of what they leave, relative to the network's.
        alignments: how each of the others stands for the network.
    """

    coefficients: tuple[float, ...]
    residual: float
    alignments: tuple[StateAlignment, ...]


def mixture_of(
    spec: TensorSymmetry, state: State, parts: Sequence[State], *, starts: int = 3,
    generator: torch.Generator | int = 0,
) -> Mixture:  # fmt: skip
    """Return a network as a sum of others, relabelled so that little is left of it.

    Each is matched to the network, and then in rounds to what the others leave of it. Parameters
    count, buffers do not.

    Args:
        spec: of all of them.
        state, parts: tensors by their names in the spec.
        starts, generator: as of :func:`match_states`.

    Raises:
        InvalidGraphError: if there are no parts, or they differ in their tensors.
        NonFiniteError: if an entry is NaN or infinite.
    """
    if not parts:
        raise InvalidGraphError("there are no networks to mix; expected at least one.")
    names = [n for n, v in state.items() if v.is_floating_point() and n not in spec.buffers]
    for part in parts:
        if lacking := [name for name in names if name not in part]:
            raise InvalidGraphError(
                f"tensor {lacking[0]!r} is not in all of the networks; expected the same tensors."
            )
    alignments = [
        match_states(spec, state, part, starts=starts, generator=generator) for part in parts
    ]
    best = _fitted(spec, state, parts, alignments, names)
    for _ in range(_MAX_ROUNDS if len(parts) > 1 else 0):
        # Each is matched again to what the others leave of the network.
        for place, part in enumerate(parts):
            rest = [i for i in range(len(parts)) if i != place]
            shares = [1.0, *(-best.coefficients[i] for i in rest)]
            left = {
                n: combined(
                    [state[n], *(alignments[i].apply_to(n, parts[i][n]) for i in rest)], shares,
                    torch.promote_types(state[n].dtype, torch.float32),
                )
                for n in names
            }
            before = alignments[place].relabelling
            alignments[place] = match_states(
                spec, left, part, starts=2, generator=generator, start=before
            )
        found = _fitted(spec, state, parts, alignments, names)
        if found.residual >= best.residual * (1 - _LEAST_GAIN):
            break
        best = found
    return best


def _fitted(
    spec: TensorSymmetry, state: State, parts: Sequence[State],
    alignments: Sequence[StateAlignment], names: Sequence[str],
) -> Mixture:  # fmt: skip
    """Return the mixture of parts as they stand, with the coefficients of least squares."""
    def moved(name: str) -> list[Tensor]:
        return [g.apply_to(name, p[name]) for g, p in zip(alignments, parts, strict=True)]

    gram = torch.zeros(len(parts) + 1, len(parts) + 1, dtype=torch.float64)
    for name in names:
        for pieces in chunks(state[name], *moved(name)):
            rows = torch.stack([piece.double() for piece in pieces])
            gram += rows @ rows.T
    # Parts that are alike share what is theirs: the solution of least norm.
    found = torch.linalg.lstsq(gram[1:, 1:], gram[1:, :1], driver="gelsd").solution[:, 0]
    coefficients = found.tolist()
    left = sum(
        Products.of(state[n], combined(moved(n), coefficients, torch.float64)).apart for n in names
    )
    size = float(gram[0, 0])
    residual = math.sqrt(left / size) if size else math.sqrt(left)
    return Mixture(tuple(coefficients), residual, tuple(alignments))
