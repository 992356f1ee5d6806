"""From a module to a :class:`Program`: ``torch.export``, and ``make_fx`` where that fails.

Requires a module that :func:`check_supported` takes. Ensures that the program has no in-place
operations, that layers such as ``linear`` and ``lstm`` are one operation each, and that tensors
which share their storage are one parameter.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import linecache
import logging
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from converters.inspection import evaluating
from converters.symmetry.program import Operation, Program, Ref
from converters.symmetry.storage import storage_key
from nngraph.errors import UnsupportedModuleError

__all__ = ["mutates", "quiet", "read_operations", "trace", "without_writes"]

#: Sizes that depend on the data stand as numbers that no network has by chance, one per symbol.
_UNKNOWN_SIZES = (1000003, 1000033, 1000037, 1000039, 1000081, 1000099, 1000117, 1000121)

_DATA_DEPENDENT = (
    "GuardOnDataDependentSymNode", "UserError", "DynamicOutputShapeException",
    "DataDependentOutputException", "UnsupportedOperatorException",
)


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """Record the operations of one forward, in evaluation mode.

    Raises:
        UnsupportedModuleError: if the forward decides by the values of tensors what to do, or
            cannot be traced for another reason; names the line.
    """
    with evaluating(module), quiet():
        try:
            exported = torch.export.export(module, args, dict(kwargs), strict=False)
            exported = exported.run_decompositions({})
        except Exception as error:  # whatever the user's forward does under tracing
            first = error
        else:
            return _Reader(module).read_exported(exported)
        try:
            graph, names = _make_fx(module, args, dict(kwargs))
        except Exception as error:
            raise _refused(module, first, error) from first
        return _Reader(module).read_graph(graph, names)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's tracers print, warn and log about code that is not ours from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _refused(module: nn.Module, first: Exception, second: Exception) -> UnsupportedModuleError:
    names = {type(error).__name__ for error in (first, second)}
    decides = bool(names & set(_DATA_DEPENDENT)) or "data-dependent" in f"{first} {second}".lower()
    what = (
        "decides by the values of tensors what to compute (data-dependent control flow)"
        if decides else f"cannot be traced: {type(first).__name__}: {str(first).splitlines()[0]}"
    )
    return UnsupportedModuleError(
        f"{type(module).__name__} {what}, at {_user_line(first) or _user_line(second) or '?'}. "
        "Expected the same operations for every input; use torch.where or masks, or pass the "
        "submodules that have none of it."
    )


def _user_line(error: BaseException) -> str:
    """Return the innermost line of the error's stack that is not torch's own."""
    inside = os.path.dirname(torch.__file__) + os.sep
    here = os.path.abspath(__file__)
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        name, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        if not name.startswith((inside, "<")) and name != here and "contextlib" not in name:
            found = f"{os.path.basename(name)}:{line}: {linecache.getline(name, line).strip()}"
        traceback = traceback.tb_next
    return found


def _make_fx(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[fx.GraphModule, list[tuple[str, str]]]:
    """Record one forward below the level of Python, without in-place operations."""
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    leaves, tree = pytree.tree_flatten((args, kwargs))
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def run(*flat: Tensor) -> Any:
        values = dict(zip(tensors, flat[: len(tensors)], strict=True))
        full = list(leaves)
        for position, value in zip(positions, flat[len(tensors) :], strict=True):
            full[position] = value
        call_args, call_kwargs = pytree.tree_unflatten(full, tree)
        result = torch.func.functional_call(module, values, call_args, call_kwargs)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

    flat = [*tensors.values(), *(leaves[i] for i in positions)]
    with torch.no_grad():
        graph = make_fx(run, tracing_mode="fake", pre_dispatch=True)(*flat)
        if any(mutates(node) for node in graph.graph.nodes):
            # Only below the level at which linear is one operation are mutations taken out.
            graph = without_writes(run, flat)
    names = [("parameter", name) for name in tensors]
    names += [("input", f"input_{i}") for i in range(len(positions))]
    return graph, names


def without_writes(run: Callable[..., Any], flat: Sequence[Tensor]) -> fx.GraphModule:
    """Record a function from tensors to a list of them, in-place operations replaced."""
    from torch.fx.experimental.proxy_tensor import make_fx

    pure = torch.func.functionalize(run, remove="mutations")
    return make_fx(pure, tracing_mode="fake")(*flat)


def mutates(node: fx.Node) -> bool:
    """Whether a node writes into a tensor that it takes."""
    return bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))


def read_operations(
    program: Program, graph: fx.GraphModule, inputs: Sequence[Ref]
) -> tuple[list[Operation], list[Ref]]:
    """Read a graph that takes tensors of a program; return its operations and its results."""
    reader = _Reader(nn.Module(), replace(program, operations=[], outputs=[]))
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    reader.values.update(zip(placeholders, inputs, strict=True))
    reader._read(graph, graph.graph.nodes)
    return reader.program.operations, reader.program.outputs


@dataclass
class _Reader:
    """Reads an fx graph of ATen operations into a program."""

    module: nn.Module
    program: Program = field(default_factory=Program)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    symbols: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors: dict[str, Tensor] = dict(self.module.named_parameters(remove_duplicate=False))
        self.tensors.update(self.module.named_buffers(remove_duplicate=False))
        self.persistent = set(self.module.state_dict())
        self.by_storage: dict[Any, Ref] = {}

    def read_exported(self, exported: torch.export.ExportedProgram) -> Program:
        specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        for node in exported.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            target = str(spec.target)
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self._leaf(node, target)
            elif spec.kind == InputKind.CONSTANT_TENSOR:
                self._constant(node, exported.constants[target])
            else:
                self._input(node, node.name)
        self._read(exported.graph_module, exported.graph.nodes)
        outputs = exported.graph_signature.output_specs
        returned = list(self.program.outputs)
        pairs = list(zip(returned, outputs, strict=True))
        self.program.outputs = [ref for ref, spec in pairs if "USER" in spec.kind.name]
        leaves = {str(specs[n.name].target): n for n in exported.graph.nodes if n.name in specs}
        for ref, spec in pairs:
            if spec.kind.name == "BUFFER_MUTATION":
                self.program.updates.append((self.values[leaves[str(spec.target)]], ref))
        return self.program

    def read_graph(self, graph: fx.GraphModule, names: Sequence[tuple[str, str]]) -> Program:
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        for node, (kind, name) in zip(placeholders, names, strict=True):
            if kind == "parameter":
                self._leaf(node, name)
            else:
                self._input(node, name)
        self._read(graph, graph.graph.nodes)
        return self.program

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
        ref = self.program.new(tuple(value.shape), value.dtype)
        self.program.constants[ref] = value.detach()
        self.values[node] = ref

    def _input(self, node: fx.Node, name: str) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            ref = self.program.new(self._shape(value), value.dtype)
            self.program.inputs[name] = ref
            self.values[node] = ref
        else:
            self.values[node] = self._number(value)

    # -- operations -------------------------------------------------------------------------------

    def _read(self, root: nn.Module, nodes: Any) -> None:
        for node in nodes:
            if node.op == "get_attr":
                value = _attribute(root, str(node.target))
                if isinstance(value, Tensor):
                    self._constant(node, value)
                else:
                    self.values[node] = value
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                flat = pytree.tree_leaves(self._argument(node.args[0]))
                self.program.outputs = [ref for ref in flat if isinstance(ref, Ref)]

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self.values[node] = self._argument(node.args[0])[node.args[1]]
            return
        inner = next((a for a in node.args if isinstance(self._known(a), fx.GraphModule)), None)
        if inner is not None and str(node.target).startswith("wrap_with_"):
            self._inline(node, inner)
            return
        value = node.meta.get("val")
        if isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)):
            self.values[node] = self._number(value)
            return
        if value is None:
            return
        many = isinstance(value, (list, tuple))
        used = (
            {user.args[1] for user in node.users if user.target is operator.getitem}
            if many and all(user.target is operator.getitem for user in node.users)
            else set(range(len(value))) if many else {0}
        )
        outputs = tuple(
            self.program.new(self._shape(v), v.dtype)
            if isinstance(v, Tensor) and i in used else None
            for i, v in enumerate(value if many else (value,))
        )
        self.values[node] = outputs if many else outputs[0]
        path, line = _origin(node)
        self.program.operations.append(
            Operation(
                node.target, self._argument(tuple(node.args)), self._argument(dict(node.kwargs)),
                outputs, path, line,
            )
        )

    def _inline(self, node: fx.Node, inner: Any) -> None:
        graph = self._known(inner)
        outer = [*node.args[node.args.index(inner) + 1 :]]
        placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
        for placeholder, value in zip(placeholders, outer, strict=True):
            self.values[placeholder] = self._argument(value)
        before = self.program.outputs
        self._read(graph, graph.graph.nodes)
        result = next(n for n in graph.graph.nodes if n.op == "output").args[0]
        self.values[node] = self._argument(result)
        self.program.outputs = before

    def _known(self, argument: Any) -> Any:
        return self.values.get(argument) if isinstance(argument, fx.Node) else None

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.values.get(argument)
        if isinstance(argument, (list, tuple)):
            return type(argument)(self._argument(item) for item in argument)
        if isinstance(argument, dict):
            return {key: self._argument(item) for key, item in argument.items()}
        if isinstance(argument, (torch.SymInt, torch.SymFloat)):
            return self._number(argument)
        return argument

    # -- sizes ------------------------------------------------------------------------------------

    def _shape(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(int(self._number(size)) for size in tensor.shape)

    def _number(self, value: Any) -> Any:
        """Return a number; symbols of data-dependent sizes are replaced by stand-ins."""
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return value
        expression = value.node.expr
        for symbol in sorted(expression.free_symbols, key=str):
            if symbol not in self.symbols:
                count = len(self.symbols)
                self.symbols[symbol] = (
                    _UNKNOWN_SIZES[count] if count < len(_UNKNOWN_SIZES)
                    else _UNKNOWN_SIZES[-1] + 2 * count
                )
        number = expression.subs(self.symbols)
        if isinstance(value, torch.SymBool):
            return bool(number)
        number = float(number) if isinstance(value, torch.SymFloat) else int(number)
        if expression.free_symbols:
            self.program.unknown.add(number)
        return number


def _attribute(root: nn.Module, target: str) -> Any:
    value: Any = root
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _origin(node: fx.Node) -> tuple[str, str]:
    """Return the module path of a node, and the line of its forward."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = ""
    if stack:
        first = stack[-1][0] if isinstance(stack[-1], (tuple, list)) else str(stack[-1])
        path = str(first).removeprefix("L['self']").lstrip(".").split("@")[0]
    trace_lines = str(node.meta.get("stack_trace") or "").splitlines()
    inside = os.path.dirname(torch.__file__)
    for where, code in itertools.pairwise(reversed(trace_lines)):
        # Read from the innermost frame outwards: the code stands after its place.
        if code.strip().startswith("File ") and inside not in code:
            name, _, rest = code.strip().removeprefix('File "').partition('", line ')
            return path, f"{os.path.basename(name)}:{rest.split(',')[0]}: {where.strip()}"
    return path, ""
