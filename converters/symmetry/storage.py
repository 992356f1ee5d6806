"""Which names of a state dict are one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


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


def extent(tensor: Tensor) -> int:
    """Return how many entries of memory a tensor reaches over."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two entries of a tensor may be one place of memory, as in an expanded one."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach = stride * (size - 1) + reach
    return False


def dense_axes(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the axes from the outermost in memory to the innermost; ``None`` if it has gaps."""
    if overlaps_itself(tensor) or extent(tensor) != tensor.numel():
        return None
    return tuple(sorted(range(tensor.dim()), key=lambda axis: -tensor.stride()[axis]))
