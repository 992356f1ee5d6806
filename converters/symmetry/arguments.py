"""The arguments of a forward: the tensors in them, found and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from converters.symmetry.returned import located_tensors
from nngraph.errors import UnsupportedModuleError


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Return example inputs as positional arguments."""
    # A named tuple, such as a packed sequence, is one argument.
    plain = type(example_inputs) in (tuple, list, torch.Size)
    return tuple(example_inputs) if plain else (example_inputs,)


def input_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return every tensor in the arguments by its place in them, each tensor once.

    Raises:
        UnsupportedModuleError: if something may hold tensors that cannot be seen.
    """
    places = [(f"input {i}", value) for i, value in enumerate(args)] + [*kwargs.items()]
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in places:
        for place, tensor in _located(value, name):
            found.setdefault(id(tensor), (place, tensor))
    return dict(found.values())


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a copy of any value with a function of every tensor in its place.

    Containers and objects are copied, so that a forward that writes to them leaves the caller's
    alone; a tensor that occurs twice is one tensor in the copy.

    Raises:
        UnsupportedModuleError: if something may hold tensors that cannot be seen, or put back.
    """
    new = {id(tensor): function(tensor) for _, tensor in _located(value, "inputs")}
    try:
        copied = copy.deepcopy(value, dict(new))
    except Exception as error:  # whatever the user's object does when it is copied
        raise UnsupportedModuleError(
            f"the inputs cannot be copied: {error}. Pass tensors, or containers or plain objects "
            "of tensors."
        ) from None
    known = {id(tensor) for tensor in new.values()}
    for place, tensor in _located(copied, "inputs"):
        if id(tensor) not in known:
            raise UnsupportedModuleError(
                f"{place} is a tensor that no other can be put in the place of. Pass tensors, or "
                "containers or plain objects of tensors."
            )
    return copied


def _located(value: Any, name: str) -> list[tuple[str, Tensor]]:
    try:
        return list(located_tensors(value, name))
    except UnsupportedModuleError as error:
        raise UnsupportedModuleError(
            f"the inputs cannot be seen whole: {error}. Pass tensors, or containers or plain "
            "objects of tensors."
        ) from None
