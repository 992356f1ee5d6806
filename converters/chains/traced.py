"""Reading a module's forward: is it a chain of affine maps with activations between, and which?

The module is traced symbolically (``torch.fx``, in evaluation mode), so that the order of the
layers is that in which ``forward`` uses them. Each recorded operation must be one that a chain has
(:mod:`converters.chains.reading`); the first that is not is refused by name.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from converters.activations import Elementwise
from converters.chains.reading import PASSIVE, ChainReader, NeuronValues, NoChain, Weight
from converters.elementwise import finite_number
from converters.inspection import CONVERTIBLE, check_modules, describe, evaluating
from nngraph.errors import UnsupportedModuleError
from nngraph.graph import ChainLayer

#: Modules of torch whose forward is read; those of all others are one operation each.
_OPEN = ("activation", "dropout", "flatten", "linear")
_CONTAINERS = ("torch.nn.modules.container",)
_RESHAPES = ("flatten", "view", "reshape")


def trace_chain(module: nn.Module) -> list[ChainLayer]:
    """Return the affine maps of ``module`` in the order in which its forward applies them.

    Refused is a forward that is anything but such a chain, or does not use all of the state dict.
    """
    check_modules(module)
    maps = _GraphReader(module, _traced(module)).read()
    used = [name for affine in maps for name in (affine.weight, affine.bias)]
    for name in module.state_dict():
        if name not in used:
            raise UnsupportedModuleError(
                f"{name!r} is in the state dict of this {type(module).__name__}, but its forward "
                f"applies it in no layer, so it has no place in the graph. Remove it. {CONVERTIBLE}"
            )
    return maps


def _traced(module: nn.Module) -> fx.Graph:
    state = torch.get_rng_state()
    try:
        with evaluating(module):
            graph = _Tracer().trace(module)
    except UnsupportedModuleError:
        raise
    except Exception as error:  # whatever the user's forward does with a symbolic input
        raise UnsupportedModuleError(
            f"{describe(module, '')} could not be traced: {type(error).__name__}: {error} "
            f"Its forward must be the same operations for every input. {CONVERTIBLE}"
        ) from error
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        raise UnsupportedModuleError(
            f"{describe(module, '')} draws random numbers in its forward, which is not one "
            f"function then. {CONVERTIBLE}"
        )
    return graph


class _Proxy(fx.Proxy):
    """A symbolic value that records ``x *= 2`` as what it is: it changes all that shares memory."""


#: Operators of Python that work in place -> what they do
_IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "ipow": "pow",
             "imatmul": "matmul"}  # fmt: skip
for _name, _target in [(name, getattr(operator, name)) for name in _IN_PLACE]:
    setattr(_Proxy, f"__{_name}__", lambda self, other, target=_target: (
        self.tracer.create_proxy("call_function", target, (self, other), {})
    ))


class _Tracer(fx.Tracer):
    """Looks into all modules whose forward may be that of a chain."""

    #: Buffers are recorded, so that what a forward does to them does not happen.
    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.MultiheadAttention, Elementwise)):
            return True
        package, _, name = type(m).__module__.rpartition(".")
        is_open = package == "torch.nn.modules" and name in _OPEN
        return super().is_leaf_module(m, module_qualified_name) and not is_open

    def create_arg(self, a: Any) -> Any:
        """Let numbers that are tensors be numbers; the module is not given other constants."""
        if isinstance(a, Tensor) and not isinstance(a, (nn.Parameter, fx.Proxy)):
            number = _number(a)
            return a if number is None else number
        return super().create_arg(a)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Make one symbolic input; further arguments of ``forward`` keep their defaults."""
        signature = inspect.signature(root_fn)
        try:
            signature.bind(self.root, None)
        except TypeError:
            raise UnsupportedModuleError(
                f"{describe(self.root, '')} has forward{signature}; expected one tensor, and "
                f"defaults for everything else. {CONVERTIBLE}"
            ) from None
        return root_fn, [self.root, self.create_proxy("placeholder", "input", (), {})]


#: The shape of the input, of which a chain may only use the number of rows.
_SIZES = object()


