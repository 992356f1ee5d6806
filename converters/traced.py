"""Reading a module's forward: is it a chain of affine maps with activations between, and which?

The module is traced symbolically (``torch.fx``, in evaluation mode), so that the order of the
layers is the order in which ``forward`` uses them, and never that in which they were registered.
Then each recorded operation must be one that a chain has; the first that is not is refused by name.

Requires: nothing of the module. Ensures: the module, in evaluation mode, computes the returned maps
one after another, from its input flattened to rows to its output.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from converters.chain import AffineMap
from converters.inspection import CONVERTIBLE, check_modules, describe, evaluating, located
from converters.modules import FROM_FUNCTION, finite_number, module_activation
from nngraph.errors import ArchitectureError, UnsupportedModuleError
from nngraph.graph import Activation

__all__ = ["trace_chain"]

_DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
)
_DROPOUT_FUNCTIONS = (F.dropout, F.alpha_dropout, F.feature_alpha_dropout)
_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")


def trace_chain(module: nn.Module) -> list[AffineMap]:
    """Return the affine maps of ``module`` in the order in which its forward applies them.

    Raises:
        UnsupportedModuleError: if the forward is anything but such a chain, or uses parameters
            that have no place in the graph, or does not use some of them.
    """
    check_modules(module)
    with evaluating(module):
        try:
            graph = _Tracer().trace(module)
        except UnsupportedModuleError:
            raise
        except Exception as error:  # whatever the user's forward does with a symbolic input
            raise UnsupportedModuleError(
                f"{describe(module, '')} could not be traced: {type(error).__name__}: {error} "
                f"Its forward must be the same operations for every input. {CONVERTIBLE}"
            ) from error
    maps = _Reader(module, graph).read()
    used = [name for affine in maps for name in (affine.weight, affine.bias)]
    for name in module.state_dict():
        if name not in used:
            raise UnsupportedModuleError(
                f"{name!r} is in the state dict of this {type(module).__name__}, but its forward "
                f"applies it in no layer, so it has no place in the graph. Remove it. {CONVERTIBLE}"
            )
    return maps


class _Tracer(fx.Tracer):
    """Records torch's own modules as they are, and looks into all others."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` is recorded as one operation."""
        return module_activation(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Make one symbolic input; further arguments of ``forward`` keep their defaults."""
        expected = list(inspect.signature(root_fn).parameters.values())[1:]
        optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        if (
            not expected
            or expected[0].kind in named
            or any(p.default is p.empty and p.kind not in optional for p in expected[1:])
        ):
            raise UnsupportedModuleError(
                f"{describe(self.root, '')} has forward{inspect.signature(root_fn)}; expected one "
                f"tensor, and defaults for everything else. {CONVERTIBLE}"
            )
        return root_fn, [self.root, self.create_proxy("placeholder", "input", (), {})]


class _Reader:
    """Follows the one value of a chain through the recorded operations."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module = module
        self.graph = graph
        self.parameters = dict(module.named_parameters())
        self.maps: list[AffineMap] = []
        #: the recorded operation whose result is the chain's value so far
        self.current: fx.Node | None = None
        #: factor on the value that the coming sine takes as its w0
        self.factor: float | None = None
        #: shapes that were asked of the input, for view(x.shape[0], -1)
        self.sizes: set[fx.Node] = set()
        #: features that a view(-1, features) of the input demands
        self.features: int | None = None

    def read(self) -> list[AffineMap]:
        for node in self.graph.nodes:
            self._step(node)
        return self.maps

    def _step(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.current = node
        elif node.op == "get_attr":
            if node.target not in self.parameters:
                raise self._refused(node, f"reads {node.target!r}, which is no parameter")
        elif node.op == "output":
            self._finish(node)
        elif self._is_size(node):
            self.sizes.add(node)
        else:
            self._check_input(node)
            self._apply(node)
            self.current = node

    def _is_size(self, node: fx.Node) -> bool:
        """Whether the node asks for the number of rows of the input, before any layer."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return False
        if source in self.sizes:
            return node.target is operator.getitem and bool(node.args[1] == 0)
        return source is self.current and not self.maps and bool(
            (node.target is getattr and node.args[1] == "shape")
            or (node.target == "size" and node.args[1:] in ((), (0,)) and not node.kwargs)
        )

    def _check_input(self, node: fx.Node) -> None:
        """Check that the node takes the value of the chain, once, and nothing else does."""
        for value in node.all_input_nodes:
            if value is not self.current and value.op != "get_attr" and value not in self.sizes:
                raise self._refused(node, "joins the chain with an earlier value of it")
        if self.current not in node.all_input_nodes:
            raise self._refused(node, "does not take the value of the chain")
        assert self.current is not None
        users = [user for user in self.current.users if user not in self.sizes]
        if len(users) > 1 or sum(a is self.current for a in _flat(node)) > 1:
            raise self._refused(
                users[-1], "uses a value of the chain a second time (a skip connection or a branch)"
            )

    def _apply(self, node: fx.Node) -> None:
        if node.op == "call_module":
            self._apply_module(node)
        elif node.target is F.linear:
            self._apply_linear(node)
        elif node.target in _PRODUCTS:
            self._apply_product(node)
        elif node.target in FROM_FUNCTION:
            self._activate(node, self._called(node, FROM_FUNCTION[node.target]))
        elif node.target in _DROPOUT_FUNCTIONS:
            arguments = _arguments(node, "input", "p", "training")
            default = node.target is F.dropout
            if arguments.get("training", default) is not False and arguments.get("p") != 0.0:
                raise self._refused(node, "drops entries at random in evaluation mode too")
        elif not self._flattens(node):
            raise self._refused(node, "is no operation of a chain")

    def _apply_module(self, node: fx.Node) -> None:
        called = self.module.get_submodule(str(node.target))
        if node.args != (self.current,) or node.kwargs:
            raise self._refused(node, "is called with more than the value of the chain")
        if type(called) is nn.Linear:
            bias = None if called.bias is None else f"{node.target}.bias"
            self._extend(node, f"{node.target}.weight", bias)
        elif type(called) is nn.Flatten:
            self._check_flatten(node, called.start_dim, called.end_dim)
        elif type(called) not in _DROPOUTS:
            self._activate(node, module_activation(called))

    def _apply_linear(self, node: fx.Node) -> None:
        arguments = _arguments(node, "input", "weight", "bias")
        names = []
        for key in ("weight", "bias"):
            value = arguments.get(key)
            if value is not None and not (isinstance(value, fx.Node) and value.op == "get_attr"):
                raise self._refused(node, f"has a {key} that is computed and is no parameter")
            names.append(None if value is None else str(value.target))
        if names[0] is None or arguments.get("input") is not self.current:
            raise self._refused(node, "does not map the value of the chain by a parameter")
        self._extend(node, names[0], names[1])

    def _extend(self, node: fx.Node, weight: str, bias: str | None) -> None:
        used = [name for affine in self.maps for name in (affine.weight, affine.bias)]
        if weight in used or (bias is not None and bias in used):
            raise self._refused(node, "uses the parameters of a layer a second time")
        if self.factor is not None:
            raise self._refused(node, "follows a multiplication that is not the w0 of a sine")
        if not self.maps and self.features not in (None, self.parameters[weight].shape[-1]):
            raise self._refused(node, f"follows a view of the input as rows of {self.features}")
        self.maps.append(AffineMap(weight, bias, Activation("identity")))

    def _apply_product(self, node: fx.Node) -> None:
        others = [value for value in _flat(node) if value is not self.current]
        factor = finite_number(others[0]) if len(others) == 1 and not node.kwargs else None
        if factor is None or self.factor is not None:
            raise self._refused(node, "is a multiplication that is not the w0 of a sine")
        self.factor = factor

    def _activate(self, node: fx.Node, activation: Activation | None) -> None:
        if activation is None:
            raise self._refused(node, "is no layer or activation of a chain")
        if self.factor is not None:
            if activation.name != "sine":
                raise self._refused(node, "follows a multiplication that is not the w0 of a sine")
            activation, self.factor = Activation("sine", w0=self.factor * activation["w0"]), None
        if activation.name == "identity":
            return
        if not self.maps:
            raise self._refused(node, "applies an activation to the input, before any layer")
        last = self.maps[-1]
        if last.activation.name != "identity":
            raise self._refused(node, "applies a second activation to the same layer")
        self.maps[-1] = AffineMap(last.weight, last.bias, activation)

    def _called(self, node: fx.Node, make: Callable[..., Activation | None]) -> Activation | None:
        """Return the activation for the arguments of a function other than the first, its input."""
        kwargs = {k: v for k, v in node.kwargs.items() if not (k == "input" and v is self.current)}
        try:
            return make(*(a for a in node.args if a is not self.current), **kwargs)
        except (TypeError, ArchitectureError) as error:
            raise self._refused(node, f"has arguments that no converter knows ({error})") from None

    def _flattens(self, node: fx.Node) -> bool:
        """Whether the node turns the input into rows; refused anywhere else."""
        if node.target in (torch.flatten, "flatten"):
            arguments = _arguments(node, "input", "start_dim", "end_dim")
            self._check_flatten(node, arguments.get("start_dim", 0), arguments.get("end_dim", -1))
            return True
        if node.target not in (torch.reshape, "view", "reshape") or node.kwargs:
            return False
        shape = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        rows, features = shape if len(shape) == 2 else (None, None)
        if isinstance(rows, fx.Node) and rows in self.sizes and features == -1:
            self._check_flatten(node, 1, -1)
        elif rows == -1 and isinstance(features, int) and features > 0:
            self._check_flatten(node, 1, -1)
            self.features = features
        else:
            raise self._refused(node, "reshapes to something else than rows")
        return True

    def _check_flatten(self, node: fx.Node, start: Any, end: Any) -> None:
        if self.maps or start != 1 or end != -1:
            raise self._refused(node, "flattens something else than each input to one row")

    def _finish(self, node: fx.Node) -> None:
        if node.args[0] is not self.current:
            raise self._refused(node, "returns something else than the end of the chain")
        if self.factor is not None:
            raise self._refused(node, "follows a multiplication that is not the w0 of a sine")
        if not self.maps:
            raise self._refused(node, "is reached without any linear layer")

    def _refused(self, node: fx.Node, why: str) -> UnsupportedModuleError:
        if node.op == "call_module":
            path = str(node.target)
            return UnsupportedModuleError(
                f"{describe(self.module.get_submodule(path), path)} {why}. {CONVERTIBLE}"
            )
        stack = node.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        target = node.target if isinstance(node.target, str) else getattr(
            node.target, "__name__", str(node.target)
        )
        what = "the output" if node.op == "output" else f"operation {target!r}"
        where = ", a ".join(located(self.module.get_submodule(path), path))
        return UnsupportedModuleError(f"in {where}, {what} {why}. {CONVERTIBLE}")


def _arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of the node by name."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _flat(node: fx.Node) -> list[Any]:
    """All arguments of the node, lists opened."""
    found: list[Any] = []
    stack: list[Any] = [*node.args, *node.kwargs.values()]
    while stack:
        value = stack.pop(0)
        if isinstance(value, (tuple, list)):
            stack = [*value, *stack]
        else:
            found.append(value)
    return found
