"""From a module and example inputs to its permutation symmetry and the record of its layers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converters.inspection import named_tensors
from converters.symmetry.axes import Axis, AxisFactor
from converters.symmetry.dims import Dim, atoms, cut, fix, regroup, unify
from converters.symmetry.engine import Engine
from converters.symmetry.entries import find_unread
from converters.symmetry.located import as_arguments, input_tensors
from converters.symmetry.memory import dense_axes, overlaps_itself, shared_names, stretches
from converters.symmetry.naming import Namer
from converters.symmetry.program import Program, Ref
from converters.symmetry.reasons import Reason, is_natural
from converters.symmetry.refusals import check_supported
from converters.symmetry.rules import RULES, fallback
from converters.symmetry.spec import FixedReport, PermutationSpec
from converters.symmetry.tracing import trace
from converters.symmetry.values import Constant
from nngraph.errors import UnsupportedModuleError


@dataclass(frozen=True)
class Step:
    """One step of the computation, in the record from which a graph is built.

    Args:
        kind: ``"input"``, ``"linear"``, ``"add"`` (a residual sum), ``"activation"`` and so on.
        op: the operator.
        module_path: the module whose forward holds it.
        parameters: (role, name) of each parameter and buffer it uses as stored.
        inputs: earlier entries whose outputs it takes, views of them included.
        input_axes: for each tensor it takes, its axes.
        output_axes: axes of its result.
        arguments: further facts, such as ``("groups", 4)``.
        derived: (role, name) of each parameter from which an argument is computed without any input
            of the network: a transposed weight, a slice of a table of positions.
        result: the tensor of the program that it gives; ``None`` for inputs and outputs.
    """

    kind: str
    op: str
    module_path: str
    parameters: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...]
    input_axes: tuple[tuple[Axis, ...], ...]
    output_axes: tuple[Axis, ...]
    arguments: tuple[tuple[str, Any], ...] = ()
    derived: tuple[tuple[str, str], ...] = ()
    result: Ref | None = None


@dataclass(frozen=True)
class Derivation:
    """What the pass over a network found."""

    spec: PermutationSpec
    #: the record of layers, in the order of computation
    layers: tuple[Step, ...]
    #: operators that had no rule, each once
    unruled: tuple[str, ...]
    program: Program
    #: what is known of tensors that depend on no parameter and no input
    constants: Mapping[Ref, Constant]

    @property
    def operations(self) -> int:
        """Number of operations that were read."""
        return len(self.program.operations)

    def number(self, ref: Ref) -> float | None:
        """The number that every entry of a constant is; ``None`` for all other tensors."""
        constant = self.constants.get(ref)
        return None if constant is None else constant.number


def permutation_spec(
    module: nn.Module, example_inputs: Any, *, kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> PermutationSpec:  # fmt: skip
    """Derive which neurons of a module may be relabelled without changing its function.

    Args:
        module: any that ``torch.export`` can trace; it is not changed, nor is what its forward and
            its hooks write to. On the meta device it needs no weights.
        example_inputs: one tensor, or a tuple of positional arguments, tensors also inside
            containers and objects, such as graphs. Sizes count, values do not.
        kwargs: keyword arguments of its forward.
        strict: refuse operations that have no rule. By default they fix all that they touch, which
            is sound, and are reported.

    Raises:
        UnsupportedModuleError: if the module cannot be traced, names the line; or under ``strict``.
    """
    return derive(module, example_inputs, kwargs=kwargs, strict=strict).spec


def derive(
    module: nn.Module, example_inputs: Any, *, kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Derivation:  # fmt: skip
    """Derive the symmetry of a module, and record its layers; see :func:`permutation_spec`."""
    args, kwargs = as_arguments(example_inputs), kwargs or {}
    check_supported(module, input_tensors(args, kwargs))
    return derive_traced(trace(module, args, kwargs), module, strict=strict)


def derive_traced(program: Program, module: nn.Module, *, strict: bool = False) -> Derivation:
    """Derive the symmetry of a module that is traced already; see :func:`derive`."""
    return derive_named(program, module, strict=strict)[0]


def derive_named(
    program: Program, module: nn.Module, *, strict: bool = False
) -> tuple[Derivation, Engine, Namer]:
    """Derive the symmetry of a module that is traced already, and keep the pass itself."""
    tensors = named_tensors(module)
    tables = {n: tensors[n] for n in program.parameters if not tensors[n].is_floating_point()}
    engine = Engine(program, RULES, fallback, tables=tables)
    with torch.device("cpu"):  # masks and positions have values, whatever the caller's default is
        engine.run()
        unruled = tuple(dict.fromkeys(operation.name for operation in engine.unruled))
        if strict and unruled:
            first = engine.unruled[0]
            raise UnsupportedModuleError(
                f"in {first.module_path or 'the module itself'!r} the operation {first.name} has "
                f"no rule ({', '.join(unruled)} in all), at {first.line or 'an unknown line'}. "
                "Known: see converters.symmetry.rules.RULES. Add a rule there, or pass "
                "strict=False to fix what it touches."
            )
        builder = _Builder(engine, tensors)
        return builder.build(module, unruled), engine, builder.namer


class _Builder:
    """Turns dimensions into names."""

    def __init__(self, engine: Engine, tensors: Mapping[str, Tensor]) -> None:
        self.program, self.engine, self.tensors = engine.program, engine, tensors
        self.names = shared_names(tensors)

    def build(self, module: nn.Module, unruled: tuple[str, ...]) -> Derivation:
        self._join_overlaps()
        self._fix_unread()
        used = self.program.kept.union(*(o.operands for o in self.program.operations))
        refs = {name: self._ref(name) for name in self.names}
        values = self.engine.values
        dims = {name: values[ref].dims for name, ref in refs.items() if ref in used}
        namer = self.namer = Namer(self.engine, dims)
        axes = {
            name: tuple(map(namer.axis, dims[name])) if name in dims
            else tuple(((AxisFactor(size),),) for size in self.tensors[name].shape)
            for name in self.names
        }
        buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
        spec = PermutationSpec(
            namer.spaces,
            axes,
            {name: others for name, others in self.names.items() if others},
            tuple(name for name in self.names if name in buffers),
            tuple(name for name in self.names if name not in dims),
            self._reports(dims),
        )
        constants = {
            ref: value.constant for ref, value in values.items()
            if value.constant is not None and value.parameter is None
        }
        layers = tuple(
            Step(
                entry.kind, entry.op, entry.module_path, entry.parameters, entry.inputs,
                tuple(tuple(map(namer.axis, dims)) for dims in entry.input_dims),
                tuple(map(namer.axis, entry.output_dims)), entry.arguments, entry.derived,
                entry.result,
            )
            for entry in self.engine.entries
        )
        return Derivation(spec, layers, unruled, self.program, constants)

    def _ref(self, name: str) -> Ref | None:
        """Return a parameter that the operations use, by any of its names."""
        known = self.program.parameters
        return next((known[n] for n in (name, *self.names.get(name, ())) if n in known), None)

    def _join_overlaps(self) -> None:
        """Join tensors that are one block of memory, read in another order or shape; fix others.

        A transposed view has the same entries: axes that step through memory alike are one. Of
        tensors that share memory in part, no relabelling fits both.
        """
        known = {
            name: tensor for name, tensor in self.tensors.items()
            if name in self.names and not tensor.is_meta and tensor.numel()
        }
        for number, tensor in enumerate(self.program.constants.values()):
            # A plain attribute may be a view of a parameter; of its own, it joins nothing.
            if not tensor.is_meta and tensor.layout is torch.strided and tensor.numel():
                known[f"constant {number}"] = tensor.detach()
        for name, tensor in known.items():
            if overlaps_itself(tensor):
                self._fix_parameter(name, "shares memory between its own entries")
        named = {id(tensor): name for name, tensor in known.items()}
        for stretch in stretches(known.values()):
            first, *others = (named[id(tensor)] for tensor in stretch.tensors)
            for other in others:
                if not self._join(known, first, other):
                    for one, two in itertools.permutations((first, other)):
                        self._fix_parameter(one, f"shares memory in part with {two!r}")

    def _join(self, tensors: Mapping[str, Tensor], one: str, other: str) -> bool:
        """Let two parameters that are the same memory be relabelled as one."""
        first, second = tensors[one], tensors[other]
        orders = dense_axes(first), dense_axes(second)
        same = (first.data_ptr(), first.numel()) == (second.data_ptr(), second.numel())
        if orders[0] is None or orders[1] is None or not same:
            return False
        dims = self._dims(one), self._dims(other)
        if not dims[0] or not dims[1]:
            return False
        left, right = [dims[0][i] for i in orders[0]], [dims[1][i] for i in orders[1]]
        sizes = [dim.size for dim in right]
        for mine, theirs in zip(regroup(left, sizes), right, strict=True):
            unify(mine, theirs)
        return True

    def _fix_unread(self) -> None:
        """Fix parts of tensors that nothing reads at these sizes, such as later positions.

        Relabelling them would leave this computation as it is, and not that of a longer input.
        """
        values = self.engine.values
        reasons = {
            ref: Reason("storage", "", f"a part of {name!r} is never read")
            for name, ref in self.program.parameters.items()
        }
        read = {
            part for ref, value in values.items() if ref not in reasons
            for cell in value.cells for dim in cell for part in atoms(dim)
        }
        parts = {ref: {p for dim in values[ref].dims for p in atoms(dim)} for ref in reasons}
        owners = Counter(itertools.chain.from_iterable(parts.values()))
        for ref, reason in reasons.items():
            for part in parts[ref]:
                # What was told apart index by index is fixed, and may be one new part by now.
                if part not in read and not part.reasons and owners[part] == 1 and part.size > 1:
                    fix(part, reason)
        for ref, axes in find_unread(self.program).items():
            for dim, runs in zip(values[ref].dims, axes, strict=True):
                pieces = cut(dim, [size for size, _ in runs])
                for piece, (_, unread) in zip(pieces, runs, strict=True):
                    if unread:
                        fix(piece, reasons[ref])

    def _fix_parameter(self, name: str, text: str) -> None:
        for dim in self._dims(name):
            fix(dim, Reason("storage", "", text))

    def _dims(self, name: str) -> tuple[Dim, ...]:
        ref = self._ref(name)
        return () if ref is None else self.engine.values[ref].dims

    def _reports(self, dims: Mapping[str, tuple[Dim, ...]]) -> tuple[FixedReport, ...]:
        """Say what lost freedom by operations alone; inputs and outputs take none away."""
        reports: dict[tuple[str, str, str, bool], dict[str, None]] = {}
        for name, all_dims in dims.items():
            for part in (part for dim in all_dims for part in atoms(dim)):
                if part.size == 1 or any(map(is_natural, part.reasons)):
                    continue
                for reason in part.reasons:
                    if isinstance(reason, Reason):
                        key = (reason.op, reason.module_path, reason.text, reason.unknown)
                        reports.setdefault(key, {})[name] = None
        return tuple(
            FixedReport(op, path, tuple(found), text, unknown)
            for (op, path, text, unknown), found in reports.items()
        )
