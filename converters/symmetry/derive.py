"""From a module and example inputs to its permutation symmetry and the record of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from converters.symmetry.arguments import as_arguments, input_tensors
from converters.symmetry.call import Entry
from converters.symmetry.dims import Dim, atoms, fix
from converters.symmetry.engine import Engine
from converters.symmetry.naming import Namer
from converters.symmetry.program import Program, Ref, references
from converters.symmetry.refusals import check_supported
from converters.symmetry.rules import RULES, fallback
from converters.symmetry.spec import Axis, FixedReport, PermutationSpec
from converters.symmetry.storage import shared_names
from converters.symmetry.tracing import trace
from converters.symmetry.values import Reason
from nngraph.errors import UnsupportedModuleError

__all__ = ["Derivation", "Layer", "derive", "permutation_spec"]


@dataclass(frozen=True)
class Layer:
    """One step of the computation, in the record from which a graph is built.

    Args:
        kind: ``"input"``, ``"output"``, ``"linear"``, ``"convolution"``, a kind of norm,
            ``"embedding"``, ``"attention"``, ``"recurrent"``, ``"add"`` (a residual sum),
            ``"multiply"``, ``"activation"``, ``"concatenate"`` and so on.
        op: the operator.
        module_path: the module whose forward holds it.
        parameters: (role, name) of each parameter and buffer it uses as stored.
        inputs: earlier entries whose outputs it takes, views of them included.
        input_axes: for each tensor it takes, its axes.
        output_axes: axes of its result.
        arguments: further facts, such as ``("groups", 4)``.
        activation: operator of the activation that alone follows, if one does.
        derived: (role, name) of each parameter from which, without any input of the network, an
            argument is computed: a transposed weight, a slice of a table of positions.
    """

    kind: str
    op: str
    module_path: str
    parameters: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...]
    input_axes: tuple[tuple[Axis, ...], ...]
    output_axes: tuple[Axis, ...]
    arguments: tuple[tuple[str, Any], ...] = ()
    activation: str | None = None
    derived: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Derivation:
    """What the pass over a network found.

    Args:
        spec: the symmetry.
        layers: the record of layers, in the order of computation.
        unruled: operators that had no rule, each once.
        operations: number of operations that were read.
    """

    spec: PermutationSpec
    layers: tuple[Layer, ...]
    unruled: tuple[str, ...]
    operations: int


def permutation_spec(
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> PermutationSpec:
    """Derive which neurons of a module may be relabelled without changing its function.

    Args:
        module: any module that ``torch.export`` can trace; it is not changed, nor is what its
            forward and its hooks write to. On the meta device it needs no weights.
        example_inputs: one tensor, or a tuple of positional arguments. Sizes count, values do not.
            Tensors may be inside containers and objects, such as graphs.
        kwargs: keyword arguments of its forward.
        strict: refuse operations that have no rule. By default they fix all that they touch, which
            is sound, and are reported.

    Raises:
        UnsupportedModuleError: if the module cannot be traced, names the line; or under ``strict``.
    """
    return derive(module, example_inputs, kwargs=kwargs, strict=strict).spec


def derive(
    module: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Derivation:
    """Derive the symmetry of a module, and record its layers; see :func:`permutation_spec`."""
    args = as_arguments(example_inputs)
    check_supported(module, input_tensors(args, kwargs or {}))
    program = trace(module, args, kwargs or {})
    tensors = _state(module)
    names = shared_names(tensors)
    tables = {
        name: tensors[name] for name in program.parameters
        if not tensors[name].is_floating_point()
    }
    engine = Engine(program, RULES, fallback, tables=tables)
    engine.run()
    unruled = tuple(dict.fromkeys(operation.name for operation in engine.unruled))
    if strict and unruled:
        first = engine.unruled[0]
        raise UnsupportedModuleError(
            f"in {first.module_path or 'the module itself'!r} the operation {first.name} has no "
            f"rule ({', '.join(unruled)} in all), at {first.line or 'an unknown line'}. Known: "
            "see converters.symmetry.rules.RULES. Add a rule there, or pass strict=False to fix "
            "what it touches."
        )
    return _Builder(program, engine, tensors, names, module).build(unruled)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by every name they have."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    return {name: tensors[name] for name in module.state_dict() if name in tensors}


class _Builder:
    """Turns dimensions into names."""

    def __init__(
        self,
        program: Program,
        engine: Engine,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, tuple[str, ...]],
        module: nn.Module,
    ) -> None:
        self.program = program
        self.engine = engine
        self.tensors = tensors
        self.names = names
        self.buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}

    def build(self, unruled: tuple[str, ...]) -> Derivation:
        self._fix_overlaps()
        self._fix_unread()
        dims: dict[str, tuple[Dim, ...]] = {}
        used: set[Ref] = set()
        for operation in self.program.operations:
            used.update(references((operation.args, operation.kwargs)))
        used.update(self.program.outputs)
        used.update(ref for pair in self.program.updates for ref in pair)
        unused = []
        for name in self.names:
            ref = next(
                (self.program.parameters[n] for n in (name, *self.names[name])
                 if n in self.program.parameters), None,
            )
            if ref is None or ref not in used:
                unused.append(name)
            elif ref is not None:
                dims[name] = self.engine.values[ref].dims
        namer = Namer(self.engine, dims)
        axes = {
            name: tuple(map(namer.axis, dims[name])) if name in dims
            else tuple(namer.fixed(size) for size in self.tensors[name].shape)
            for name in self.names
        }
        spec = PermutationSpec(
            namer.spaces,
            axes,
            {name: others for name, others in self.names.items() if others},
            tuple(name for name in self.names if name in self.buffers),
            tuple(unused),
            self._reports(dims),
        )
        layers = self._layers(namer)
        return Derivation(spec, layers, unruled, len(self.program.operations))

    def _fix_overlaps(self) -> None:
        """Fix tensors that share memory without being the same: no relabelling fits both views."""
        ranges: dict[Any, list[tuple[int, int, str]]] = {}
        for name in self.names:
            tensor = self.tensors[name]
            if tensor.device.type == "meta" or tensor.numel() == 0:
                continue
            start = tensor.data_ptr()
            extent = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            stop = start + (extent + 1) * tensor.element_size()
            ranges.setdefault(tensor.device, []).append((start, stop, name))
        for found in ranges.values():
            found.sort()
            reach, owner = -1, ""
            for start, stop, name in found:
                if start < reach:
                    for one, other in ((name, owner), (owner, name)):
                        self._fix_parameter(one, other)
                if stop > reach:
                    reach, owner = stop, name

    def _fix_unread(self) -> None:
        """Fix parts of tensors that nothing reads at these sizes, such as later positions.

        Relabelling them would leave this computation as it is, and not that of a longer input.
        """
        parameters = self.program.parameters
        refs = set(parameters.values())
        read = {
            part for ref, value in self.engine.values.items() if ref not in refs
            for cell in value.cells for dim in cell for part in atoms(dim)
        }
        owners: dict[Dim, set[Ref]] = {}
        for ref in refs:
            for dim in self.engine.values[ref].dims:
                for part in atoms(dim):
                    owners.setdefault(part, set()).add(ref)
        for name, ref in parameters.items():
            for dim in self.engine.values[ref].dims:
                for part in atoms(dim):
                    if part not in read and len(owners[part]) == 1 and part.size > 1:
                        fix(part, Reason("storage", "", f"a part of {name!r} is never read"))

    def _fix_parameter(self, name: str, other: str) -> None:
        reason = Reason("storage", "", f"shares memory in part with {other!r}")
        for known in (name, *self.names[name]):
            if known in self.program.parameters:
                for dim in self.engine.values[self.program.parameters[known]].dims:
                    fix(dim, reason)

    def _reports(self, dims: Mapping[str, tuple[Dim, ...]]) -> tuple[FixedReport, ...]:
        """Say what lost freedom by operations alone; inputs and outputs take none away."""
        lost: dict[Reason, dict[str, None]] = {}
        for name, all_dims in dims.items():
            for part in (part for dim in all_dims for part in atoms(dim)):
                if part.size == 1 or not part.reasons:
                    continue
                reasons = [r for r in part.reasons if isinstance(r, Reason)]
                if any(reason.natural for reason in reasons):
                    continue
                for reason in reasons:
                    lost.setdefault(reason, {})[name] = None
        reports: dict[tuple[str, str, str, bool], dict[str, None]] = {}
        for reason, found in lost.items():
            key = (reason.op, reason.module_path, reason.text, reason.unknown)
            reports.setdefault(key, {}).update(found)
        return tuple(
            FixedReport(op, path, tuple(found), text, unknown)
            for (op, path, text, unknown), found in reports.items()
        )

    def _layers(self, namer: Namer) -> tuple[Layer, ...]:
        entries = self.engine.entries
        users: dict[int, list[Entry]] = {}
        for entry in entries:
            for source in entry.inputs:
                users.setdefault(source, []).append(entry)
        layers = []
        for index, entry in enumerate(entries):
            following = users.get(index, [])
            alone = following[0] if len(following) == 1 else None
            activation = alone.op if alone is not None and alone.kind == "activation" else None
            layers.append(
                Layer(
                    entry.kind, entry.op, entry.module_path, entry.parameters, entry.inputs,
                    tuple(tuple(map(namer.axis, dims)) for dims in entry.input_dims),
                    tuple(map(namer.axis, entry.output_dims)), entry.arguments, activation,
                    entry.derived,
                )
            )
        return tuple(layers)

