"""What the derivation cannot take: before anything is traced, or as no tracer took a forward."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from converters.inspection import all_tensors
from converters.symmetry.reading import LostTensorError
from nngraph.errors import UnsupportedModuleError


def check_supported(module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Refuse modules and inputs that have no neurons in the sense of this library."""
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
    for name, tensor in [*all_tensors(module).items(), *inputs.items()]:
        if isinstance(tensor, (UninitializedBuffer, UninitializedParameter)):
            raise _refused(
                f"parameter {name!r} is not initialised",
                "has no shape yet; run the module on an input once",
            )
        if tensor.is_quantized:
            raise _refused(f"{name!r} is quantised", "has no axes of numbers; dequantise it")
        if tensor.layout is not torch.strided:
            raise _refused(f"{name!r} has layout {tensor.layout}", "pass dense tensors: to_dense()")
        if tensor.is_complex():
            raise _refused(f"{name!r} is complex", "pass real tensors: torch.view_as_real")


def _refused(what: str, todo: str) -> UnsupportedModuleError:
    return UnsupportedModuleError(f"{what}; expected dense real tensors, traceable. It {todo}.")


# -- why a forward could not be traced, in words that fit it ---------------------------------------

_DATA_DEPENDENT = (
    "GuardOnDataDependentSymNode", "UserError", "DynamicOutputShapeException",
    "DataDependentOutputException", "UnsupportedOperatorException",
)

_WITHOUT_GRADIENTS = (
    "a forward without; pass the network whose gradients it takes, which has the same symmetry"
)
#: What a forward does at the line or in the function where tracing ends -> why, what to do.
_ACTS = (
    (r"pack_padded_sequence|pack_sequence|pad_packed_sequence",
     "packs sequences by their lengths, which are values",
     "padded tensors; give them to its recurrent layers, whose symmetry packing does not change"),
    (r"autograd\.grad\b|\.backward\(|torch/autograd/__init__",
     "takes gradients in its forward", _WITHOUT_GRADIENTS),
    (r"\.numpy\(|\bnp\.|\bnumpy\.", "leaves torch for NumPy",
     "operations of torch alone; pass the submodules that have none but those"),
    (r"\.tolist\(|\.item\(|\bfloat\(|\bint\(", "reads the values of tensors as Python numbers "
     "(data-dependent control flow)",
     "them kept as tensors, in what is printed too; pass the submodules that do"),
)  # fmt: skip

#: Torch's advice to people who export networks, which is none for those who pass one to us.
_ADVICE = re.compile(
    r"github|issue|register_|pytree|torch\.(where|cond|_check|_dynamo|compile|export)|TORCH_|"
    r"[Ff]ake|[Pp]roxy|make_fx|strict|buffer"
)


def refusal(
    module: nn.Module, inputs: Mapping[str, Tensor], errors: Sequence[Exception],
    plain: Exception | None,
) -> UnsupportedModuleError:  # fmt: skip
    """Return the error that says what to do about a forward that no tracer took.

    The ``errors`` are what each tracer raised, ``plain`` is what the forward raises without any.
    """
    own = None if plain is None else (
        f"itself fails on these inputs, without any tracing: {_text(plain)}",
        "inputs that it takes; check their number, shapes and dtypes, and pass keyword arguments, "
        "such as a dict of them, as kwargs=",
    )
    why, todo = _on_other_device(module, inputs) or own or _why(errors)
    line = next(filter(None, map(_user_line, errors if plain is None else (plain,))), "")
    return UnsupportedModuleError(
        f"{type(module).__name__} {why}{line and f', at {line}'}. Expected {todo}."
    )


def _on_other_device(module: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[str, str] | None:
    own = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
    for name, tensor in inputs.items():
        if own is not None and tensor.device.type != own.type:
            return (
                f"is on {own} and its {name!r} on {tensor.device}",
                f"inputs on the device of the network; pass them .to({str(own)!r})",
            )
    return None


def _why(errors: Sequence[Exception]) -> tuple[str, str]:
    """Return why tracing failed, and what is expected, by what the tracers raised and where."""
    lines = "\n".join(line for error in errors for line in _stack(error))
    for act, why, todo in _ACTS:
        if re.search(act, lines):
            return why, todo
    if any(isinstance(error, LostTensorError) for error in errors):
        return (
            "computes tensors where no trace reaches, as with gradients that are taken in a "
            "forward", _WITHOUT_GRADIENTS,
        )
    names = {type(error).__name__ for error in errors}
    if names & set(_DATA_DEPENDENT) or "data-dependent" in " ".join(map(str, errors)).lower():
        return (
            "decides by the values of tensors what to compute (data-dependent control flow)",
            "the same operations for every input; use torch.where or masks, or pass the "
            "submodules that have none of it",
        )
    said = (text for text in map(_text, errors) if not _ADVICE.search(text))
    return (
        f"cannot be traced: {next(said, type(errors[0]).__name__)}",
        "a forward of torch operations on tensors; pass the submodules that have such a one",
    )


def _text(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _stack(error: BaseException) -> Iterator[str]:
    """Iterate over the lines at which the user's code was, and names of torch's files."""
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename if _is_inside(frame.filename) else frame.line or ""


def _user_line(error: BaseException) -> str:
    """Return the innermost line of the error's stack that is neither torch's nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_inside(frame.filename)]
    at = own[-1] if own else None
    return f"{os.path.basename(at.filename)}:{at.lineno}: {at.line}" if at else ""


def _is_inside(name: str) -> bool:
    inside = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<")
    return name.startswith(inside) or "contextlib" in name
