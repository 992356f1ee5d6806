"""Which names of a state dict are one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["shared_names", "storage_key"]


def storage_key(tensor: Tensor) -> Any:
    """Return what two tensors have in common exactly when they are one tensor."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return id(tensor)
    return (
        tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())
    )


def shared_names(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Return the first name of every tensor, and its other names."""
    first: dict[Any, str] = {}
    others: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        own = first.setdefault(storage_key(tensor), name)
        others.setdefault(own, [])
        if own != name:
            others[own].append(name)
    return {name: tuple(rest) for name, rest in others.items()}
