"""Neurons removed from a network: what becomes of each tensor, and of what its axes count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from converters.symmetry import (
    Axis,
    AxisFactor,
    PermutationSpec,
    axis_size,
    change_factors,
    coordinates,
)
from nngraph.errors import ArchitectureError


@dataclass(frozen=True)
class Removal:
    r"""The neurons of each space that stay; all others are removed.

    An index of an axis stays if every neuron that it counts does, so that shapes stay rectangular:
    of features within heads, the same are removed from every head. *Masking* is the same with
    zeros: each entry that counts a neuron that is removed is zero. The law is that both networks
    are one function,

    .. math:: f(\mathrm{mask}(\theta), x) = f_{\mathrm{small}}(\mathrm{remove}(\theta), x).

    It holds where zeros flow through to zeros that nobody counts; not for a space over which a
    layer takes a mean, a norm or a softmax.

    Args:
        spec: of the network.
        kept: of the spaces that lose neurons, the indices of those that stay, ascending.
        rescaled: of these spaces, features of queries and keys whose products a forward divides by
            the square root of however many there are: to remove them also multiplies the queries
            by :math:`\sqrt{n' / n}`, from n features to n', so that the law holds for them too.

    Raises:
        ArchitectureError: if a space is not there or is fixed, its indices are not ascending ones
            of its neurons, at least one, or a rescaled one loses none.
    """

    spec: PermutationSpec
    kept: Mapping[str, tuple[int, ...]]
    rescaled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, indices in self.kept.items():
            space = self.spec.by_name.get(name)
            if space is None or space.fixed:
                free = ", ".join(space.name for space in self.spec.free_spaces)
                what = "is no space" if space is None else "is fixed, as inputs and outputs are"
                raise ArchitectureError(f"{name!r} {what}; expected one of: {free or 'none'}.")
            ascends = all(a < b for a, b in itertools.pairwise(indices))
            if not indices or not ascends or indices[0] < 0 or indices[-1] >= space.size:
                raise ArchitectureError(
                    f"of space {name!r} the neurons {list(indices)!s:.60} are to stay; expected "
                    f"ascending indices below {space.size}, at least one."
                )

        for name in self.rescaled:
            if name not in self.kept:
                raise ArchitectureError(
                    f"{name!r} is to be rescaled and loses no neurons; expected one of: "
                    f"{', '.join(self.kept) or 'none'}."
                )

    def size(self, space: str) -> int:
        """Return how many neurons a space has then."""
        return len(self.kept[space]) if space in self.kept else self.spec.by_name[space].size

    @cached_property
    def smaller(self) -> PermutationSpec:
        """The spec of the network without the neurons."""
        spaces = (
            replace(space, size=self.size(space.name)) for space in self.spec.spaces
        )
        parameters = {
            name: tuple(change_factors(axis, self._shrunk) for axis in axes)
            for name, axes in self.spec.parameters.items()
        }
        return replace(self.spec, spaces=tuple(spaces), parameters=parameters)

    def _shrunk(self, factor: AxisFactor) -> AxisFactor:
        if factor.space is None or factor.space not in self.kept:
            return factor
        return AxisFactor(len(self.kept[factor.space]), factor.space)

    @cached_property
    def _known(self) -> dict[Axis, Tensor]:
        """What :meth:`kept_of` found; an axis is often that of many tensors."""
        return {}

    def kept_of(self, axis: Axis) -> Tensor:
        """Return the indices of an axis that stay."""
        if axis not in self._known:
            self._known[axis] = self._kept_of(axis)
        return self._known[axis]

    def _kept_of(self, axis: Axis) -> Tensor:
        stays = torch.ones(axis_size(axis), dtype=torch.bool)
        for space, position, _ in coordinates(axis):
            if space is not None and space in self.kept:
                of_space = torch.zeros(self.spec.by_name[space].size, dtype=torch.bool)
                of_space[list(self.kept[space])] = True
                stays &= (position < 0) | of_space[position.clamp(min=0)]
        return stays.nonzero().flatten()

    def remove(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a network without the neurons; what has none of them is the same.

        Args:
            state: such as ``module.state_dict()``; the names of the spec, aliases with them.

        Raises:
            ArchitectureError: if a tensor is unknown or has another shape than in the spec.
        """
        done: dict[str, Tensor] = {}
        return {name: self._removed(state, name, done) for name in state}

    def _removed(
        self, state: Mapping[str, Tensor], name: str, done: dict[str, Tensor]
    ) -> Tensor:
        own = self.spec.first_names.get(name, name)
        if own not in done:
            tensor = _checked(self.spec, name, own, state[name])
            for place, axis in enumerate(self.spec.parameters[own]):
                index = self.kept_of(axis)
                if len(index) < tensor.shape[place]:
                    tensor = tensor.index_select(place, index.to(tensor.device))
            for factors in self._factors(own):
                tensor = tensor * factors.to(tensor)
            done[own] = tensor
        return done[own]

    def _factors(self, own: str) -> Iterator[Tensor]:
        """Iterate over what a small tensor of queries is multiplied by, by its entries."""
        for space in self.rescaled:
            ties = self.spec.ties(space)
            share = self.size(space) / self.spec.by_name[space].size
            for name, place in ties:
                first = ties[0][0].rpartition(".")[0]
                if name != own or name.rpartition(".")[0] != first:
                    continue
                axis = self.spec.parameters[own][place]
                # Of queries, keys and values in one projection the first.
                position = next(p for found, p, _ in coordinates(axis) if found == space)
                factors = torch.ones(len(position), dtype=torch.float64)
                factors[position >= 0] = share**0.5
                factors = factors[self.kept_of(axis)]
                rank = len(self.spec.parameters[own])
                yield factors.reshape([-1 if i == place else 1 for i in range(rank)])

    def restore(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of the original shapes, with zeros where neurons were removed.

        Raises:
            ArchitectureError: if a tensor is unknown or has another shape than in :attr:`smaller`.
        """
        done: dict[str, Tensor] = {}
        for name, tensor in state.items():
            own = self.spec.first_names.get(name, name)
            if own in done:
                continue
            full = _checked(self.smaller, name, own, tensor)
            for factors in self._factors(own):
                full = full / factors.to(full)
            for place, axis in enumerate(self.spec.parameters[own]):
                if axis_size(axis) > full.shape[place]:
                    shape = list(full.shape)
                    shape[place] = axis_size(axis)
                    index = self.kept_of(axis).to(full.device)
                    full = full.new_zeros(shape).index_copy_(place, index, full)
            done[own] = full
        return {name: done[self.spec.first_names.get(name, name)] for name in state}

    def mask(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of the same shapes, with zeros where neurons are to be removed."""
        return self.restore(self.remove(state))


def _checked(spec: PermutationSpec, name: str, own: str, tensor: Tensor) -> Tensor:
    if own not in spec.parameters:
        raise ArchitectureError(
            f"tensor {name!r} is not one of the spec's; expected {sorted(spec.parameters)}."
        )
    if tuple(tensor.shape) != spec.shape(own):
        raise ArchitectureError(
            f"tensor {name!r} has shape {tuple(tensor.shape)}; the spec has {spec.shape(own)} "
            "for it."
        )
    return tensor
