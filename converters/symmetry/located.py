"""The tensors in what a forward takes and in what it returns, whatever they are wrapped in.

Both ways of tracing and the proof read a forward's result through this module, so that what is
fixed is what is compared. A value that cannot be seen whole is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from converters.symmetry.opening import Part, held, is_kind, is_opaque
from nngraph.errors import UnsupportedModuleError

_COUNTED = (torch.SymInt, torch.SymFloat, torch.SymBool)

#: What cannot be seen whole -> why, and what to give in its place.
_HIDDEN: dict[Any, str] = {
    _COUNTED: "is a number computed from tensors; give the tensor, without .item()",
    np.ndarray: "is a NumPy array, which no trace reaches; give a tensor",
    nn.Module: "is a module; give the tensors that it computes",
    Iterator: "can be read only once; give a list of what it yields",
}

_GIVE = "Pass tensors, or containers or plain objects of tensors."


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Return example inputs as positional arguments."""
    # A named tuple, such as a packed sequence, is one argument.
    plain = type(example_inputs) in (tuple, list, torch.Size)
    return tuple(example_inputs) if plain else (example_inputs,)


def input_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return every tensor in the arguments by its place in them, each tensor once."""
    places = [(f"input {i}", value) for i, value in enumerate(args)] + [*kwargs.items()]
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in places:
        for place, tensor in _given(value, name):
            found.setdefault(id(tensor), (place, tensor))
    return dict(found.values())


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a copy of any value with a function of every tensor in its place.

    Containers and objects are copied, so that a forward that writes to them leaves the caller's
    alone; a tensor that occurs twice is one tensor in the copy.
    """
    new = {id(tensor): function(tensor) for _, tensor in _given(value, "inputs")}
    try:
        copied = copy.deepcopy(value, dict(new))
    except Exception as error:  # whatever the user's object does when it is copied
        raise UnsupportedModuleError(f"the inputs cannot be copied: {error}. {_GIVE}") from None
    known = {id(tensor) for tensor in new.values()}
    for place, tensor in _given(copied, "inputs"):
        if id(tensor) not in known:
            raise UnsupportedModuleError(
                f"{place} is a tensor that no other can be put in the place of. {_GIVE}"
            )
    return copied


def _given(value: Any, name: str) -> list[tuple[str, Tensor]]:
    try:
        return list(located_tensors(value, name))
    except UnsupportedModuleError as error:
        text = f"the inputs cannot be seen whole: {error}. {_GIVE}"
        raise UnsupportedModuleError(text) from None


def returned_tensors(value: Any) -> list[Tensor]:
    """Return every tensor in what a forward returned, in an order that is the same for each run.

    Containers, records and any other objects are opened, to any depth; numbers, strings and None
    pass. What occurs twice inside one container counts twice, a container that occurs twice once.
    """
    try:
        return [tensor for _, tensor in located_tensors(value, "output")]
    except UnsupportedModuleError as error:
        text = f"what the forward returns cannot be seen whole: {error}."
        raise UnsupportedModuleError(text) from None


def located_tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the tensors in any value, each with its place, such as ``output[1].pred``.

    Raises:
        UnsupportedModuleError: at something that may hold tensors that cannot be seen.
    """
    # The values themselves are kept, so that an id stays theirs.
    seen: dict[int, Any] = {}
    waiting = [(place, value)]
    while waiting:
        place, value = waiting.pop()
        if is_kind(value, Tensor):
            _check_tensor(place, value)
            yield place, value
        elif id(value) in seen:
            continue
        seen[id(value)] = value
        waiting += reversed([(place + step, part) for step, part in _parts(place, value)])


def _check_tensor(place: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise _hidden(place, tensor, "is nested; give its .to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        raise _hidden(place, tensor, f"has layout {tensor.layout}; give its .to_dense()")
    if tensor.is_quantized:
        raise _hidden(place, tensor, "is quantised; give its .dequantize()")
    own = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if own and not is_kind(tensor, (FakeTensor, FunctionalTensor, nn.Parameter)):
        raise _hidden(place, tensor, "computes in its own way; give a plain torch.Tensor")


def _parts(place: str, value: Any) -> list[Part]:
    for kind, why in _HIDDEN.items():
        if is_kind(value, kind):
            raise _hidden(place, value, why)
    if is_opaque(value):
        raise _hidden(place, value, "cannot be opened; give the tensors in it, in a tuple or dict")
    parts = held(value)
    if is_kind(value, (set, frozenset)) and sum(step == "(element)" for step, _ in parts) > 1:
        raise _hidden(place, value, "has several tensors in no order; give a list")
    return parts


def _hidden(place: str, value: Any, why: str) -> UnsupportedModuleError:
    is_traced = is_kind(value, (FakeTensor, FunctionalTensor))
    kind = Tensor if is_traced else type(value)
    return UnsupportedModuleError(f"{place} ({kind.__name__}) {why}")
