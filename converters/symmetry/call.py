"""One operation while its rule runs, and its entry in the record of layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from converters.symmetry.dims import Dim, atom, atoms, find, fix, unify
from converters.symmetry.program import ARRANGING, Operation, Ref
from converters.symmetry.reasons import APART, MAX_CUTS, Reason, is_natural
from converters.symmetry.values import Value

if TYPE_CHECKING:
    from converters.symmetry.engine import Engine


class Unruled(Exception):
    """A rule does not cover these arguments; the operation is treated as one without a rule."""


@dataclass(eq=False)
class Entry:
    """One entry of the record of layers, with dimensions in place of axes."""

    kind: str
    op: str
    module_path: str
    parameters: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...]
    values: tuple[Value, ...]
    output: Value
    arguments: tuple[tuple[str, Any], ...] = ()
    derived: tuple[tuple[str, str], ...] = ()
    result: Ref | None = None

    @property
    def input_dims(self) -> tuple[tuple[Dim, ...], ...]:
        """Dimensions of what it takes."""
        return tuple(value.shown for value in self.values)

    @property
    def output_dims(self) -> tuple[Dim, ...]:
        """Dimensions of what it gives."""
        return self.output.shown


#: Operations whose results hold entries of the one tensor that they take, and nothing else.
_MOVING = {*ARRANGING, "expand", "repeat", "repeat_interleave", "_to_copy", "to", "lift_fresh_copy"}

Outcome: TypeAlias = "Value | Sequence[Value | None]"
Rule: TypeAlias = "Callable[[Call], Outcome]"


class Call:
    """One operation of a pass while its rule runs: its arguments by name, tensors as values."""

    def __init__(self, engine: Engine, operation: Operation, arguments: dict[str, Any]) -> None:
        self.engine, self.operation, self.arguments = engine, operation, arguments
        self.entered = False
        #: dimensions along which this operation moves or mixes what it finds
        self.mixed: list[Dim] = []
        #: indices that this operation looks up where they belong
        self.looked_up: list[Value] = []
        #: dimensions that a result drops; those that all results drop stand under ``None``
        self.dropped: dict[int | None, list[Dim]] = {}
        #: new dimensions whose indices are alike
        self.alike: list[Dim] = []
        #: whether the rule says how the operation runs through what it takes
        self.declared = False

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def value(self, name: str) -> Value:
        """Return an argument that must be a tensor."""
        value = self.arguments[name]
        if not isinstance(value, Value):
            raise Unruled(f"has {value!r} for {name!r} where its rule expects a tensor")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or a default for operators that do not have it."""
        return self.arguments.get(name, default)

    def along(self, name: str = "dim", default: int | None = None) -> tuple[Value, int]:
        """Return the tensor and the axis along which the operation goes, counted from the front."""
        value, index = self.value("self"), self.get(name, default)
        return value, index + value.rank if index < 0 else index

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the results, as traced."""
        results = self.engine.program.results
        return [() if ref is None else results[ref].shape for ref in self.operation.outputs]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shapes[0]

    def cuts(self, axis: int) -> list[int]:
        """Return sizes of the pieces into which an axis of the first result is cut later on."""
        ref = self.operation.outputs[0]
        places = self.engine.demands.get(ref, {}).get(axis, ()) if ref is not None else ()
        places = () if len(places) > MAX_CUTS else places
        ends = [0, *sorted(places), self.shape[axis]]
        return [end - start for start, end in itertools.pairwise(ends)]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first result."""
        ref = self.operation.outputs[0]
        assert ref is not None
        return self.engine.program.results[ref].dtype

    def used(self, output: int) -> bool:
        """Whether anything uses that result."""
        return self.operation.outputs[output] is not None

    def reason(self, text: str, unknown: bool = False, natural: bool = False) -> Reason:
        """Return a reason that names this operation."""
        operation = self.operation
        return Reason(operation.name, operation.module_path, text, unknown, natural)

    def fix(self, dims: Iterable[Dim], text: str, natural: bool = False) -> None:
        """Fix dimensions, of which this operation treats indices unlike one another, as it says.

        That is ``natural`` where no freedom is lost, since these are no neurons (taps of a kernel).
        """
        reason = self.reason(text, natural=natural)
        for dim in dims:
            fix(dim, reason)
            self.mixed.append(dim)

    def looks_up(self, index: Value, dim: Dim) -> bool:
        """Look indices up in a dimension, tied to theirs; say whether they are known indices."""
        if index.indexes is None or index.indexes.size != dim.size:
            return False
        unify(dim, index.indexes)
        self.drops(dim, results=range(len(self.shapes)))
        self.looked_up.append(index)
        return True

    def carry_indices(self, operands: Iterable[Value], results: Iterable[Value | None]) -> None:
        """Say what became of indices: looked up, moved, or told apart by any other use."""
        known = self.engine.program.results
        types = [known[ref].dtype for ref in self.operation.outputs if ref is not None]
        whole = not any(t.is_floating_point or t.is_complex or t == torch.bool for t in types)
        moving = whole and self.operation.short_name in _MOVING
        for value in operands:
            if value.indexes is None or any(value is found for found in self.looked_up):
                continue
            if moving:
                for result in results:
                    if result is not None:
                        result.indexes = value.indexes
            else:
                self.fix([value.indexes], "has indices that are computed with")

    # -- what becomes of indices: a rule accounts for each (see converters.symmetry.accounting) ---

    def entrywise(self) -> None:
        """Say that each entry of a result comes from entries at its own indices alone."""
        self.declared = True

    def drops(self, *dims: Dim, results: Iterable[int] = (0,)) -> None:
        """Say that results do not see the order of dimensions that they do not have."""
        self.declared = True
        for number in results:
            self.dropped.setdefault(number, []).extend(dims)

    def leaves_out(self, *values: Value) -> None:
        """Say that results depend on no entry of values but those that they still have."""
        self.declared = True
        everything = [dim for value in values for cell in value.cells for dim in cell]
        self.dropped.setdefault(None, []).extend(everything)

    def dropped_by(self, result: int) -> list[Dim]:
        """Return the dimensions that a result is said to drop."""
        return [*self.dropped.get(None, ()), *self.dropped.get(result, ())]

    def copies(self, size: int) -> Dim:
        """Return a new dimension whose indices are alike, so that their order is free."""
        self.alike.append(atom(size))
        return self.alike[-1]

    def mixes(self, value: Value, places: Collection[int]) -> None:
        """Say that entries are combined along some axes of a value, at each index of the others.

        What meets there cannot be relabelled independently for each index of those axes.
        """
        self.declared = True
        self.record(dim for place, dim in enumerate(value.dims) if place not in places)

    def iterates(self, *dims: Dim) -> None:
        """Say that this operation runs over these dimensions jointly, and sums over some."""
        self.drops(*dims)
        self.record(dims)

    def record(self, dims: Iterable[Dim]) -> None:
        """Record dimensions that are run over jointly, for what lies within what."""
        self.engine.records.append(tuple(dims))

    def resampled(self, dims: Sequence[Dim], sizes: Sequence[int], text: str) -> list[Dim]:
        """Fix dimensions along which neighbours are combined; return those of the result.

        Freedom is lost where they were neurons and no positions, also for what meets the result.
        """
        natural = all(
            part.size == 1 or APART in part.reasons or any(map(is_natural, part.reasons))
            for dim in dims for part in atoms(dim)
        )
        self.fix(dims, text, natural)
        reason = self.reason(text, natural=natural)
        return [atom(size, reason) for size in sizes]

    def resample(self, dims: Sequence[Dim], places: Sequence[int], text: str) -> list[Dim]:
        """Return dimensions, some of them resampled to the sizes that the first result has."""
        sizes = [self.shape[place] for place in places]
        found = self.resampled([dims[place] for place in places], sizes, text)
        new = dict(zip(places, found, strict=True))
        return [new.get(place, dim) for place, dim in enumerate(dims)]

    def fixed(self, size: int, text: str = "counts positions") -> Dim:
        """Return a new fixed dimension, for what are no neurons."""
        return atom(size, self.reason(text, natural=True))

    def name(self, dim: Dim, word: str) -> None:
        """Say what a dimension counts, for the name of its space."""
        path = self.operation.module_path
        find(dim).hint = find(dim).hint or (f"{path}.{word}" if path else word)

    def enter(
        self, kind: str, inputs: Sequence[Value], output: Value,
        parameters: Mapping[str, Value | None] | None = None, /, **arguments: Any,
    ) -> Value:  # fmt: skip
        """Put this operation into the record of layers; return its output as coming from it.

        Args:
            kind: such as ``"linear"``.
            inputs: what it computes from, beside parameters.
            output: its (first) result.
            parameters: role -> value. One that is not as stored counts as an input, and as derived
                if it is computed from parameters alone.
            arguments: further facts, such as the stride of a convolution.
        """
        named, values = [], list(inputs)
        derived = [("input", name) for value in inputs for name in value.made_from]
        for role, value in (parameters or {}).items():
            if value is not None and value.parameter is not None:
                named.append((role, value.parameter))
            elif value is not None:
                values.append(value)
                derived += [(role, name) for name in value.made_from]
        self.entered = True
        index = self.engine.enter(
            Entry(
                kind, self.operation.name, self.operation.module_path, tuple(named),
                sources_of(values), tuple(values), output, tuple(arguments.items()), tuple(derived),
                self.operation.outputs[0],
            )
        )
        return output.made_by(index)


def sources_of(values: Iterable[Value]) -> tuple[int, ...]:
    """Return the layers from which values come."""
    return tuple(dict.fromkeys(s for value in values for s in value.sources))
