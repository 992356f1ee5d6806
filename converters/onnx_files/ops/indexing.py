"""Operators that look up by index, and write by index."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall


def _indices(call: NodeCall, place: int, size: int) -> Tensor:
    """Return indices into an axis, with the negative ones counted from its end."""
    value = call.value(place)
    if isinstance(value, Tensor):
        return torch.where(value < 0, value + size, value)
    return call.as_tensor(np.where(value < 0, value + size, value).astype(np.int64))


def _gather(call: NodeCall) -> Tensor:
    x, axis = call.tensor(0), call.node.get("axis", 0)
    size = int(x.shape[axis])
    value = call.value(1)
    if not isinstance(value, Tensor) and value.ndim == 0:
        return x.select(axis, int(value))
    index = _indices(call, 1, size)
    if axis in (0, -x.dim()) and x.dim() == 2 and x.is_floating_point():
        return F.embedding(index, x)
    axis = axis % x.dim()
    found = torch.index_select(x, axis, index.reshape(-1))
    if index.dim() == 1:
        return found
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(call: NodeCall) -> Tensor:
    x, axis = call.tensor(0), call.node.get("axis", 0)
    return torch.gather(x, axis, _indices(call, 1, int(x.shape[axis])).long())


def _coordinates(call: NodeCall, x: Tensor) -> tuple[Tensor, ...]:
    """Return the last axis of the indices of GatherND and ScatterND as one index for each axis."""
    index = call.tensor(1).long()
    columns = index.unbind(-1)
    return tuple(torch.where(c < 0, c + n, c) for c, n in zip(columns, x.shape, strict=False))


def _gather_nd(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    if call.node.get("batch_dims", 0):
        raise call.refuse("batch_dims other than 0 are not supported.")
    return x[_coordinates(call, x)]


def _scatter_nd(call: NodeCall) -> Tensor:
    x, reduction = call.tensor(0), call.node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise call.refuse(f"its reduction is {reduction!r}; only none and add are supported.")
    return x.index_put(_coordinates(call, x), call.tensor(2), accumulate=reduction == "add")


def _scatter_elements(call: NodeCall) -> Tensor:
    x, axis = call.tensor(0), call.node.get("axis", 0)
    index, updates = _indices(call, 1, int(x.shape[axis])).long(), call.tensor(2)
    reduction = call.node.get("reduction", "none")
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, names[reduction])


def _one_hot(call: NodeCall) -> Tensor:
    depth, (off, on) = call.integer(1), call.tensor(2).unbind(0)
    axis, index = call.node.get("axis", -1), call.tensor(0).long()
    index = torch.where(index < 0, index + depth, index)
    axis = axis + index.dim() + 1 if axis < 0 else axis
    places = torch.arange(depth, device=index.device)
    places = places.reshape([-1] + [1] * (index.dim() - axis))
    return torch.where(index.unsqueeze(axis) == places, on, off)


HANDLERS: dict[str, Handler] = {
    "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd,
    "ScatterND": _scatter_nd, "ScatterElements": _scatter_elements, "OneHot": _one_hot,
}  # fmt: skip
