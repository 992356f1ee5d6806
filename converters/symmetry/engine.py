"""The pass over a traced network: each operation's rule, in order, on the dimensions of tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from converters.symmetry.demands import Demands, find_demands
from converters.symmetry.dims import Dim, atom, atoms, find, fix, unify
from converters.symmetry.program import Operation, Program, Ref, Result, references
from converters.symmetry.values import MAX_ENTRIES, Constant, Reason, Value

__all__ = ["Call", "Engine", "Entry", "Outcome", "Rule", "Unruled"]

INPUT = Reason("input", natural=True)
OUTPUT = Reason("output", natural=True)


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

    @property
    def input_dims(self) -> tuple[tuple[Dim, ...], ...]:
        """Dimensions of what it takes."""
        return tuple(value.shown for value in self.values)

    @property
    def output_dims(self) -> tuple[Dim, ...]:
        """Dimensions of what it gives."""
        return self.output.shown


Outcome: TypeAlias = "Value | Sequence[Value | None]"
Rule: TypeAlias = "Callable[[Call], Outcome]"


class Call:
    """One operation while its rule runs: its arguments by name, and what a rule may do.

    Args:
        engine: the pass.
        operation: what is called.
        arguments: by the names of the operator's schema, with defaults; tensors as values.
    """

    def __init__(self, engine: Engine, operation: Operation, arguments: dict[str, Any]) -> None:
        self.engine = engine
        self.operation = operation
        self.arguments = arguments
        self.entered = False
        #: dimensions along which this operation moves or mixes what it finds
        self.mixed: list[Dim] = []

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
        """Fix dimensions because this operation treats their indices unlike one another.

        Args:
            dims: what is fixed.
            text: what the operation does with it.
            natural: whether no freedom is lost, since these are no neurons (taps of a kernel).
        """
        reason = self.reason(text, natural=natural)
        for dim in dims:
            fix(dim, reason)
            self.mixed.append(dim)

    def mixes(self, value: Value, places: Collection[int]) -> None:
        """Note that entries are combined along some axes of a value, at each index of the others.

        What stands at one index of the others then meets for all indices of those axes, and so
        cannot be relabelled independently for each.
        """
        self.iterates(*(dim for place, dim in enumerate(value.dims) if place not in places))

    def resampled(self, dims: Sequence[Dim], sizes: Sequence[int], text: str) -> list[Dim]:
        """Fix dimensions along which neighbours are combined; return those of the result.

        Where they were neurons, and not fixed positions already, that is freedom lost, also for
        what meets the result.
        """
        natural = all(
            part.size == 1 or any(r.natural for r in part.reasons if isinstance(r, Reason))
            for dim in dims for part in atoms(dim)
        )
        self.fix(dims, text, natural)
        reason = self.reason(text, natural=natural)
        return [atom(size, reason) for size in sizes]

    def fixed(self, size: int, text: str = "counts positions") -> Dim:
        """Return a new fixed dimension, for what are no neurons."""
        return atom(size, self.reason(text, natural=True))

    def name(self, dim: Dim, word: str) -> None:
        """Say what a dimension counts, for the name of its space."""
        path = self.operation.module_path
        find(dim).hint = find(dim).hint or (f"{path}.{word}" if path else word)

    def iterates(self, *dims: Dim) -> None:
        """Note that this operation runs over these dimensions jointly (those it sums over too)."""
        self.engine.records.append(dims)

    def enter(
        self,
        kind: str,
        inputs: Sequence[Value],
        output: Value,
        parameters: dict[str, Value | None] | None = None,
        /,
        **arguments: Any,
    ) -> Value:
        """Put this operation into the record of layers; return its output as coming from it.

        Args:
            kind: such as ``"linear"``.
            inputs: what it computes from, beside parameters.
            output: its (first) result.
            parameters: role -> value. A value that is no parameter as stored counts as an input,
                and as derived if it is computed from parameters alone.
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
                _sources(values), tuple(values), output, tuple(arguments.items()), tuple(derived),
            )
        )
        return output.made_by(index)


def _sources(values: Iterable[Value]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(s for value in values for s in value.sources))


def _values(arguments: Any) -> list[Value]:
    """Return the values among arguments, lists opened."""
    if isinstance(arguments, Value):
        return [arguments]
    if isinstance(arguments, dict):
        return _values(list(arguments.values()))
    if isinstance(arguments, (list, tuple)):
        return [value for item in arguments for value in _values(item)]
    return []


