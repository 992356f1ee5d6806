"""Operators that move, join and cut, and compute nothing.

Those that take a :data:`~converters.onnx_files.node.Value` serve known values too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall, Value
from converters.onnx_files.tensors import Array


def _reshape(call: NodeCall) -> Value:
    """0 keeps a size (unless ``allowzero``), and -1 is what is left."""
    x, shape = call.value(0), call.integers(1)
    if not call.node.get("allowzero", 0):
        if any(n == 0 and axis >= x.ndim for axis, n in enumerate(shape)):
            raise call.refuse(f"its shape {shape} keeps a size that {list(x.shape)} does not have.")
        shape = [x.shape[axis] if n == 0 else n for axis, n in enumerate(shape)]
    return x.reshape(shape)


def _flatten(call: NodeCall) -> Tensor:
    x, axis = call.tensor(0), call.node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    return x.permute(call.node.listed("perm") or list(reversed(range(x.dim()))))


def _squeeze(call: NodeCall) -> Value:
    x, axes = call.value(0), call.integers_or(1, "axes")
    if axes is None:
        return x.squeeze()
    for axis in axes:
        if x.shape[axis] != 1:
            raise call.refuse(f"axis {axis} of {list(x.shape)} has not the size 1.")
    return x.squeeze(axes[0] if len(axes) == 1 else tuple(axes))


def _unsqueeze(call: NodeCall) -> Tensor:
    x, axes = call.tensor(0), call.integers_or(1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _split(call: NodeCall) -> Sequence[Value]:
    x, axis = call.value(0), call.node.get("axis", 0)
    sizes = call.integers_or(1, "split")
    if sizes is None:
        size, count = int(x.shape[axis]), call.node.get("num_outputs", len(call.node.outputs))
        piece = -(-size // count)
        sizes = [max(min(piece, size - piece * index), 0) for index in range(count)]
    if isinstance(x, Tensor):
        return torch.split(x, sizes, axis)
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _slice(call: NodeCall) -> Value:
    x = call.value(0)
    starts, ends = call.integers_or(1, "starts"), call.integers_or(2, "ends")
    if starts is None or ends is None:
        raise call.refuse("it lacks starts or ends.")
    axes = call.integers_or(3, "axes")
    axes = list(range(len(starts))) if axes is None else axes
    steps = call.integers(4) if call.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.refuse(f"its starts {starts}, ends {ends}, axes {axes}, steps {steps} disagree.")
    cuts = {
        axis % x.ndim: range(x.shape[axis])[start:end:step]
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    for axis, places in cuts.items():
        forward = places if places.step > 0 else places[::-1]
        if forward != range(x.shape[axis]):
            x = x[(slice(None),) * axis + (slice(forward.start, forward.stop, forward.step),)]
        if places.step < 0:
            x = x.flip(axis) if isinstance(x, Tensor) else np.flip(x, axis)
    return x


def _expand(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(call.integers(1))))


def _shape(call: NodeCall) -> Array:
    sizes = [int(n) for n in call.value(0).shape]
    start, end = call.node.get("start", 0), call.node.get("end", len(sizes))
    return np.array(sizes[start:end], dtype=np.int64)


def _pad(call: NodeCall) -> Tensor:
    """Pad by a number, or by places of the tensor itself."""
    x, mode = call.tensor(0), call.node.get("mode", "constant")
    pads = call.integers_or(1, "pads") or []
    axes = call.integers(3) if call.has(3) else list(range(x.dim()))
    if len(pads) != 2 * len(axes):
        raise call.refuse(f"it has {len(pads)} pads for {len(axes)} axes; expected two for each.")
    ends = {a % x.dim(): (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    every = [ends.get(axis, (0, 0)) for axis in range(x.dim())]
    if mode == "constant":
        value = call.number(2) if call.has(2) else call.node.get("value", 0.0)
        sizes = [n for pair in reversed(every) for n in pair]
        return F.pad(x, sizes, value=value)
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        raise call.refuse(f"its mode is {mode!r}; expected constant, reflect, edge or wrap.")
    spatial = every[2:]
    fits = zip(spatial, x.shape[2:], strict=True)
    if (
        3 <= x.dim() <= 5 and every[:2] == [(0, 0), (0, 0)]
        and all(0 <= n < size for pair, size in fits for n in pair)
    ):
        return F.pad(x, [n for pair in reversed(spatial) for n in pair], mode=names[mode])
    for axis, (before, after) in enumerate(every):
        if (before, after) != (0, 0):
            size = int(x.shape[axis])
            places = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
            places = places[max(-before, 0) : len(places) - max(-after, 0)]
            x = torch.index_select(x, axis, call.as_tensor(places))
    return x


def _exchanged(x: Tensor, outer: int) -> Tensor:
    """Exchange the two factors of the channels, of which the outer one has this size."""
    count, channels, *spatial = x.shape
    return x.reshape(count, outer, channels // outer, *spatial).transpose(1, 2).reshape(x.shape)


def _depth_to_space(call: NodeCall) -> Tensor:
    x, block = call.tensor(0), call.node.get("blocksize", 1)
    x = _exchanged(x, block**2) if call.node.get("mode", "DCR") == "DCR" else x
    return F.pixel_shuffle(x, block)


def _space_to_depth(call: NodeCall) -> Tensor:
    block = call.node.get("blocksize", 1)
    x = F.pixel_unshuffle(call.tensor(0), block)
    return _exchanged(x, x.shape[1] // block**2)


def _triangle(call: NodeCall) -> Tensor:
    diagonal = call.integer(1) if call.has(1) else 0
    keep = torch.triu if call.node.get("upper", 1) else torch.tril
    return keep(call.tensor(0), diagonal)


def _eye(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    dtype = call.dtype(call.node.get("dtype", 0)) if "dtype" in call.node.attributes else x.dtype
    rows, columns = (int(n) for n in x.shape)
    places = np.eye(rows, columns, call.node.get("k", 0))
    return torch.from_numpy(places).to(call.device, dtype)


HANDLERS: dict[str, Handler] = {
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Split": _split, "Slice": _slice, "Expand": _expand, "Pad": _pad,
    "Concat": lambda call: torch.cat(call.tensors(), call.node.get("axis", 0)),
    "Tile": lambda call: call.tensor(0).repeat(call.integers(1)),
    "Shape": _shape,
    "Size": lambda call: np.array(math.prod(map(int, call.value(0).shape)), dtype=np.int64),
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth, "Trilu": _triangle,
    "EyeLike": _eye,
}  # fmt: skip
