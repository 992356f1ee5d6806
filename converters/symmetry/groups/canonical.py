r"""One network of all that have its function by the whole symmetry, relabelling left aside.

Of the orbit of a network under scales and matrices, the one of least norm is taken, which weight
decay leads to: it is there and is unique up to rotations and signs where no neuron is dead
(Kempf and Ness). For a scale that is the balanced neuron,
:math:`\|w_{in}\|^2 + b^2 = \|w_{out}\|^2`; for a product of low rank :math:`B A = U S V^T` it is
:math:`B = U S^{1/2}, A = S^{1/2} V^T`. Rotations come into the basis of singular vectors, signs
make the sum of third powers of what belongs to a neuron positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from converters.symmetry.groups.acting import columns_along, neurons_along
from converters.symmetry.groups.least_norm import Powers, least_scales
from converters.symmetry.groups.networks import change_network
from converters.symmetry.groups.spec import NeuronMaps, Power, SymmetrySpec, multiply
from nngraph.graph import NeuralGraph, NeuralGraphStack

_Network = TypeVar("_Network", dict[str, Tensor], NeuralGraph, NeuralGraphStack)

#: Sweeps over scales and matrices, which have to agree; two are enough where none are shared.
_MAX_SWEEPS = 500
#: Relative change below which a sweep is the last, and singular values that count as 0.
_SETTLED, _SINGULAR = 1e-12, 1e-13


def canonicalise(network: _Network, spec: SymmetrySpec) -> _Network:
    r"""Return the network of the same function with canonical scales, signs and linear maps.

    Networks that differ by an element of the symmetry have one canonical form up to rounding, and
    relabelling commutes with it, where a network is generic: no dead neuron, no products of lower
    rank than they could have, no singular value twice. Neurons of spaces that matrices mix come
    into the order of their singular values. What is not generic keeps its function, too, but what
    is dead keeps its scale, and a sign that nothing tells stays.

    Args:
        network: tensors by name, a graph, or a stack; it is computed in float64.
        spec: what :func:`~converters.symmetry_spec` derived of its module.

    Example:
        >>> one = canonicalise(module.state_dict(), spec)
        >>> other = canonicalise(spec.act(module.state_dict(), spec.sample(0)), spec)  # the same
    """
    return change_network(network, [lambda state: _Canonical(spec, state).result()])  # type: ignore[return-value]


class _Canonical:
    """The tensors of a network in float64, on their way."""

    def __init__(self, spec: SymmetrySpec, state: Mapping[str, Tensor]) -> None:
        self.spec, self.given = spec.permutations, state
        self.state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
        kinds = {maps.kind: list[NeuronMaps]() for maps in spec.generators}
        for maps in spec.generators:
            # A graph has no tensors that nothing depends on.
            there = tuple(p for p in maps.powers if self._has(p.name))
            kinds[maps.kind].append(replace(maps, powers=there))
        self.scales, self.signs = kinds.get("positive_scale", []), kinds.get("sign", [])
        self.linear, self.orthogonal = kinds.get("linear", []), kinds.get("orthogonal", [])

    def _has(self, name: str) -> bool:
        return any(other in self.state for other in (name, *self.spec.aliases.get(name, ())))

    def value(self, name: str) -> Tensor:
        """Return a tensor by its first name."""
        names = (name, *self.spec.aliases.get(name, ()))
        return next(self.state[other] for other in names if other in self.state)

    def result(self) -> dict[str, Tensor]:
        """Return the tensors of the canonical form, in their own precision."""
        for _ in range(_MAX_SWEEPS if self.scales or self.linear else 0):
            moved = [self._scale()] if self.scales else []
            moved += [self._balance(maps) for maps in self.linear]
            if len(moved) == 1 or max(moved) < _SETTLED:
                break
        for maps in self.orthogonal:
            self._rotate(maps)
        self._set_signs()
        return {n: t.to(self.given[n].dtype) for n, t in self.state.items()}

    def _move(self, *moves: tuple[NeuronMaps, Tensor]) -> None:
        self.state = multiply(self.spec, self.state, moves)

    # -- scales -----------------------------------------------------------------------------------

    def _scale(self) -> float:
        """Take the scales of least norm, of all spaces at once; return the largest change."""
        starts, total = [], 0
        for maps in self.scales:
            starts.append(total)
            total += self._shape(maps).numel()
        twice = {name for maps in self.linear for name in _counted_twice(maps)}
        places: dict[str, list[tuple[int, NeuronMaps, Power]]] = {}
        for start, maps in zip(starts, self.scales, strict=True):
            for power in maps.powers:
                if power.name not in twice:
                    places.setdefault(power.name, []).append((start, maps, power))
        powers = Powers(total)
        for name, own in places.items():
            columns = []
            for start, maps, power in own:
                index, seen = self._neurons(maps, power)
                columns.append((start + index, seen, power.power))
            powers.add(self.value(name), columns)
        logarithms = least_scales(powers)
        for start, maps in zip(starts, self.scales, strict=True):
            shape = self._shape(maps)
            self._move((maps, logarithms[start : start + shape.numel()].exp().reshape(shape)))
        return float(logarithms.abs().max())

    # -- matrices ---------------------------------------------------------------------------------

    def _balance(self, maps: NeuronMaps) -> float:
        """Bring the factors of products to one Gram matrix, diagonal; return the change of norm.

        With what is multiplied by g as :math:`C^T = Q_1 R_1`, and by :math:`g^{-T}` as
        :math:`D^T = Q_2 R_2`, the product is :math:`D^T C = Q_2 (R_2 R_1^T) Q_1^T`, and the
        singular values of the small matrix are its own: :math:`g = S^{-1/2} U^T R_2`.
        """
        found, moved = [], 0.0
        for ahead, back in zip(self._columns(maps, 1), self._columns(maps, -1), strict=True):
            n = len(ahead)
            found.append(torch.eye(n, dtype=torch.float64))
            if min(ahead.shape[1], back.shape[1]) < n:
                continue
            one, other = (torch.linalg.qr(each.T).R for each in (ahead, back))
            left, middle, _ = torch.linalg.svd(other @ one.T)
            if middle[-1] > _SINGULAR * middle[0]:
                found[-1] = middle.rsqrt()[:, None] * (left.T @ other)
                change = torch.linalg.svdvals(found[-1])
                moved = max(moved, float((change.log()).abs().max()))
        self._move((maps, self._stacked(maps, found)))
        return moved

    def _rotate(self, maps: NeuronMaps) -> None:
        """Make the Gram matrix of what is rotated diagonal, its largest entries first."""
        found = []
        for ahead, back in zip(self._columns(maps, 1), self._columns(maps, -1), strict=True):
            gram = torch.linalg.qr(torch.cat([ahead, back], 1).T).R
            found.append(torch.linalg.svd(gram, full_matrices=True).Vh)
        self._move((maps, self._stacked(maps, found)))

    def _columns(self, maps: NeuronMaps, sign: int) -> list[Tensor]:
        """Return for each copy what is multiplied by its matrix, or by the inverse of it."""
        spec, twice = self.spec, _counted_twice(maps)
        found: list[list[Tensor]] = [
            [torch.zeros(spec.by_name[maps.space].size, 0, dtype=torch.float64)]
            for _ in range(self._shape(maps)[:-1].numel())
        ]
        for power in maps.powers:
            if power.power == sign and power.name not in twice:
                own = columns_along(
                    spec.by_name, spec.parameters[power.name], self.value(power.name),
                    (power.axis, power.number), maps.space,
                )
                for all_of_copy, columns in zip(found, own, strict=True):
                    all_of_copy.append(columns)
        return [torch.cat(columns, 1) for columns in found]

    # -- signs ------------------------------------------------------------------------------------

    def _set_signs(self) -> None:
        """Set signs of one space after another, by tensors on which no other sign is open."""
        waiting = [*self.signs, *self.linear, *self.orthogonal]
        open_places = [(m, power) for m in waiting for power in m.powers if power.power % 2]
        while waiting:
            told = [(maps, self._key(maps, open_places)) for maps in waiting]
            ready = [(maps, key) for maps, key in told if key is not None]
            if not ready:
                return
            for maps, key in ready:
                waiting.remove(maps)
                open_places = [place for place in open_places if place[0] is not maps]
                signs = torch.where(key < 0, -1.0, 1.0).double()
                self._move((replace(maps, kind="sign"), signs))

    def _key(
        self, maps: NeuronMaps, open_places: Sequence[tuple[NeuronMaps, Power]]
    ) -> Tensor | None:
        """Return what changes sign with each neuron and with nothing else that is open, if any."""
        key = torch.zeros(self._shape(maps), dtype=torch.float64)
        told = False
        for power in maps.powers:
            if power.power % 2 == 0 or self._is_open(maps, power, open_places):
                continue
            index, seen = self._neurons(maps, power)
            value = self.value(power.name)
            unit = value / value.abs().max().clamp_min(torch.finfo(value.dtype).tiny)
            cubes = torch.where(seen, unit**3, 0.0)
            key.view(-1).index_add_(0, index.expand_as(value).reshape(-1), cubes.reshape(-1))
            told = True
        return key if told else None

    def _is_open(
        self, maps: NeuronMaps, power: Power, open_places: Sequence[tuple[NeuronMaps, Power]]
    ) -> bool:
        """Whether entries of a tensor change sign with something else, too, that is open."""
        _, seen = self._neurons(maps, power)
        return any(
            place.name == power.name and (own, place) != (maps, power)
            and bool((self._neurons(own, place)[1] & seen).any())
            for own, place in open_places
        )

    def _neurons(self, maps: NeuronMaps, power: Power) -> tuple[Tensor, Tensor]:
        axes = self.spec.parameters[power.name]
        return neurons_along(self.spec.by_name, axes, (power.axis, power.number), maps.space)

    def _stacked(self, maps: NeuronMaps, found: list[Tensor]) -> Tensor:
        return torch.stack(found).reshape(self._shape(maps) + found[0].shape[-1:])

    def _shape(self, maps: NeuronMaps) -> torch.Size:
        """Return that of a factor for each neuron."""
        return torch.Size(self.spec.permutations.shapes[maps.space])


def _counted_twice(maps: NeuronMaps) -> set[str]:
    """Return the tensors that count a space at two axes."""
    names = [name for name, _ in {(p.name, p.axis) for p in maps.powers}]
    return {name for name in names if names.count(name) > 1}