@dataclass
class Engine:
    """Runs the rules over a program.

    Attributes:
        program: what is read.
        rules: operator name -> rule.
        fallback: rule for operators without one by name, or ``None``.
        values: what is known of each tensor so far.
        records: dimensions over which some tensor or operation runs jointly.
        entries: the record of layers.
        unruled: operations that had no rule.
    """

    program: Program
    rules: dict[str, Rule]
    fallback: Callable[[Operation], Rule | None]
    values: dict[Ref, Value] = field(default_factory=dict)
    records: list[tuple[Dim, ...]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    unruled: list[Operation] = field(default_factory=list)
    #: names of integer buffers, which hold positions and masks: their values are what matters
    tables: dict[str, Tensor] = field(default_factory=dict)
    #: where the axes of each tensor are cut later on
    demands: Demands = field(default_factory=dict)

    def run(self) -> None:
        """Run all rules, in the order of computation."""
        program = self.program
        self.demands = find_demands(program)
        for name, ref in program.inputs.items():
            dims = tuple(atom(size, INPUT) for size in program.results[ref].shape)
            entry = self.enter(Entry("input", name, "", (), (), (), Value(dims)))
            self.values[ref] = Value(dims, (entry,), dtype=program.results[ref].dtype)
        for name, ref in program.parameters.items():
            dims = tuple(atom(size) for size in program.results[ref].shape)
            dtype = program.results[ref].dtype
            self.values[ref] = Value(dims, (), parameter=name, dtype=dtype)
            if name in self.tables:
                self.values[ref].constant = Constant(program.results[ref].shape, self.tables[name])
            self.records.append(dims)
        for ref, tensor in program.constants.items():
            known = None if tensor.device.type == "meta" else tensor
            self.values[ref] = _constant(program.results[ref], known)
        for operation in program.operations:
            self._step(operation)
        for ref in program.outputs:
            value = self._use(self.values[ref], OUTPUT)
            for dim in value.dims:
                fix(dim, OUTPUT)
            self.enter(Entry("output", "output", "", (), value.sources, (value,), value))

        for buffer, ref in program.updates:
            # What a forward leaves behind is relabelled like what it found.
            reason = Reason("update", text="a constant is written to it")
            old, new = self._use(self.values[buffer], reason), self._use(self.values[ref], reason)
            for one, other in zip(old.dims, new.dims, strict=True):
                unify(one, other)

    def enter(self, entry: Entry) -> int:
        """Append an entry to the record of layers; return its number."""
        self.entries.append(entry)
        return len(self.entries) - 1

    # -- one operation ----------------------------------------------------------------------------

    def _step(self, operation: Operation) -> None:
        inputs = [self.values[ref] for ref in references((operation.args, operation.kwargs))]
        if all(value.constant is not None for value in inputs):
            self._fold(operation)
            return
        reason = Reason(
            operation.name, operation.module_path, "a constant differs from index to index"
        )
        call = Call(self, operation, self._bind(operation, reason))
        rule = self.rules.get(operation.name) or self.fallback(operation)
        shapes = call.shapes
        try:
            if rule is None:
                raise Unruled("has no rule")
            outcome = rule(call)
            results = [outcome] if isinstance(outcome, Value) else list(outcome)
            found = [None if value is None else value.shape for value in results]
            for have, expected, ref in zip(found, shapes, operation.outputs, strict=False):
                if ref is not None and have != expected:
                    raise Unruled(f"gives {expected} where its rule expects {have}")
            if len(found) < len(shapes):
                raise Unruled(f"gives {len(shapes)} results where its rule expects {len(found)}")
        except Unruled as error:
            results = self._unknown(call, str(error), inputs)
        if call.mixed:
            apart = {id(dim) for dim in call.mixed}
            touched = [*_values(call.arguments), *(v for v in results if v is not None)]
            self.records += [
                tuple(dim for dim in cell if id(dim) not in apart)
                for tensor in touched for cell in tensor.cells
            ]
        made_from: tuple[str, ...] = ()
        if not any(value.sources for value in inputs):
            made_from = tuple(
                dict.fromkeys(
                    name for value in inputs
                    for name in (*value.made_from, *([value.parameter] if value.parameter else []))
                )
            )
        sources = _sources(value for value in inputs if value.parameter is None)
        for ref, value in zip(operation.outputs, results, strict=False):
            if ref is not None and value is not None:
                value.dtype = self.program.results[ref].dtype
                if not call.entered:
                    value.made_from = made_from
                if value.constant is None:
                    self.records.extend(value.cells)
                    if not call.entered and not value.sources:
                        value.sources = sources
                self.values[ref] = value

    def _unknown(self, call: Call, why: str, inputs: list[Value]) -> list[Value | None]:
        """Fix all that an operation without a rule touches."""
        operation = call.operation
        self.unruled.append(operation)
        reason = call.reason(f"{operation.name} {why}", unknown=True)
        for value in inputs:
            for dim in value.dims:
                fix(dim, reason)
        results: list[Value | None] = []
        for ref, shape in zip(operation.outputs, call.shapes, strict=True):
            dims = tuple(atom(size, reason) for size in shape)
            results.append(None if ref is None else Value(dims))
        first = next((value for value in results if value is not None), None)
        if first is not None:
            self.enter_unknown(call, inputs, results)
        return results

    def enter_unknown(
        self, call: Call, inputs: list[Value], results: Sequence[Value | None]
    ) -> None:
        """Record an operation without a rule, with the parameters it takes."""
        named = {f"argument_{i}": v for i, v in enumerate(inputs) if v.parameter is not None}
        others = [value for value in inputs if value.parameter is None]
        for value in results:
            if value is not None:
                value.sources = call.enter("unknown", others, value, dict(named)).sources

    def _bind(self, operation: Operation, reason: Reason) -> dict[str, Any]:
        """Return the arguments by name, with tensors as values."""

        def value_of(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return self._use(self.values[argument], reason)
            if isinstance(argument, (list, tuple)):
                return [value_of(item) for item in argument]
            return argument

        schema = getattr(operation.target, "_schema", None)
        if schema is None:
            names = [f"argument_{i}" for i in range(len(operation.args))]
            bound = dict(zip(names, operation.args, strict=True))
        else:
            bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
            names = [argument.name for argument in schema.arguments]
            bound.update(zip(names, operation.args, strict=False))
        bound.update(operation.kwargs)
        return {name: value_of(argument) for name, argument in bound.items()}

    def _use(self, value: Value, reason: Reason) -> Value:
        """Return a value for one use: each use of a constant has dimensions of its own."""
        constant = value.constant
        if constant is None:
            return value
        dims = tuple(
            atom(size, reason if constant.varies(axis) else None)
            for axis, size in enumerate(constant.shape)
        )
        if value.parameter is not None:
            for dim in value.dims:
                fix(dim, reason)
        return Value(dims, (), constant, value.parameter, value.dtype)

    # -- constants --------------------------------------------------------------------------------

    def _fold(self, operation: Operation) -> None:
        """Compute an operation on constants."""

        def tensor_of(argument: Any) -> Any:
            if isinstance(argument, Ref):
                constant = self.values[argument].constant
                if constant is None or constant.value is None:
                    raise _NotKnown
                return constant.value
            if isinstance(argument, (list, tuple)):
                return [tensor_of(item) for item in argument]
            return argument

        for ref in references((operation.args, operation.kwargs)):
            value = self.values[ref]
            if value.parameter is not None:
                # A table that the state dict holds: it stays as it is.
                text = "a table of numbers"
                reason = Reason(operation.name, operation.module_path, text, natural=True)
                for dim in value.dims:
                    fix(dim, reason)
        results = [
            None if ref is None else self.program.results[ref] for ref in operation.outputs
        ]
        found: list[Tensor | None] = [None] * len(results)
        try:
            self._check_foldable(operation, [r.shape for r in results if r is not None])
            kwargs = {name: tensor_of(value) for name, value in operation.kwargs.items()}
            if "device" in kwargs:
                kwargs["device"] = "cpu"
            with torch.no_grad():
                outcome = operation.target(*map(tensor_of, operation.args), **kwargs)
            found = list(outcome) if isinstance(outcome, (list, tuple)) else [outcome]
        except (_NotKnown, RuntimeError, NotImplementedError, IndexError, TypeError, ValueError):
            # Unknown values are taken to vary everywhere, which is sound.
            found = [None] * len(results)
        for output, result, tensor in zip(operation.outputs, results, found, strict=False):
            if output is not None and result is not None:
                fits = tensor is not None and tuple(tensor.shape) == result.shape
                self.values[output] = _constant(result, tensor if fits else None)

    def _check_foldable(self, operation: Operation, shapes: Iterable[tuple[int, ...]]) -> None:
        random = torch.Tag.nondeterministic_seeded in getattr(operation.target, "tags", ())
        if random or "empty" in operation.name:
            raise _NotKnown
        for shape in shapes:
            if torch.Size(shape).numel() > MAX_ENTRIES:
                raise _NotKnown


class _NotKnown(Exception):
    """A constant whose value is not known."""


def _constant(result: Result, value: Tensor | None) -> Value:
    shape = result.shape
    dims = tuple(atom(size) for size in shape)
    return Value(dims, (), Constant(shape, value), dtype=result.dtype)
