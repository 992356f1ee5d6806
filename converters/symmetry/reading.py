"""From the fx graph that a tracer recorded to a :class:`Program`."""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from converters.inspection import all_tensors
from converters.symmetry.memory import storage_key
from converters.symmetry.program import Operation, Program, Ref

#: Sizes that depend on the data stand as numbers that no network has by chance, one per symbol.
_UNKNOWN_SIZES = (1000003, 1000033, 1000037, 1000039, 1000081, 1000099, 1000117, 1000121)


_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


class LostTensorError(RuntimeError):
    """A tensor was computed during the trace and not recorded: it only looks like a constant."""


def read_operations(
    program: Program, graph: fx.GraphModule, inputs: Sequence[Ref]
) -> tuple[list[Operation], list[Ref]]:
    """Read a graph that takes tensors of a program; return its operations and its results."""
    reader = Reader(nn.Module(), program=replace(program, operations=[]))
    reader.values.update(zip(_placeholders(graph.graph), inputs, strict=True))
    results = reader.read(graph, graph.graph.nodes)
    return reader.program.operations, [ref for ref in results if isinstance(ref, Ref)]


@dataclass
class Reader:
    """Reads an fx graph of ATen operations of a module into a program."""

    module: nn.Module
    #: which buffer each of the graph's last results, behind those of the forward, is the value of
    returned: Sequence[str] = ()
    #: names of the tensors that the caller gives
    inputs: Sequence[str] = ()
    program: Program = field(default_factory=Program)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    symbols: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors = all_tensors(self.module)
        self.persistent = set(self.module.state_dict())
        self.by_storage: dict[Any, Ref] = {}
        self.owners = {
            storage_key(self.tensors[name]): name for name in self.persistent & self.tensors.keys()
        }

    def read_exported(self, exported: torch.export.ExportedProgram) -> Program:
        """Read what ``torch.export`` recorded."""
        specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        placeholders = {n.name: n for n in _placeholders(exported.graph)}
        names = iter(self.inputs)
        for name, node in placeholders.items():
            spec = specs[name]
            target = _inner(str(spec.target))
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self._leaf(node, target)
            elif spec.kind == InputKind.CONSTANT_TENSOR:
                self._constant(node, exported.constants[str(spec.target)])
            else:
                self._input(node, next(names))
        results = self.read(exported.graph_module, exported.graph.nodes)
        buffers = {_inner(str(spec.target)): placeholders[name] for name, spec in specs.items()}
        returned = []
        for spec, result in zip(exported.graph_signature.output_specs, results, strict=True):
            if spec.kind.name == "BUFFER_MUTATION":
                self._update(buffers[_inner(str(spec.target))], result)
            elif "USER" in spec.kind.name:
                returned.append(result)
        self._return(returned, buffers)
        return self.program

    def read_graph(self, graph: fx.GraphModule, tensors: Sequence[str]) -> Program:
        """Read what ``make_fx`` recorded of a function of the module's tensors and its inputs."""
        placeholders = _placeholders(graph.graph)
        own = dict(zip(tensors, placeholders, strict=False))
        for name, node in own.items():
            self._leaf(node, name)
        for name, node in zip(self.inputs, placeholders[len(own) :], strict=True):
            self._input(node, name)
        self._return(self.read(graph, graph.graph.nodes), own)
        return self.program

    def _return(self, results: Sequence[Any], tensors: Mapping[str, fx.Node]) -> None:
        count = len(results) - len(self.returned)
        self.program.outputs = [ref for ref in results[:count] if isinstance(ref, Ref)]
        for name, result in zip(self.returned, results[count:], strict=True):
            if name in tensors:
                self._update(tensors[name], result)

    def _update(self, buffer: fx.Node, result: Any) -> None:
        old = self.values[buffer]
        if isinstance(result, Ref) and result != old and (old, result) not in self.program.updates:
            self.program.updates.append((old, result))

    # -- leaves -----------------------------------------------------------------------------------

    def _leaf(self, node: fx.Node, name: str) -> None:
        tensor = self.tensors[name]
        if name not in self.persistent:
            self._constant(node, tensor)
            return
        key = storage_key(tensor)
        if key not in self.by_storage:
            self.by_storage[key] = self.program.new(tuple(tensor.shape), tensor.dtype)
            self.program.parameters[name] = self.by_storage[key]
        self.values[node] = self.by_storage[key]

    def _constant(self, node: fx.Node, value: Tensor) -> None:
        if isinstance(value, (FakeTensor, FunctionalTensor)):
            raise LostTensorError("something was computed where the trace does not reach")
        if (owner := self.owners.get(storage_key(value))) is not None:
            self._leaf(node, owner)  # a parameter that stands in a list, or under a closure
            return
        ref = self.program.new(tuple(value.shape), value.dtype)
        self.program.constants[ref] = value.detach()
        self.values[node] = ref

    def _input(self, node: fx.Node, name: str) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            self.program.inputs[name] = self.program.new(self._shape(value), value.dtype)
            self.values[node] = self.program.inputs[name]
        else:
            self.values[node] = self._number(value)

    # -- operations -------------------------------------------------------------------------------

    def read(self, root: nn.Module, nodes: Any) -> Any:
        """Read operations; return what the graph gives."""
        for node in nodes:
            if node.op == "get_attr":
                value = reduce(getattr, str(node.target).split("."), root)
                if isinstance(value, Tensor):
                    self._constant(node, value)
                else:
                    self.values[node] = value
            elif node.op == "call_function":
                self._call(node)
        result = next(node for node in nodes if node.op == "output").args[0]
        return self._argument(result)

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self.values[node] = self._argument(node.args[0])[node.args[1]]
            return
        inner = next((a for a in node.args if isinstance(self._known(a), fx.GraphModule)), None)
        if inner is not None and str(node.target).startswith("wrap_with_"):
            self._inline(node, inner)
            return
        value = node.meta.get("val")
        if isinstance(value, (int, float, *_SYMBOLIC)):
            self.values[node] = self._number(value)
            return
        if value is None:
            return
        many = isinstance(value, (list, tuple))
        parts = value if many else (value,)
        taken_apart = many and all(user.target is operator.getitem for user in node.users)
        used = {user.args[1] for user in node.users} if taken_apart else set(range(len(parts)))
        outputs = tuple(
            self.program.new(self._shape(part), part.dtype)
            if isinstance(part, Tensor) and i in used else None for i, part in enumerate(parts)
        )
        self.values[node] = outputs if many else outputs[0]
        args, kwargs = self._argument((tuple(node.args), dict(node.kwargs)))
        operation = Operation(node.target, args, kwargs, outputs, *_origin(node))
        self.program.operations.append(operation)

    def _inline(self, node: fx.Node, inner: Any) -> None:
        graph = self._known(inner)
        outer = map(self._argument, node.args[node.args.index(inner) + 1 :])
        self.values.update(zip(_placeholders(graph.graph), outer, strict=True))
        self.values[node] = self.read(graph, graph.graph.nodes)

    def _known(self, argument: Any) -> Any:
        return self.values.get(argument) if isinstance(argument, fx.Node) else None

    def _argument(self, argument: Any) -> Any:
        return pytree.tree_map(
            lambda a: self.values.get(a) if isinstance(a, fx.Node) else self._number(a), argument
        )

    # -- sizes ------------------------------------------------------------------------------------

    def _shape(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(int(self._number(size)) for size in tensor.shape)

    def _number(self, value: Any) -> Any:
        """Return a number; symbols of data-dependent sizes are replaced by stand-ins."""
        if not isinstance(value, _SYMBOLIC):
            return value
        expression = value.node.expr
        for symbol in sorted(expression.free_symbols, key=str):
            count = len(self.symbols)
            last = min(count, len(_UNKNOWN_SIZES) - 1)
            self.symbols.setdefault(symbol, _UNKNOWN_SIZES[last] + 2 * (count - last))
        number = expression.subs(self.symbols)
        if isinstance(value, torch.SymBool):
            return bool(number)
        number = float(number) if isinstance(value, torch.SymFloat) else int(number)
        if expression.free_symbols:
            self.program.unknown.add(number)
        return number


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return graph.find_nodes(op="placeholder")


def _inner(name: str) -> str:
    """Return a name in the network from that in the module around it that was traced."""
    return name.removeprefix("module").removeprefix(".")


def _origin(node: fx.Node) -> tuple[str, str]:
    """Return the module path of a node, and the line of its forward."""
    last = ["", *list((node.meta.get("nn_module_stack") or {}).values())][-1]
    first = last[0] if isinstance(last, (tuple, list)) else last
    path = _inner(str(first).removeprefix("L['self']").lstrip(".").split("@")[0])
    trace_lines = str(node.meta.get("stack_trace") or "").splitlines()
    inside = os.path.dirname(torch.__file__)
    for where, code in itertools.pairwise(reversed(trace_lines)):
        # Read from the innermost frame outwards: the code stands after its place.
        if code.strip().startswith("File ") and inside not in code:
            name, _, rest = code.strip().removeprefix('File "').partition('", line ')
            return path, f"{os.path.basename(name)}:{rest.split(',')[0]}: {where.strip()}"
    return path, ""
