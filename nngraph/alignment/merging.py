r"""Merging state dicts: neurons matched, then tensors added up.

A merged tensor is :math:`\sum_k w_k \, g_k \theta_k` with the relabelling :math:`g_k` that brings
network k to the first. With weights that sum to 1 that is an average; with a base
:math:`\theta_0` first, and weights :math:`(1 - \sum_k \lambda_k, \lambda_1, \dots)`, it is
:math:`\theta_0 + \sum_k \lambda_k (g_k \theta_k - \theta_0)`, the arithmetic of task vectors
(Ilharco et al., "Editing models with task arithmetic", ICLR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from nngraph.alignment.states import (
    StateAlignment,
    TensorSymmetry,
    chunks,
    match_states,
)
from nngraph.errors import InvalidGraphError

#: Rounds over the networks in which each is matched to the average of the others; few change more.
_MAX_ROUNDS = 10

State = Mapping[str, Tensor]


def match_all(
    spec: TensorSymmetry, states: Sequence[State], *, starts: int = 3,
    generator: torch.Generator | int = 0,
) -> list[StateAlignment]:  # fmt: skip
    r"""Match networks to the first of them; several so that all fit one another.

    Each is matched to the first. Of more than two, each but the first is then matched again to the
    average of all others as they stand, in rounds, until none moves: that raises
    :math:`\sum_{k < l} \langle g_k \theta_k, g_l \theta_l \rangle`, and a relabelling from one to
    another by way of a third is the direct one.

    Args:
        states: tensors by their names in the spec.
        starts, generator: as of :func:`match_states`.

    Returns:
        One alignment for each; that of the first moves nothing.

    Raises:
        InvalidGraphError, NonFiniteError: as :func:`match_states` does.
    """
    first, *others = states
    found = [StateAlignment(spec, spec.permutations.identity())]
    found += [match_states(spec, first, s, starts=starts, generator=generator) for s in others]
    for _ in range(_MAX_ROUNDS if len(others) > 1 else 0):
        moved = False
        for place in range(1, len(states)):
            rest = [i for i in range(len(states)) if i != place]
            mean = {
                name: combined(
                    [found[i].apply_to(name, states[i][name]) for i in rest],
                    [1 / len(rest)] * len(rest), torch.promote_types(value.dtype, torch.float32),
                ) if value.is_floating_point() else value
                for name, value in first.items()
            }  # fmt: skip
            before = found[place].relabelling
            found[place] = match_states(
                spec, mean, states[place], starts=2, generator=generator, start=before
            )
            after = found[place].relabelling
            moved |= any(not torch.equal(index, before[s]) for s, index in after.items())
        if not moved:
            break
    return found


def combined(
    tensors: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype | None = None
) -> Tensor:
    """Return the weighted sum of tensors of one shape, in float64, rounded once.

    Args:
        dtype: of the result; that of the first by default.
    """
    out = torch.empty(tensors[0].shape, dtype=tensors[0].dtype if dtype is None else dtype)
    flat = out.view(-1)
    start = 0
    for parts in chunks(*tensors):
        total = sum(w * part.double() for w, part in zip(weights, parts, strict=True))
        assert isinstance(total, Tensor)
        flat[start : start + len(parts[0])] = total
        start += len(parts[0])
    return out


@dataclass(frozen=True)
class Merged:
    """Networks merged, each tensor when it is asked for.

    Attributes:
        states: the networks, tensors by their names in the spec.
        alignments: how each stands for the first.
        weights: of each.
        only: patterns of the names that are merged; the rest is that of the first.
    """

    states: tuple[State, ...]
    alignments: tuple[StateAlignment, ...]
    weights: tuple[float, ...]
    only: tuple[str, ...] = ("*",)

    def merges(self, name: str) -> bool:
        """Whether a tensor is merged, and not that of the first network."""
        chosen = any(fnmatchcase(name, pattern) for pattern in self.only)
        return chosen and self.states[0][name].is_floating_point()

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the merged network, in the dtype of the first."""
        values = [state[name] for state in self.states]
        if not self.merges(name):
            return values[0]
        moved = [
            alignment.apply_to(name, value)
            for alignment, value in zip(self.alignments, values, strict=True)
        ]
        return combined(moved, self.weights)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors."""
        return {name: self.tensor(name) for name in self.states[0]}


def merge_states(
    spec: TensorSymmetry, states: Sequence[State], weights: Sequence[float] | None = None, *,
    base: State | None = None, only: Sequence[str] = ("*",), starts: int = 3,
    generator: torch.Generator | int = 0,
) -> Merged:  # fmt: skip
    """Match networks and add them up.

    Args:
        spec: of all of them.
        states: tensors by their names in the spec.
        weights: of each network: without a base shares, which are divided by their sum, equal by
            default; with a base the factors of the differences from it, 1 / n by default.
        base: what the networks were made from. They are matched to it, and their differences from
            it are added to it.
        only: patterns such as ``"layer3.*"`` of the names that are merged. The rest is that of the
            first network, or of the base.
        starts, generator: as of :func:`match_states`.

    Raises:
        InvalidGraphError: if there are fewer networks than two, or than one with a base; if they
            differ in their tensors; if the weights do not fit; or if a pattern fits no name.
        NonFiniteError: if an entry is NaN or infinite.
    """
    least = 2 if base is None else 1
    if len(states) < least:
        raise InvalidGraphError(
            f"{len(states)} networks to merge; expected at least {least}, each a state dict."
        )
    given = [1 / len(states)] * len(states) if weights is None else [*map(float, weights)]
    total = sum(given) if base is None else 1.0
    if len(given) != len(states) or not all(map(math.isfinite, given)) or not total:
        raise InvalidGraphError(
            f"the weights are {given} for {len(states)} networks; expected one finite number for "
            "each, of a sum other than 0."
        )
    shares = [weight / total for weight in given]
    if base is not None:
        states, shares = [base, *states], [1 - sum(shares), *shares]
    for state in states[1:]:
        if odd := [*(set(states[0]) ^ set(state))]:
            raise InvalidGraphError(
                f"tensor {min(odd)!r} is not in all of the networks; expected the same tensors."
            )
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in states[0]):
            raise InvalidGraphError(
                f"no tensor has a name like {pattern!r}; expected patterns of "
                f"{', '.join([*states[0]][:4])}, ..."
            )
    alignments = match_all(spec, states, starts=starts, generator=generator)
    return Merged(tuple(states), tuple(alignments), tuple(shares), tuple(only))
