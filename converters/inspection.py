"""What a module is beside its forward: how it and its parts are named, and what is not traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils import parametrize

from nngraph.errors import UnsupportedModuleError

CONVERTIBLE = (
    "What can be converted without example inputs: nn.Linear layers (or F.linear on parameters of "
    "the module) in a chain, each used once, with the activations of nngraph.graph.ACTIVATIONS "
    "between them, as modules, functions or formulas; Identity, Dropout, and one flattening of the "
    "input. to_graph(module, example_inputs) takes any module that torch can trace, and "
    "mlp_to_graph(weights, biases, activations) plain weights."
)


def describe(module: nn.Module, path: str, begin: str = "{} is a {}, which") -> str:
    """Return the begin of a sentence: where the module is, and what it is."""
    where = repr(path) if path else "the module itself"
    return begin.format(where, f"{type(module).__name__} (module {type(module).__module__})")


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by every name they have."""
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return {**tensors, **dict(module.named_buffers(remove_duplicate=False))}


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by every name they have, as the state dict does."""
    tensors = all_tensors(module)
    return {name: tensors[name] for name in module.state_dict() if name in tensors}


def submodule_at(
    root: nn.Module, path: Sequence[str], make: Callable[[], nn.Module] = nn.Module
) -> nn.Module:
    """Return the submodule at a path, made where it is not there yet."""
    for part in path:
        if part not in root._modules:
            root.add_module(part, make())
        root = root.get_submodule(part)
    return root


def check_modules(module: nn.Module) -> None:
    """Refuse what changes a forward without being seen in it, and parameters with two names."""
    for path, child in module.named_modules():
        if parametrize.is_parametrized(child):
            raise UnsupportedModuleError(
                f"{describe(child, path)} computes its parameters from others (a "
                "parametrisation). Remove it with torch.nn.utils.parametrize."
                f"remove_parametrizations. {CONVERTIBLE}"
            )
        own_call = type(child).__call__ is not nn.Module.__call__
        # Torch's own lists of parameters have a call, which raises.
        is_torch = type(child).__module__.partition(".")[0] == "torch"
        if "forward" in vars(child) or (own_call and not is_torch):
            raise UnsupportedModuleError(
                f"{describe(child, path)} replaces its forward or its call, which tracing does "
                f"not see. Convert the module as its class defines it. {CONVERTIBLE}"
            )
        if child._forward_hooks or child._forward_pre_hooks:
            raise UnsupportedModuleError(
                f"{describe(child, path)} has forward hooks, which may change what it computes. "
                f"Remove them. {CONVERTIBLE}"
            )
    names: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if (first := names.setdefault(id(parameter), name)) != name:
            raise UnsupportedModuleError(
                f"parameters {first!r} and {name!r} are one tensor, and a graph has one name for "
                "each. If layers are registered twice, convert the submodule that has them once; "
                f"layers that share weights are no chain. {CONVERTIBLE}"
            )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode for the while; every flag is put back."""
    flags = [(child, child.training) for child in module.modules()]
    try:
        try:
            module.eval()
        except NotImplementedError:  # an exported module, which has one mode
            for child, _ in flags:
                child.training = False
        yield
    finally:
        for child, training in flags:
            child.training = training
