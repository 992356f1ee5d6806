r"""The symmetry of a network as data: relabellings, and what neurons may be multiplied by.

Relabelling, positive scales, signs, orthogonal and general linear maps of the neurons of each
space together are one group that acts on state dicts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor

from converters.symmetry.groups.acting import act_along
from converters.symmetry.groups.networks import Network, change_network
from converters.symmetry.groups.system import System
from converters.symmetry.relabelling import coordinates
from converters.symmetry.spec import PermutationSpec
from nngraph.errors import ArchitectureError
from nngraph.graph import Indices, NeuralGraph, NeuralGraphStack

#: Positive numbers and signs, one a neuron; orthogonal and invertible matrices over all of a space.
MapKind = Literal["positive_scale", "sign", "orthogonal", "linear"]


class Power(NamedTuple):
    """By which power of a map a tensor is multiplied at one of its places.

    Args:
        name: of the tensor.
        axis: of its axes.
        number: which occurrence of the space on that axis, as of queries and keys in one matrix.
        power: not 0.
    """

    name: str
    axis: int
    number: int
    power: int

    def __str__(self) -> str:
        which = f".{self.number}" if self.number else ""
        return f"{self.name}[{self.axis}{which}]^{self.power}"


@dataclass(frozen=True)
class NeuronMaps:
    r"""One way to multiply what belongs to the neurons of a space.

    A map g of a space of n neurons is one factor for each neuron (``positive_scale``, ``sign``) or
    an n x n matrix. An axis of a tensor with power 1 is multiplied by g, one with power -1 by
    :math:`g^{-T}`; factors have any whole powers. A space within others has a map for each neuron
    of those.

    Args:
        space: name of the neuron space.
        kind: what its maps are.
        powers: where tensors count the space, with a power other than 0 each.
    """

    space: str
    kind: MapKind
    powers: tuple[Power, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether a map is a matrix over the space, not a factor for each of its neurons."""
        return self.kind in ("orthogonal", "linear")

    def __str__(self) -> str:
        return f"{self.kind} of {self.space}: {', '.join(map(str, self.powers))}"


@dataclass(frozen=True)
class SymmetryElement:
    """One element of the group of a :class:`SymmetrySpec`: maps first, then the relabelling.

    Args:
        maps: one for each generator of the spec, float64: ``[n]`` or ``[n, n]``, with ``copies``
            before where the space lies within others.
        relabelling: as the permutation spec has it.
    """

    maps: tuple[Tensor, ...]
    relabelling: Indices

    @property
    def condition(self) -> float:
        """Largest condition number of its maps."""
        spectra = [
            torch.linalg.svdvals(m) if m.dim() > 1 and m.shape[-1] == m.shape[-2] else m.abs()
            for m in self.maps
        ]
        return max((float((s.amax(-1) / s.amin(-1)).max()) for s in spectra), default=1.0)


