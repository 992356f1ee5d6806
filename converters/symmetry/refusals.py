"""What the derivation cannot take, said clearly before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nngraph.errors import UnsupportedModuleError


def check_supported(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Refuse modules and inputs that have no neurons in the sense of this library.

    Raises:
        UnsupportedModuleError: for ScriptModules, quantised, sparse, complex or uninitialised
            weights, and complex or sparse inputs; names the module or tensor.
    """
    if isinstance(module, torch.export.ExportedProgram):
        raise UnsupportedModuleError(
            "got an ExportedProgram; expected a torch.nn.Module. Pass its .module()."
        )
    if not isinstance(module, nn.Module):
        raise UnsupportedModuleError(
            f"got a {type(module).__name__}; expected a torch.nn.Module. Wrap a function in one."
        )
    for path, child in module.named_modules():
        if isinstance(child, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            raise _refused(
                f"module {path or '(the root)'!r} is a {type(child).__name__}",
                "is compiled code that cannot be traced into; pass the module from which it was "
                "scripted",
            )
        if "quantized" in type(child).__module__.split("."):
            raise _refused(
                f"module {path!r} is a quantised {type(child).__name__}",
                "packs its weights; pass the floating-point module",
            )
    tensors: list[tuple[str, Tensor]] = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        if isinstance(tensor, (UninitializedBuffer, UninitializedParameter)):
            raise _refused(
                f"parameter {name!r} is not initialised",
                "has no shape yet; run the module on an input once",
            )
    tensors += inputs.items()
    for name, tensor in tensors:
        if tensor.is_quantized:
            raise _refused(f"{name!r} is quantised", "has no axes of numbers; dequantise it")
        if tensor.layout is not torch.strided:
            raise _refused(f"{name!r} has layout {tensor.layout}", "pass dense tensors: to_dense()")
        if tensor.is_complex():
            raise _refused(f"{name!r} is complex", "pass real tensors: torch.view_as_real")


def _refused(what: str, todo: str) -> UnsupportedModuleError:
    return UnsupportedModuleError(f"{what}; expected dense real tensors, traceable. It {todo}.")
