"""The pass over a traced network: each operation's rule, in order, on the dimensions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from converters.symmetry.accounting import check_accounted, record_runs
from converters.symmetry.call import Call, Entry, Rule, Unruled, sources_of
from converters.symmetry.demands import Demands, find_demands
from converters.symmetry.dims import Dim, atom, fix, unify
from converters.symmetry.entries import settle_writes
from converters.symmetry.expansion import Expansion
from converters.symmetry.program import Operation, Program, Ref, Result, replaced, run_on
from converters.symmetry.reasons import Reason
from converters.symmetry.symmetric import SymmetricMatrices
from converters.symmetry.values import MAX_ENTRIES, Constant, Value, tensors

INPUT = Reason("input", natural=True)
OUTPUT = Reason("output", natural=True)

#: What a rule raises on arguments that it did not foresee.
_UNFORESEEN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, StopIteration,
    TypeError, ValueError,
)


@dataclass
class Engine:
    """Runs the rules over a program."""

    program: Program
    #: operator name -> rule, and one for operators without a rule by name
    rules: dict[str, Rule]
    fallback: Callable[[Operation], Rule | None]
    #: what is known of each tensor so far
    values: dict[Ref, Value] = field(default_factory=dict)
    #: dimensions over which some tensor or operation runs jointly
    records: list[tuple[Dim, ...]] = field(default_factory=list)
    #: the record of layers
    entries: list[Entry] = field(default_factory=list)
    #: operations that had no rule
    unruled: list[Operation] = field(default_factory=list)
    #: names of integer buffers, which hold positions and masks: their values are what matters
    tables: dict[str, Tensor] = field(default_factory=dict)
    #: where the axes of each tensor are cut later on
    demands: Demands = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expansion = Expansion(self.program, lambda o: self._rule(o) is not None)
        #: operators whose pieces are being run
        self.whole: list[Any] = []

    @cached_property
    def symmetric_matrices(self) -> SymmetricMatrices:
        """Which tensors are known to be symmetric matrices."""
        return SymmetricMatrices(self.program, self.values)

    def _rule(self, operation: Operation) -> Rule | None:
        return self.rules.get(operation.name) or self.fallback(operation)

    def run(self) -> None:
        """Run all rules, in the order of computation."""
        program = self.program
        self.expansion.expand_all()
        settle_writes(program)
        self.demands = find_demands(program)
        for name, ref in program.inputs.items():
            dims = tuple(atom(size, INPUT) for size in program.results[ref].shape)
            entry = self.enter(Entry("input", name, "", (), (), (), Value(dims)))
            self.values[ref] = Value(dims, (entry,), dtype=program.results[ref].dtype)
        for name, ref in program.parameters.items():
            dims = tuple(map(atom, program.results[ref].shape))
            dtype = program.results[ref].dtype
            self.values[ref] = Value(dims, (), parameter=name, dtype=dtype)
            if (table := self.tables.get(name)) is not None:
                self.values[ref].constant = Constant(tuple(table.shape), _known(table))
            self.records.append(dims)
        for ref, tensor in program.constants.items():
            self.values[ref] = _constant(program.results[ref], _known(tensor))
        for operation in program.operations:
            self._step(operation)
        for ref in program.outputs:
            value = self._use(self.values[ref], OUTPUT)
            for dim in (*value.dims, *([value.indexes] if value.indexes is not None else [])):
                fix(dim, OUTPUT)
            self.enter(Entry("output", "output", "", (), value.sources, (value,), value))

        for buffer, ref in program.updates:
            # What a forward leaves behind is relabelled like what it found.
            reason = Reason("update", text="is written to, with what is no relabelling of it")
            old, new = self.values[buffer], self._use(self.values[ref], reason)
            if old.shape == new.shape:
                for one, other in zip(old.dims, new.dims, strict=True):
                    unify(one, other)
            else:
                for dim in (*old.dims, *new.dims):
                    fix(dim, reason)
            if new.indexes is not None:
                fix(new.indexes, Reason("update", text="its indices are kept"))

    def enter(self, entry: Entry) -> int:
        """Append an entry to the record of layers; return its number."""
        self.entries.append(entry)
        return len(self.entries) - 1

    # -- one operation ----------------------------------------------------------------------------

    def _step(self, operation: Operation) -> None:
        inputs = [self.values[ref] for ref in operation.operands]
        if all(value.constant is not None for value in inputs):
            self._fold(operation)
            return
        reason = Reason(
            operation.name, operation.module_path, "a constant differs from index to index"
        )
        arguments = replaced(operation.arguments, lambda ref: self._use(self.values[ref], reason))
        call = Call(self, operation, arguments)
        rule = self._rule(operation)
        known = len(self.entries)
        try:
            if rule is None:
                raise Unruled("has no rule")
            results = self._ruled(rule, call)
        except Unruled as error:
            del self.entries[known:]
            if self._step_by_pieces(operation):
                return
            results = self._unknown(call, str(error), inputs)
        call.carry_indices(tensors(call.arguments), results)
        record_runs(call, results)
        names = [] if any(value.sources for value in inputs) else [
            name for value in inputs for name in (*value.made_from, value.parameter) if name
        ]
        made_from = tuple(dict.fromkeys(names))
        sources = sources_of(value for value in inputs if value.parameter is None)
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

    def _ruled(self, rule: Rule, call: Call) -> list[Value | None]:
        """Return what a rule gives, held against the shapes that were traced."""
        try:
            outcome = rule(call)
        except _UNFORESEEN as error:
            # What the rule has tied so far stays tied, and all that it was given is fixed.
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Unruled(f"is called as its rule does not expect ({what})") from error
        results: list[Value | None] = [outcome] if isinstance(outcome, Value) else [*outcome]
        if len(results) < len(call.shapes):
            raise Unruled(f"gives {len(call.shapes)} results where its rule expects {len(results)}")
        for number, (value, expected) in enumerate(zip(results, call.shapes, strict=False)):
            have = None if value is None else value.shape
            if call.used(number) and have != expected:
                raise Unruled(f"gives {expected} where its rule expects {have}")
        check_accounted(call, results)
        return results

    def _step_by_pieces(self, operation: Operation) -> bool:
        """Run the pieces of an operation in its place; say whether it has any."""
        pieces = self.expansion.expand(operation, tuple(self.whole))
        if pieces == [operation]:
            return False
        self.whole.append(operation.target)
        for piece in pieces:
            self._step(piece)
        self.whole.pop()
        return True

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
            results.append(None if ref is None else Value(atom(size, reason) for size in shape))
        named = {f"argument_{i}": v for i, v in enumerate(inputs) if v.parameter is not None}
        others = [value for value in inputs if value.parameter is None]
        for result in results:
            if result is not None:
                result.sources = call.enter("unknown", others, result, named).sources
        return results

    def _use(self, value: Value, reason: Reason) -> Value:
        """Return a value for one use: each use of a constant has dimensions of its own."""
        constant = value.constant
        if constant is None:
            return value
        dims = [
            atom(size, reason if constant.varies(axis) else None)
            for axis, size in enumerate(constant.shape)
        ]
        pair = constant.joint_axes()
        if pair is not None:
            dims[pair[0]] = dims[pair[1]] = atom(constant.shape[pair[0]])
        if value.parameter is not None:
            for dim in value.dims:
                fix(dim, reason)
        return Value(dims, (), constant, value.parameter, value.dtype)

    # -- constants --------------------------------------------------------------------------------

    def _fold(self, operation: Operation) -> None:
        """Compute an operation on constants."""

        for value in map(self.values.__getitem__, operation.operands):
            if value.parameter is not None:
                # A table that the state dict holds: it stays as it is.
                text = "a table of numbers"
                reason = Reason(operation.name, operation.module_path, text, natural=True)
                for dim in value.dims:
                    fix(dim, reason)
        found: Sequence[Tensor | None] = [None] * len(operation.outputs)
        # Unknown values are taken to vary everywhere, which is sound.
        with suppress(
            _NotKnown, RuntimeError, NotImplementedError, IndexError, TypeError, ValueError
        ):
            found = self._computed(operation)
        for ref, tensor in zip(operation.outputs, found, strict=False):
            if ref is not None:
                result = self.program.results[ref]
                fits = tensor is not None and tuple(tensor.shape) == result.shape
                self.values[ref] = _constant(result, tensor if fits else None)

    def _computed(self, operation: Operation) -> Sequence[Tensor | None]:
        def tensor_of(ref: Ref) -> Tensor:
            constant = self.values[ref].constant
            if constant is None or constant.value is None:
                raise _NotKnown
            return constant.value

        shapes = [self.program.results[ref].shape for ref in operation.outputs if ref is not None]
        large = any(torch.Size(shape).numel() > MAX_ENTRIES for shape in shapes)
        if large or operation.is_random or "empty" in operation.name:
            raise _NotKnown
        return run_on(operation, tensor_of)


class _NotKnown(Exception):
    """A constant whose value is not known."""


def _known(tensor: Tensor) -> Tensor | None:
    """Return a tensor if it has values: on the meta device it has none."""
    return None if tensor.device.type == "meta" else tensor


def _constant(result: Result, value: Tensor | None) -> Value:
    constant = Constant(result.shape, value)
    return Value(map(atom, result.shape), (), constant, dtype=result.dtype)
