r"""The inner product of two networks, term by term: what matching maximises.

Relabelling changes no norm, so that bringing network B closest to network A,

.. math:: \|A - g B\|^2 = \|A\|^2 + \|B\|^2 - 2 \langle A, g B \rangle,

is to maximise :math:`\langle A, g B \rangle`, a sum over the blocks of edges and the columns of
node features of an architecture. Each is a *term*: entries ``[parts, rows, columns, features]`` of
A and of B, in the order of the graph, with the group of the rows and the group of the columns.
Parts are neurons of both ends at once; a term on nodes has one part and one column.

B is kept as it is relabelled so far. What remains is then a relabelling relative to it, and the
identity stands for "as now".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, NeuralGraph, Relabelling, group_permutation, read_slab

#: Columns of node features that are statistics of data, and no parameters: they move with their
#: neurons, and say nothing of how close two networks are.
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class PairTerm:
    """One block or column of both networks: entries ``[parts, rows, columns, features]``, float64.

    ``target`` is the group of the rows, ``source`` of the columns: ``None`` for a term on nodes.
    """

    target: int
    source: int | None
    a: Tensor
    b: Tensor

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self.a.shape[0]

    def ends(self) -> tuple[int, ...]:
        """The groups whose neurons it counts."""
        return (self.target,) if self.source is None else (self.target, self.source)


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
    """Return the terms of the parameters of two networks of one architecture."""
    values, terms = (a.parameters(), b.parameters()), []
    for parameter, slab in a.architecture.slabs:
        if slab.column not in _STATISTICS:
            own = (value[parameter.name].detach() for value in values)
            pair = (read_slab(value, parameter, slab).to(torch.float64) for value in own)
            terms.append(
                _on_nodes(slab.target, *pair) if slab.source is None
                else PairTerm(slab.target, slab.source, *pair)
            )
    return terms


def feature_terms(architecture: Architecture, a: Tensor, b: Tensor) -> list[PairTerm]:
    """Return the terms of features ``[N, K]`` of the neurons of two networks."""
    starts = architecture.node_starts
    return [
        _on_nodes(group, *(v[starts[group] : starts[group + 1]].to(torch.float64) for v in (a, b)))
        for group in range(len(architecture.groups))
    ]


def _on_nodes(group: int, a: Tensor, b: Tensor) -> PairTerm:
    """Return the term of entries ``[neurons, features]``."""
    return PairTerm(group, None, a[None, :, None], b[None, :, None])


def inner_product(terms: Sequence[PairTerm]) -> float:
    r""":math:`\langle A, B \rangle` over terms."""
    return sum(float(torch.dot(term.a.reshape(-1), term.b.reshape(-1))) for term in terms)


def moved(
    terms: Sequence[PairTerm], relabelling: Relabelling, signs: Mapping[str, Tensor] | None = None
) -> list[PairTerm]:
    """Return the terms with B relabelled, and then the signs ``[d]`` of some spaces flipped."""
    architecture = relabelling.architecture
    places = [
        group_permutation(architecture.all_spaces, group.factors, relabelling.indices)
        for group in architecture.groups
    ]
    flips = [
        signs.get(group.space) if signs and isinstance(group.space, str) else None
        for group in architecture.groups
    ]
    stay = [
        flip is None and torch.equal(place.cpu(), torch.arange(len(place)))
        for place, flip in zip(places, flips, strict=True)
    ]
    return [
        term if all(stay[group] for group in term.ends()) else _moved(term, places, flips)
        for term in terms
    ]


def _moved(term: PairTerm, places: Sequence[Tensor], flips: Sequence[Tensor | None]) -> PairTerm:
    b = term.b
    parts, rows, columns, _ = b.shape
    target = places[term.target].to(b.device).view(parts, rows)
    part, row = target[:, :1] // rows, target % rows
    if term.source is None:
        b = b[part, row]
    else:
        source = places[term.source].to(b.device).view(parts, columns) % columns
        b = b[part[..., None], row[..., None], source[:, None, :]]
        if (flip := flips[term.source]) is not None:
            b = b * flip.to(b).view(parts, 1, columns, 1)
    if (flip := flips[term.target]) is not None:
        b = b * flip.to(b).view(parts, rows, 1, 1)
    return replace(term, b=b)
