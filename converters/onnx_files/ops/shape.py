"""Operators that move, join and cut, and compute nothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.call import Array, Handler, NodeCall


def target_shape(call: NodeCall, shape: list[int], sizes: tuple[int, ...]) -> list[int]:
    """Return the sizes of a Reshape: 0 keeps a size (unless ``allowzero``), -1 is what is left."""
    if not call.node.integer("allowzero", 0):
        if any(n == 0 and axis >= len(sizes) for axis, n in enumerate(shape)):
            raise call.refuse(f"its shape {shape} keeps a size that {list(sizes)} does not have.")
        shape = [sizes[axis] if n == 0 else n for axis, n in enumerate(shape)]
    return shape


def slices(call: NodeCall, sizes: tuple[int, ...]) -> dict[int, range]:
    """Return for each axis of a Slice the places that it takes, in their order."""
    starts, ends = call.integers_or(1, "starts"), call.integers_or(2, "ends")
    if starts is None or ends is None:
        raise call.refuse("it lacks starts or ends.")
    axes = call.integers_or(3, "axes")
    axes = list(range(len(starts))) if axes is None else axes
    steps = call.integers(4) if call.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.refuse(f"its starts {starts}, ends {ends}, axes {axes}, steps {steps} disagree.")
    out = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = sizes[axis]
        out[axis % len(sizes)] = range(size)[slice(start, end, step)]
    return out


def split_sizes(call: NodeCall, size: int) -> list[int]:
    """Return the sizes of the pieces of a Split."""
    if (given := call.integers_or(1, "split")) is not None:
        return given
    count = call.node.integer("num_outputs", len(call.node.outputs))
    piece = -(-size // count)
    return [max(min(piece, size - piece * index), 0) for index in range(count)]


def _reshape(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    return x.reshape(target_shape(call, call.integers(1), tuple(x.shape)))


def _flatten(call: NodeCall) -> Tensor:
    x, axis = call.tensor(0), call.node.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _transpose(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    return x.permute(call.node.listed("perm") or list(reversed(range(x.dim()))))


def _squeeze(call: NodeCall) -> Tensor:
    x, axes = call.tensor(0), call.integers_or(1, "axes")
    if axes is None:
        return x.squeeze()
    for axis in axes:
        if x.shape[axis] != 1:
            raise call.refuse(f"axis {axis} of {list(x.shape)} has not the size 1.")
    return x.squeeze(axes[0]) if len(axes) == 1 else x.squeeze(axes)


def _unsqueeze(call: NodeCall) -> Tensor:
    x, axes = call.tensor(0), call.integers_or(1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _split(call: NodeCall) -> tuple[Tensor, ...]:
    x, axis = call.tensor(0), call.node.integer("axis", 0)
    return torch.split(x, split_sizes(call, int(x.shape[axis])), axis)


def _slice(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    for axis, places in slices(call, tuple(x.shape)).items():
        forward = places if places.step > 0 else places[::-1]
        if forward != range(x.shape[axis]):
            cut = (slice(None),) * axis + (slice(forward.start, forward.stop, forward.step),)
            x = x[cut]
        if places.step < 0:
            x = x.flip(axis)
    return x


def _expand(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(call.integers(1))))


def _shape(call: NodeCall) -> Array:
    sizes = [int(n) for n in call.tensor(0).shape]
    start, end = call.node.integer("start", 0), call.node.integer("end", len(sizes))
    return np.array(sizes[start:end], dtype=np.int64)


def _size(call: NodeCall) -> Array:
    return np.array(math.prod(int(n) for n in call.tensor(0).shape), dtype=np.int64)


def _pad(call: NodeCall) -> Tensor:
    """Pad by a number, or by places of the tensor itself."""
    x, mode = call.tensor(0), call.node.text("mode", "constant")
    pads = call.integers_or(1, "pads") or []
    axes = call.integers(3) if call.has(3) else list(range(x.dim()))
    if len(pads) != 2 * len(axes):
        raise call.refuse(f"it has {len(pads)} pads for {len(axes)} axes; expected two for each.")
    ends = {a % x.dim(): (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    every = [ends.get(axis, (0, 0)) for axis in range(x.dim())]
    if mode == "constant":
        value = call.number(2) if call.has(2) else call.node.real("value", 0.0)
        sizes = [n for pair in reversed(every) for n in pair]
        return F.pad(x, sizes, value=value)
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        raise call.refuse(f"its mode is {mode!r}; expected constant, reflect, edge or wrap.")
    spatial = every[2:]
    whole = all(pair == (0, 0) for pair in every[:2]) and 3 <= x.dim() <= 5
    if whole and all(
        0 <= n < size for p, size in zip(spatial, x.shape[2:], strict=True) for n in p
    ):
        return F.pad(x, [n for pair in reversed(spatial) for n in pair], mode=names[mode])
    for axis, (before, after) in enumerate(every):
        if (before, after) != (0, 0):
            places = _places(mode, int(x.shape[axis]), before, after)
            x = torch.index_select(x, axis, call.as_tensor(places))
    return x


def _places(mode: str, size: int, before: int, after: int) -> Array:
    wanted = np.arange(-before, size + after)
    if mode == "edge":
        return wanted.clip(0, size - 1)
    if mode == "wrap":
        return wanted % size
    period = max(2 * (size - 1), 1)
    folded = wanted % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(wanted)


def _depth_to_space(call: NodeCall) -> Tensor:
    x, block = call.tensor(0), call.node.integer("blocksize", 1)
    if call.node.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    count, channels, height, width = x.shape
    x = x.reshape(count, block, block, channels // block**2, height, width)
    x = x.permute(0, 3, 4, 1, 5, 2)
    return x.reshape(count, channels // block**2, height * block, width * block)


def _space_to_depth(call: NodeCall) -> Tensor:
    x, block = call.tensor(0), call.node.integer("blocksize", 1)
    count, channels, height, width = x.shape
    x = x.reshape(count, channels, height // block, block, width // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(count, channels * block**2, height // block, width // block)


def _triangle(call: NodeCall) -> Tensor:
    diagonal = call.integer(1) if call.has(1) else 0
    keep = torch.triu if call.node.integer("upper", 1) else torch.tril
    return keep(call.tensor(0), diagonal)


def _eye(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    dtype = call.dtype(call.node.integer("dtype", 0)) if call.node.has("dtype") else x.dtype
    rows, columns = (int(n) for n in x.shape)
    places = np.eye(rows, columns, call.node.integer("k", 0))
    return torch.from_numpy(places).to(call.device, dtype)


HANDLERS: dict[str, Handler] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": lambda call: torch.cat(call.tensors(), call.node.integer("axis", 0)),
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": lambda call: call.tensor(0).repeat(call.integers(1)),
    "Pad": _pad,
    "Shape": _shape,
    "Size": _size,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _triangle,
    "EyeLike": _eye,
}
