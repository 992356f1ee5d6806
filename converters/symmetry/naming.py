"""Names for neuron spaces, and dimensions as the axes of a spec."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from converters.symmetry.axes import Axis, AxisFactor, Segment, segment_size
from converters.symmetry.call import Entry
from converters.symmetry.dims import Dim, atoms, expand, find
from converters.symmetry.engine import Engine
from converters.symmetry.reasons import is_natural
from converters.symmetry.wreath import find_within
from nngraph.graph import Space


class Namer:
    """Finds the spaces of a finished pass and names them by the modules that make their neurons."""

    def __init__(self, engine: Engine, parameters: Mapping[str, Sequence[Dim]]) -> None:
        within = find_within(engine.records)
        counted = {part for dims in parameters.values() for part in _all(dims)}
        free = {part for part in counted if not part.reasons}
        outers = {o for part in free for o in within.get(part, ()) if o in counted}
        self._names: dict[Dim, str] = {}
        self._axes: dict[Dim, Axis] = {}
        taken: set[str] = set()
        for part, wanted in _in_order(engine, parameters):
            if part in self._names or part not in free | outers:
                continue
            numbered = (f"{wanted}.{number}" for number in itertools.count(2))
            names = itertools.chain([wanted], numbered)
            self._names[part] = next(name for name in names if name not in taken)
            taken.add(self._names[part])
        self.spaces: tuple[Space, ...] = tuple(
            Space(
                name,
                part.size,
                tuple(self._names[o] for o in within.get(part, ()) if o in self._names)
                if part in free else (),
                part not in free,
            )
            for part, name in self._names.items()
        )

    def space_of(self, part: Dim) -> str | None:
        """Return the name of the space that an atom is; ``None`` where it is none."""
        return self._names.get(find(part))

    def axis(self, dim: Dim) -> Axis:
        """Return a dimension as an axis; neighbours that are fixed are one."""
        dim = find(dim)
        if dim not in self._axes:
            segments: list[Segment] = []
            for segment in map(self._segment, expand(dim)):
                if segments and _is_plain(*segments[-1]) and _is_plain(*segment):
                    segments[-1] = (AxisFactor(segments[-1][0].size + segment[0].size),)
                else:
                    segments.append(segment)
            self._axes[dim] = tuple(segments)
        return self._axes[dim]

    def _segment(self, terms: Sequence[Dim]) -> Segment:
        factors: list[AxisFactor] = []
        for term in terms:
            term = find(term)
            if term.kind == "atom":
                factor = AxisFactor(term.size, self._names.get(term))
            else:
                parts = self.axis(term)
                if len(parts) == 1:
                    factors += parts[0]
                    continue
                factor = AxisFactor(term.size, parts=parts)
            if factors and _is_plain(factors[-1]) and _is_plain(factor):
                factors[-1] = AxisFactor(factors[-1].size * factor.size)
            else:
                factors.append(factor)
        kept = tuple(factor for factor in factors if factor.size != 1)
        return kept or (AxisFactor(segment_size(tuple(factors))),)


def _is_plain(*factors: AxisFactor) -> bool:
    return len(factors) == 1 and factors[0].space is None and not factors[0].parts


def _in_order(engine: Engine, parameters: Mapping[str, Sequence[Dim]]) -> Iterator[tuple[Dim, str]]:
    """Iterate over atoms in the order in which layers make them, each with the name it wants."""
    roles = find_roles(engine.entries)
    for entry in engine.entries:
        if not entry.parameters:
            continue
        known = {part for dims in entry.input_dims for dim in dims for part in atoms(dim)}
        weights = [name for role, name in entry.parameters if role in ("weight", "right")]
        base = _stem((weights or [name for _, name in entry.parameters])[0])
        # The layers inside of one recurrent operation are told apart by its parameters alone.
        inside = [d for _, name in entry.parameters for d in parameters[name]]
        for dim in [*(inside if entry.kind == "recurrent" else ()), *entry.output_dims]:
            for part in atoms(dim):
                if part not in known:
                    yield part, roles.get(part) or part.hint or base
    for name, dims in parameters.items():
        for dim in dims:
            for part in atoms(dim):
                yield part, roles.get(part) or part.hint or _stem(name)


def _stem(name: str) -> str:
    """Return the path of the module that holds a weight; a bare parameter names itself."""
    name = name.replace("parametrizations.", "")
    if name.rpartition(".")[2].startswith("original"):
        name = name.rpartition(".")[0]
    path, _, last = name.rpartition(".")
    return path if path and last.startswith(("weight", "bias", "in_proj", "running")) else name


# -- what neurons are for: heads, and features of queries, keys and values; for names only ---------
# Attention is found as one operation, or as a product, a softmax of it, and a product with that.

#: What may stand between the product of queries and keys, the softmax, and the product with values.
_BETWEEN = ("add", "scale", "multiply", "pointwise", "activation", "softmax", "concatenate")


def find_roles(entries: Sequence[Entry]) -> dict[Dim, str]:
    """Return names for atoms that attention uses, with the path of its module."""
    roles: dict[Dim, str] = {}
    users: dict[int, list[int]] = {}
    for index, entry in enumerate(entries):
        for source in entry.inputs:
            users.setdefault(source, []).append(index)
    sources = {index: entry.inputs for index, entry in enumerate(entries)}
    for index, entry in enumerate(entries):
        if entry.kind == "attention" and len(entry.values) >= 3 and not entry.parameters:
            query, _, value = (v.shown for v in entry.values[:3])
            _name(roles, entry, query[:-2], query[-1:], value[-1:])
        elif entry.kind == "softmax":
            scores = next(_products(entries, sources, index), None)
            if scores is None:
                continue
            left, right = (set(_all(value.shown)) for value in scores.values[:2])
            shared = (left & right).difference(_all(scores.output_dims))
            features = sorted(shared, key=lambda dim: dim.serial)
            _name(roles, scores, scores.output_dims[:-2], features, ())
            mixed = set(_all(entry.output_dims))
            for after in _products(entries, users, index):
                own = [a for a in _all(after.output_dims) if a not in mixed]
                _name(roles, scores, (), (), own)
    return roles


def _all(dims: Iterable[Dim]) -> Iterator[Dim]:
    return (part for dim in dims for part in atoms(dim) if part.size > 1)


def _products(
    entries: Sequence[Entry], ways: Mapping[int, Sequence[int]], index: int
) -> Iterator[Entry]:
    """Find the nearest products of two computed tensors, along the ways that lead from an entry."""
    pending, seen = list(ways.get(index, ())), {index}
    while pending:
        number = pending.pop(0)
        if number in seen:
            continue
        seen.add(number)
        entry = entries[number]
        if entry.kind == "linear" and len(entry.values) == 2 and not entry.parameters:
            yield entry
        elif entry.kind in _BETWEEN:
            pending += ways.get(number, ())


def _name(
    roles: dict[Dim, str], entry: Entry, heads: Iterable[Dim], features: Iterable[Dim],
    values: Iterable[Dim],
) -> None:  # fmt: skip
    def named(parts: Iterable[Dim], words: Iterable[str]) -> None:
        for part, word in zip(parts, words, strict=False):
            path = f"{entry.module_path}." if entry.module_path else ""
            roles.setdefault(part, path + word)

    def neurons(dims: Iterable[Dim]) -> list[Dim]:
        return [part for part in _all(dims) if not any(map(is_natural, part.reasons))]

    for dim in heads:
        parts = neurons([dim])
        named(parts, ["heads"] if len(parts) == 1 else ["kv_heads", *["copies"] * len(parts)])
    named(neurons(features), itertools.repeat("qk"))
    named(neurons(values), itertools.repeat("v"))
