"""Names for neuron spaces, and dimensions as the axes of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from converters.symmetry.axes import Axis, Factor, Segment, segment_size
from converters.symmetry.dims import Dim, atoms, expand, find
from converters.symmetry.engine import Engine
from converters.symmetry.roles import find_roles
from converters.symmetry.wreath import find_within
from nngraph.graph import Space


class Namer:
    """Finds the spaces of a finished pass and names them by the modules that make their neurons.

    Args:
        engine: the finished pass.
        parameters: dimensions of every parameter that is used.
    """

    def __init__(self, engine: Engine, parameters: Mapping[str, Sequence[Dim]]) -> None:
        within = find_within(engine.records)
        counted = {
            part for dims in parameters.values() for dim in dims for part in atoms(dim)
            if part.size > 1
        }
        free = {part for part in counted if not part.reasons}
        outers = {o for part in free for o in within.get(part, ()) if o in counted}
        self._names: dict[Dim, str] = {}
        self._axes: dict[Dim, Axis] = {}
        taken: set[str] = set()
        for part, wanted in _in_order(engine, parameters):
            if part in self._names or part not in free | outers:
                continue
            name, count = wanted, 1
            while name in taken:
                count += 1
                name = f"{wanted}.{count}"
            taken.add(name)
            self._names[part] = name
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

    def axis(self, dim: Dim) -> Axis:
        """Return a dimension as an axis; neighbours that are fixed are one."""
        dim = find(dim)
        if dim not in self._axes:
            self._axes[dim] = self._axis(dim)
        return self._axes[dim]

    def _axis(self, dim: Dim) -> Axis:
        segments: list[Segment] = []
        for terms in expand(dim):
            segment = self._segment(terms)
            plain = len(segment) == 1 and segment[0].space is None and not segment[0].parts
            last = segments[-1] if segments else ()
            if plain and len(last) == 1 and last[0].space is None and not last[0].parts:
                segments[-1] = (Factor(last[0].size + segment[0].size),)
            else:
                segments.append(segment)
        return tuple(segments)

    def fixed(self, size: int) -> Axis:
        """Return an axis of which nothing may be relabelled."""
        return ((Factor(size),),)

    def _segment(self, terms: Sequence[Dim]) -> Segment:
        factors: list[Factor] = []
        for term in terms:
            term = find(term)
            if term.kind == "atom":
                factor = Factor(term.size, self._names.get(term))
            else:
                parts = self.axis(term)
                if len(parts) == 1:
                    factors += parts[0]
                    continue
                factor = Factor(term.size, parts=parts)
            plain = factor.space is None and not factor.parts
            if plain and factors and factors[-1].space is None and not factors[-1].parts:
                factors[-1] = Factor(factors[-1].size * factor.size)
            else:
                factors.append(factor)
        kept = tuple(factor for factor in factors if factor.size != 1)
        return kept or (Factor(segment_size(tuple(factors))),)


def _in_order(
    engine: Engine, parameters: Mapping[str, Sequence[Dim]]
) -> Iterator[tuple[Dim, str]]:
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