@dataclass(frozen=True)
class SymmetrySpec:
    r"""Which relabellings and maps of neurons leave the function of a network unchanged.

    The group is that of pairs (maps g, relabelling p), with :math:`\theta \mapsto p (g \theta)`.
    It is a subgroup of all there are: what is not known to be exact is not in it.

    Args:
        permutations: the spec of the relabellings, which names spaces and tensors.
        generators: the maps.

    Raises:
        ArchitectureError: if a generator names no space or axis of the permutation spec.

    Example:
        >>> spec = symmetry_spec(mlp, torch.randn(1, 2))
        >>> other = spec.act(mlp.state_dict(), spec.sample(0))   # the same function
    """

    permutations: PermutationSpec
    generators: tuple[NeuronMaps, ...] = ()

    def __post_init__(self) -> None:
        spaces, parameters = self.permutations.by_name, self.permutations.parameters
        for maps in self.generators:
            if maps.space not in spaces or maps.kind not in get_args(MapKind):
                raise ArchitectureError(
                    f"a generator is {maps.kind!r} of {maps.space!r}; expected one of "
                    f"{', '.join(get_args(MapKind))} of {', '.join(spaces) or 'no space'}."
                )
            for name, axis, number, power in maps.powers:
                axes = parameters.get(name, ())
                inside = 0 <= axis < len(axes)
                found = [s for s, _, _ in coordinates(axes[axis])] if inside else []
                if not 0 <= number < found.count(maps.space):
                    raise ArchitectureError(
                        f"a generator of {maps.space!r} is of axis {axis} of {name!r}, which does "
                        "not count it."
                    )
                if maps.is_matrix and power not in (1, -1):
                    raise ArchitectureError(
                        f"matrices of {maps.space!r} have power {power} at axis {axis} of "
                        f"{name!r}; expected 1 or -1."
                    )

    # -- what follows -----------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of a map of each generator."""
        own = self.permutations.permutations.shapes
        return tuple(
            own[maps.space] + own[maps.space][-1:] * maps.is_matrix for maps in self.generators
        )

    @property
    def dimension(self) -> int:
        """Dimension of the group: 1 for a scale, n n for a matrix, n (n - 1) / 2 if orthogonal.

        Factors that are alike for all neurons of a space may be those of another space, too; they
        count once.
        """
        total = 0
        for maps, (*outer, n) in zip(self.generators, self._diagonals(), strict=True):
            own = {"positive_scale": n, "sign": 0, "linear": n * n, "orthogonal": n * (n - 1) // 2}
            total += math.prod(outer) * own[maps.kind]
        scaled = [m for m in self.generators if m.kind in ("positive_scale", "linear")]
        return total - len(relations(self.permutations, scaled, None))

    def _diagonals(self) -> list[tuple[int, ...]]:
        return [self.permutations.permutations.shapes[maps.space] for maps in self.generators]

    # -- the group --------------------------------------------------------------------------------

    def identity(self) -> SymmetryElement:
        """Return the element that moves nothing."""
        maps = [
            torch.eye(shape[-1], dtype=torch.float64).expand(shape) if own.is_matrix
            else torch.ones(shape, dtype=torch.float64)
            for own, shape in zip(self.generators, self.shapes, strict=True)
        ]
        return SymmetryElement(tuple(maps), self.permutations.identity())

    def sample(
        self, generator: torch.Generator | int | None = None, bound: float = 2.0
    ) -> SymmetryElement:
        """Return a random element.

        Relabellings, signs and orthogonal maps are uniform, scales log-uniform; a linear map is an
        orthogonal one times scales times another.

        Args:
            generator: or a seed; ``None`` uses torch's global one.
            bound: scales and singular values lie between 1 / bound and bound.

        Raises:
            ArchitectureError: if the bound is no number of at least 1.
        """
        if not (math.isfinite(bound) and bound >= 1):
            raise ArchitectureError(f"bound is {bound!r}; expected a number of at least 1.")
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        maps = []
        for own, shape in zip(self.generators, self._diagonals(), strict=True):
            drawn = torch.rand(shape, dtype=torch.float64, generator=generator)
            spread = ((2 * drawn - 1) * math.log(bound)).exp()
            if own.kind == "positive_scale":
                maps.append(spread)
            elif own.kind == "sign":
                maps.append(1 - 2 * (drawn < 0.5).double())
            elif own.kind == "orthogonal":
                maps.append(_rotations(shape, generator))
            else:
                left, right = (_rotations(shape, generator) for _ in range(2))
                maps.append(left * spread[..., None, :] @ right)
        return SymmetryElement(tuple(maps), self.permutations.sample(generator))

    def compose(self, after: SymmetryElement, before: SymmetryElement) -> SymmetryElement:
        r"""Return the element that acts as ``before`` and then ``after``.

        :math:`p_a g_a p_b g_b = (p_a p_b) \, (p_b^{-1} g_a p_b \, g_b)`.
        """
        moved = self._unmoved(after.maps, before.relabelling)
        maps = tuple(
            one @ other if own.is_matrix else one * other
            for own, one, other in zip(self.generators, moved, before.maps, strict=True)
        )
        group = self.permutations.permutations
        return SymmetryElement(maps, group.compose(after.relabelling, before.relabelling))

    def invert(self, element: SymmetryElement) -> SymmetryElement:
        """Return the element that undoes another."""
        back = self.permutations.permutations.invert(element.relabelling)
        inverse = tuple(
            torch.linalg.inv(each) if own.is_matrix else 1 / each
            for own, each in zip(self.generators, element.maps, strict=True)
        )
        return SymmetryElement(self._unmoved(inverse, back), back)

    def _unmoved(self, maps: tuple[Tensor, ...], relabelling: Indices) -> tuple[Tensor, ...]:
        """Return what maps are to neurons before they are relabelled."""
        group, found = self.permutations.permutations, []
        for own, each in zip(self.generators, maps, strict=True):
            index = relabelling[own.space]  # new neuron i was neuron index[i]
            back = index.argsort(-1)
            if own.is_matrix:
                each = each.take_along_dim(back[..., None], -2)
                each = each.take_along_dim(back[..., None, :], -1)
            else:
                each = each.take_along_dim(back, -1)
            if index.dim() > 1:
                each = each[group.outer(own.space, relabelling).argsort()]
            found.append(each)
        return tuple(found)

    @overload
    def act(self, network: Mapping[str, Tensor], element: SymmetryElement) -> dict[str, Tensor]: ...

    @overload
    def act(self, network: NeuralGraph, element: SymmetryElement) -> NeuralGraph: ...

    @overload
    def act(
        self, network: NeuralGraphStack, element: SymmetryElement | Sequence[SymmetryElement]
    ) -> NeuralGraphStack: ...

    def act(
        self,
        network: Network,
        element: SymmetryElement | Sequence[SymmetryElement],
    ) -> Network:
        """Return a network moved: another network with the same function.

        Args:
            network: tensors such as ``module.state_dict()``, with the names of this spec, aliases
                with them; or a graph or a stack of graphs of the module.
            element: as :meth:`sample` gives it; of a stack also one for each network.

        Raises:
            ArchitectureError: if a tensor is unknown, or has another shape, or the element does not
                fit this spec.
        """
        each = [element] if isinstance(element, SymmetryElement) else element
        return change_network(network, [partial(self._moved, element=one) for one in each])

    def _moved(self, state: Mapping[str, Tensor], element: SymmetryElement) -> dict[str, Tensor]:
        if [tuple(m.shape) for m in element.maps] != [*self.shapes]:
            raise ArchitectureError(
                f"the element has maps of the shapes {[tuple(m.shape) for m in element.maps]}; "
                f"expected {[*self.shapes]}."
            )
        moved = multiply(self.permutations, state, zip(self.generators, element.maps, strict=True))
        return self.permutations.permute(moved, element.relabelling)

    # -- reading and writing ----------------------------------------------------------------------

    def to_json(self, indent: int | None = None) -> str:
        """Return the spec as JSON text."""
        data = {
            "permutations": json.loads(self.permutations.to_json()),
            "generators": [vars(maps) for maps in self.generators],
        }
        return json.dumps(data, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> SymmetrySpec:
        """Read what :meth:`to_json` wrote; any other text is an ``ArchitectureError``."""
        try:
            data: Any = json.loads(text)
            permutations = PermutationSpec.from_json(json.dumps(data["permutations"]))
            generators = [
                NeuronMaps(str(g["space"]), g["kind"], tuple(_power(*p) for p in g["powers"]))
                for g in data["generators"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ArchitectureError):
                raise
            raise ArchitectureError(
                f"the text is no symmetry spec ({type(error).__name__}: {error}); expected what "
                "SymmetrySpec.to_json wrote."
            ) from error
        return cls(permutations, tuple(generators))

    def __str__(self) -> str:
        lines = [str(self.permutations), f"{self.dimension} dimensions of continuous symmetry"]
        return "\n".join([*lines, *(f"  {maps}" for maps in self.generators)])


def multiply(
    spec: PermutationSpec, state: Mapping[str, Tensor], moves: Iterable[tuple[NeuronMaps, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of a network multiplied by maps of the shapes of their generators."""
    moving: dict[str, list[tuple[Power, NeuronMaps, Tensor]]] = {}
    for own, each in moves:
        turned = torch.linalg.inv(each).mT if own.is_matrix else each
        for place in own.powers:
            power = place.power
            here = each if power == 1 else turned if own.is_matrix else each**power
            moving.setdefault(place.name, []).append((place, own, here))
    done: dict[str, Tensor] = {}
    moved: dict[str, Tensor] = {}
    for name, tensor in state.items():
        key = spec.first_names.get(name, name)
        if key in moving and key not in done and tuple(tensor.shape) == spec.shape(key):
            wide = tensor.double()
            for place, own, each in moving[key]:
                wide = act_along(
                    spec.by_name, spec.parameters[key], wide, (place.axis, place.number),
                    own.space, each, own.is_matrix,
                )
            done[key] = wide.to(tensor.dtype)
        moved[name] = done.get(key, tensor)
    return moved


def _rotations(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Return matrices drawn uniformly from the orthogonal group, ``shape`` and its last size."""
    normal = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=generator)
    turned, upper = torch.linalg.qr(normal)
    return torch.mul(turned, upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :])


def _power(name: str, *numbers: int) -> Power:
    if any(type(number) is not int for number in numbers):
        raise TypeError(f"a power of {name!r} is {numbers!r}")
    return Power(str(name), *numbers)


def relations(
    spec: PermutationSpec, generators: Sequence[NeuronMaps], modulus: int | None
) -> list[dict[int, int]]:
    """Return the sums of generators that move nothing, all neurons of each space alike.

    Args:
        spec: what axes count.
        generators: those of factors, or the scales among matrices.
        modulus: 2 for signs.
    """
    system = System[int](modulus)
    system.kept.update(dict.fromkeys(range(len(generators))))
    rows: dict[tuple[str, int | None, bytes], dict[int, int]] = {}
    for number, maps in enumerate(generators):
        for place in maps.powers:
            axis = spec.parameters[place.name][place.axis]
            found = [position for s, position, _ in coordinates(axis) if s == maps.space]
            covered = found[place.number] >= 0
            # An axis that counts the space everywhere says the same as any other that does.
            everywhere = bool(covered.all())
            key = (place.name, None if everywhere else place.axis,
                   b"" if everywhere else covered.numpy().tobytes())
            row = rows.setdefault(key, {})
            row[number] = row.get(number, 0) + place.power
    for row in rows.values():
        system.add(row)
    return system.null_space()
