r"""The inner product of two networks, term by term: what matching maximises.

Relabelling changes no norm, so that bringing network B closest to network A,

.. math:: \|A - g B\|^2 = \|A\|^2 + \|B\|^2 - 2 \langle A, g B \rangle,

is to maximise :math:`\langle A, g B \rangle`. It is a sum of *terms*, parts of tensors of both
networks whose entries a product of factors counts, each factor fixed or one neuron space: the
blocks of edges and the columns of node features of an architecture, or the pieces of the tensors
of a state dict. B is left as it is; a *placement* says how it stands, and entries are moved, and
converted to the precision of the arithmetic, in chunks when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, Factor, Indices, NeuralGraph, Space, read_slab

#: Columns of node features that are statistics of data, and no parameters: they move with their
#: neurons, and say nothing of how close two networks are.
_STATISTICS = ("running_mean", "running_var")
#: Entries that are moved and multiplied at once.
CHUNK = 2**22


@dataclass(frozen=True)
class Placement:
    """How a network stands: relabelled, and then the signs ``[d]`` of some spaces flipped."""

    indices: Indices
    signs: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def moving(self) -> frozenset[str]:
        """The spaces of which some neuron stands elsewhere."""
        return frozenset(
            space for space, index in self.indices.items()
            if not bool((index.cpu() == torch.arange(index.shape[-1])).all())
        )


@dataclass(frozen=True)
class PairTerm:
    """Entries of both networks that one product of factors counts, ``[*sizes of the factors]``.

    Args:
        factors: one for each dimension.
        within: for each factor the dimensions that its space lies within, outermost first.
        a, b: entries; those of B stand as in its tensors.
    """

    factors: tuple[Factor, ...]
    within: tuple[tuple[int, ...], ...]
    a: Tensor
    b: Tensor

    def counts(self, space: str) -> list[int]:
        """Return the dimensions that count a space."""
        return [d for d, factor in enumerate(self.factors) if factor.space == space]

    def touches(self, spaces: Collection[str]) -> bool:
        """Whether it counts one of some spaces."""
        return any(factor.space in spaces for factor in self.factors)

    def inner(self, placed: Placement) -> float:
        """Return its share of the inner product, summed in float64."""
        return sum(
            float(torch.dot(a.double().reshape(-1), b.double().reshape(-1)))
            for a, b in self.chunks(placed)
        )

    def products(self, placed: Placement, moving: Sequence[int], kept: Sequence[int]) -> Tensor:
        """Return the products of all pairs of indices along some dimensions, summed over others.

        ``[*kept, *moving of A, *moving of B]``.
        """
        count = len(self.factors)
        other = {d: count + i for i, d in enumerate(moving)}
        total: Tensor | None = None
        for a, b in self.chunks(placed, {*moving, *kept}):
            part = torch.einsum(
                a, [*range(count)], b, [other.get(d, d) for d in range(count)],
                [*kept, *moving, *other.values()],
            )  # fmt: skip
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def chunks(
        self, placed: Placement, whole: Collection[int] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield entries of A, and of B as it is placed, cut along no dimension of ``whole``."""
        dtype = torch.float64 if self.a.dtype == torch.float64 else torch.float32
        cut = [d for d in range(self.a.dim()) if d not in whole]
        along = max(cut, key=lambda d: self.a.shape[d], default=None)
        if along is None:
            yield self.a.to(dtype), self.moved(placed).to(dtype)
            return
        size = self.a.shape[along]
        step = max(1, size * CHUNK // max(self.a.numel(), 1))
        for start in range(0, size, step):
            length = min(step, size - start)
            b = self.moved(placed, along, start, length)
            yield self.a.narrow(along, start, length).to(dtype), b.to(dtype)

    def moved(
        self, placed: Placement, along: int = 0, start: int = 0, length: int | None = None
    ) -> Tensor:
        """Return the entries of B as it is placed, or those at some places along a dimension."""
        if self.b.dim() == 0:
            return self.b
        length = self.b.shape[along] - start if length is None else length

        def cut(value: Tensor, d: int) -> Tensor:
            here = d == along and value.shape[d] > length
            return value.narrow(d, start, length) if here else value

        value = self.b
        if self.factors[along].space not in placed.moving:
            value = cut(value, along)
        # Neurons of outer spaces first: the permutations of inner ones go by their new places.
        for d in sorted(range(value.dim()), key=lambda d: len(self.within[d])):
            space = self.factors[d].space
            if space in placed.moving:
                index = placed.indices[space].to(value.device)
                if not self.within[d]:
                    here = index[start : start + length] if d == along else index
                    value = value.index_select(d, here)
                else:
                    index = spread(index, (*self.within[d], d), self.b.shape)
                    value = torch.take_along_dim(value, cut(index, along), d)
        for d, factor in enumerate(self.factors):
            if factor.space is not None and factor.space in placed.signs:
                flips = placed.signs[factor.space].to(value)
                value = value * cut(spread(flips, (d,), self.b.shape), along)
        return value


def spread(value: Tensor, dims: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return ``[copies, d]`` or ``[d]`` with its sizes at some dimensions, and 1 elsewhere."""
    value = value.reshape([shape[d] for d in dims])
    value = value.permute([dims.index(d) for d in sorted(dims)])
    return value.reshape([size if d in dims else 1 for d, size in enumerate(shape)])


def pair_term(
    spaces: Mapping[str, Space], factors: Sequence[Factor], axes: Sequence[int], a: Tensor,
    b: Tensor,
) -> PairTerm:  # fmt: skip
    """Return a term of entries ``[*sizes of the factors]``.

    Args:
        spaces: by name.
        axes: which axis each factor is of. What a space lies within is counted on its own axis, or
            else before.
    """
    def outer(name: str, d: int) -> int:
        found = [i for i, factor in enumerate(factors) if factor.space == name and i != d]
        return min(found, key=lambda i: (axes[i] != axes[d], i > d, abs(i - d)))

    within = [
        tuple(outer(name, d) for name in spaces[f.space].within) if f.space is not None else ()
        for d, f in enumerate(factors)
    ]
    return PairTerm(tuple(factors), tuple(within), a, b)


def check_pair(a: NeuralGraph, b: NeuralGraph) -> Architecture:
    """Return the one architecture of two single networks.

    Raises:
        InvalidGraphError, NonFiniteError: if it is none, or a weight is NaN or infinite.
    """
    for which, network in (("first", a), ("second", b)):
        if not isinstance(network, NeuralGraph) or not isinstance(
            network.architecture, Architecture
        ):
            raise InvalidGraphError(
                f"the {which} of two networks to match is a {type(network).__name__}; expected "
                "one NeuralGraph. converters.to_graph makes it of a module, and "
                "converters.state_dict_to_graph of a state dict."
            )
    if a.architecture != b.architecture:
        raise InvalidGraphError(
            f"networks of the architectures {a.architecture} and {b.architecture} cannot be "
            f"matched{_difference(a.architecture, b.architecture)}; expected the same groups, "
            "activations and parameters."
        )
    for which, network in (("first", a), ("second", b)):
        for name, value in network.parameters().items():
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"parameter {name!r} of the {which} network has entries that are NaN or "
                    "infinite, which nothing is close to; expected finite numbers."
                )
    return a.architecture


def _difference(one: Architecture, other: Architecture) -> str:
    """Say which parameter is the first that only one of them has, or has in another shape."""
    shapes = [{p.name: p.shape for p in architecture.parameters} for architecture in (one, other)]
    for name in {**shapes[0], **shapes[1]}:
        found = [s.get(name) for s in shapes]
        if found[0] != found[1]:
            return f" (parameter {name!r} is {found[0]} in one and {found[1]} in the other)"
    return ""


def terms_of(a: NeuralGraph, b: NeuralGraph) -> list[PairTerm]:
    """Return the terms of the parameters of two networks of one architecture, in float64."""
    values, terms = (a.parameters(), b.parameters()), []
    for parameter, slab in a.architecture.slabs:
        if slab.column not in _STATISTICS:
            own = (value[parameter.name].detach() for value in values)
            pair = (read_slab(value, parameter, slab).to(torch.float64) for value in own)
            terms.append(slab_term(a.architecture, slab.target, slab.source, *pair))
    return terms


def feature_terms(architecture: Architecture, a: Tensor, b: Tensor) -> list[PairTerm]:
    """Return the terms of features ``[N, K]`` of the neurons of two networks."""
    starts = architecture.node_starts
    return [
        slab_term(
            architecture, group, None,
            *(v[starts[group] : starts[group + 1]].to(torch.float64) for v in (a, b)),
        )
        for group in range(len(architecture.groups))
    ]  # fmt: skip


def slab_term(
    architecture: Architecture, target: int, source: int | None, a: Tensor, b: Tensor
) -> PairTerm:
    """Return the term of a block ``[parts, rows, columns, features]``, or nodes ``[n, features]``.

    Parts are neurons of both ends at once.
    """
    parts = 1 if source is None else a.shape[0]
    outer, rows = split_factors(architecture.groups[target].factors, parts)
    factors = [*outer, *rows]
    axes = [0] * len(factors)
    if source is not None:
        columns = split_factors(architecture.groups[source].factors, parts)[1]
        factors += columns
        axes += [1] * len(columns)
    factors.append(Factor(a.shape[-1]))
    sizes = [factor.size for factor in factors]
    return pair_term(
        architecture.all_spaces, factors, [*axes, 2], a.reshape(sizes), b.reshape(sizes)
    )


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


def inner_product(terms: Sequence[PairTerm], placed: Placement | None = None) -> float:
    r""":math:`\langle A, B \rangle` over terms."""
    placed = Placement({}) if placed is None else placed
    return sum(term.inner(placed) for term in terms)


def scale_of(terms: Sequence[PairTerm]) -> float:
    r"""Return :math:`\|A\| \|B\|` over terms."""
    first = inner_product([replace(term, b=term.a) for term in terms])
    second = inner_product([replace(term, a=term.b) for term in terms])
    return math.sqrt(first * second)