class _GraphReader:
    """Follows the recorded operations."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module, self.graph = module, graph
        self.tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        self.reader = ChainReader(shapes, exact=True)
        self.values: dict[fx.Node, Any] = {}
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        #: features that a view(-1, features) of the input demands
        self.features: int | None = None
        #: the last operation between layers
        self.between: fx.Node | None = None

    def read(self) -> list[ChainLayer]:
        for node in self.graph.nodes:
            try:
                if node.op == "output":
                    return self.reader.finish(self._argument(node.args[0]))
                self.values[node] = self._value(node)
            except NoChain as error:
                blamed = self.between if error.made_before and self.between is not None else node
                raise self._refused(blamed, str(error)) from None
        raise AssertionError("a recorded forward ends in an output")

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return NeuronValues()
        if node.op == "get_attr":
            return self._leaf(str(node.target))
        if self._is_size(node):
            return _SIZES
        name = _base_name(node)
        if node.op == "call_function" and not _is_of_torch(node.target):
            raise NoChain("is no operation of torch")
        self._check_in_place(node)
        if node.op == "call_module":
            return self._module(node)
        if name in _RESHAPES:
            return self._reshaped(node, name)
        operands = _bound(node, name)
        if node.target is getattr:
            name = str(node.args[1])
            operands = {"self": node.args[0]}
        arguments = {k: self._argument(v) for k, v in operands.items() if k != "inplace"}
        result = self.reader.apply(name, name, arguments)
        if isinstance(result, NeuronValues) and result.operators:
            self.between = node
        elif isinstance(result, NeuronValues) and result.maps:
            width = self.reader.shapes[result.maps[0].weight][1]
            if self.features not in (None, width):
                raise NoChain(f"follows a view of the input as rows of {self.features}")
        return result

    def _leaf(self, name: str) -> Any:
        if name in self.module.state_dict() and isinstance(self.tensors[name], nn.Parameter):
            return Weight(name)
        value = self.tensors.get(name)
        number = _number(attrgetter(name)(self.module) if value is None else value)
        if number is None:
            raise NoChain(f"reads {name!r}, which is no parameter")
        return number

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.values[value]
        if isinstance(value, (tuple, list)):
            return type(value)(map(self._argument, value))
        number = finite_number(value)
        return value if number is None or isinstance(value, int) else number

    def _module(self, node: fx.Node) -> Any:
        called = self.module.get_submodule(str(node.target))
        value = self._argument(node.args[0]) if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(called, Elementwise) or not isinstance(value, NeuronValues):
            raise NoChain("is no layer or activation of a chain")
        self.between = node
        return self.reader.activated(value, called.activation)

    def _is_size(self, node: fx.Node) -> bool:
        """Whether the node asks for the number of rows of the input."""
        source = self.values.get(node.args[0]) if node.args else None  # type: ignore[arg-type]
        if source is _SIZES:
            return node.target is operator.getitem and bool(node.args[1] == 0)
        return isinstance(source, NeuronValues) and not source.maps and bool(
            (node.target is getattr and node.args[1] == "shape")
            or (node.target == "size" and node.args[1:] in ((), (0,)) and not node.kwargs)
        )

    def _check_in_place(self, node: fx.Node) -> None:
        """Check that what an operation overwrites is not used afterwards."""
        if not _is_in_place(node):
            return
        changed = node.args[0] if node.args else node.kwargs.get("input")
        while isinstance(changed, fx.Node):
            if isinstance(self.values[changed], Weight):
                raise NoChain("changes a parameter")
            if any(self.order[user] > self.order[node] for user in changed.users):
                raise NoChain("changes a value of the chain that is used afterwards")
            shares = _base_name(changed) in (*PASSIVE, *_RESHAPES, "dropout")
            changed = changed.args[0] if shares and changed.args else None

    def _reshaped(self, node: fx.Node, name: str) -> NeuronValues:
        """Flatten the input to rows; refused anywhere else."""
        value = self._argument(node.args[0]) if node.args else None
        given = dict(zip(("input", "start_dim", "end_dim"), node.args, strict=False)) | node.kwargs
        dims = (given.get("start_dim", 0), given.get("end_dim", -1))
        other = name == "flatten" and dims != (1, -1)
        if not isinstance(value, NeuronValues) or value.maps or value.operators or other:
            raise NoChain("flattens something else than each input to one row")
        if name == "flatten":
            return value
        sizes = node.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = tuple(sizes[0])
        rows, features = map(self._argument, sizes) if len(sizes) == 2 else (None, None)
        if rows == -1 and isinstance(features, int) and features > 0:
            self.features = features
        elif rows is not _SIZES or features != -1:
            raise NoChain("reshapes to something else than rows")
        return value

    def _refused(self, node: fx.Node, why: str) -> UnsupportedModuleError:
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        path = str(node.target) if node.op == "call_module" else (stack or [""])[-1]
        module = self.module.get_submodule(path)
        what = "the output" if node.op == "output" else f"operation {_base_name(node)!r}"
        own = type(module).__module__ not in _CONTAINERS
        if own and node.op != "output" and type(module).__module__.startswith("torch.nn.modules"):
            return UnsupportedModuleError(f"{describe(module, path)} {why}. {CONVERTIBLE}")
        where = describe(module, path, "in {}, a {}")
        return UnsupportedModuleError(f"{where}, {what} {why}. {CONVERTIBLE}")


def _number(value: object) -> float | None:
    """The number that a tensor of one entry holds, which broadcasts to any neurons."""
    if (
        isinstance(value, Tensor) and value.numel() == 1 and value.dim() < 2
        and not value.is_complex() and value.dtype != torch.bool and not value.is_meta
    ):
        return finite_number(float(value))
    return None


def _base_name(node: fx.Node) -> str:
    """The name of an operator, a function or a method, without what says that it is in place."""
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    name = name.partition(".")[0].strip("_")
    return _SAME.get(name, name)


#: Functions of torch -> the operator that they are
_SAME = {"logsigmoid": "log_sigmoid", "truediv": "div", **_IN_PLACE}


def _is_of_torch(target: Any) -> bool:
    """Whether a function is what its name says: torch's own, or an operator of Python."""
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(target).startswith("aten.")
    if not inspect.isfunction(target):
        return True  # a builtin
    return target.__module__.partition(".")[0] == "torch"


def _is_in_place(node: fx.Node) -> bool:
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name in ("requires_grad_", "detach_"):
        return False
    in_place = name.endswith("_") and not name.endswith("__")
    flag = _bound(node, _base_name(node)).get("inplace", False)
    return in_place or name in _IN_PLACE or bool(flag) or "out" in node.kwargs


def _bound(node: fx.Node, name: str) -> dict[str, Any]:
    """The arguments of a node by the names that its operator has for them, in their order."""
    names = _argument_names(node.target, name)
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    ordered = {k: given.pop(k) for k in names if k in given}
    more = {f"argument_{i}": v for i, v in enumerate(node.args[len(names) :])}
    return {
        "self" if key == "input" and name != "linear" else key: value
        for key, value in {**ordered, **more, **given}.items()
    }


def _argument_names(target: Any, name: str) -> list[str]:
    if inspect.isfunction(target):
        return list(inspect.signature(target).parameters)
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return []
    schema = getattr(packet, packet.overloads()[0])._schema
    return [argument.name for argument in schema.arguments]
