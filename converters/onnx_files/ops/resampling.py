"""Resizing and sampling of images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall
from converters.onnx_files.tensors import Array

#: mode of ONNX and number of axes -> mode of torch
_KINDS = {
    ("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}  # fmt: skip
#: nearest_mode -> what rounds so
_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    "floor": np.floor, "ceil": np.ceil,
}  # fmt: skip


def _targets(call: NodeCall, x: Tensor, scales: list[float], sizes: list[int]) -> list[int]:
    """Return the size of every axis after a Resize."""
    axes = call.node.listed("axes") or list(range(x.dim()))
    out = [int(n) for n in x.shape]
    if len(sizes or scales) != len(axes):
        raise call.refuse(f"it has {len(sizes or scales)} sizes or scales for {len(axes)} axes.")
    for place, axis in enumerate(axes):
        out[axis] = sizes[place] if sizes else math.floor(out[axis] * scales[place])
    return out


def _resize(call: NodeCall) -> Tensor:
    node, x = call.node, call.tensor(0)
    first = 1 if node.opset < 11 else 2  # operator set 11 put a region of interest before
    scales = call.numbers(first) if call.has(first) else []
    sizes = call.integers(first + 1) if call.has(first + 1) else []
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("keep_aspect_ratio_policy other than stretch is not supported.")
    target = _targets(call, x, scales, sizes)
    factors = [1.0] * x.dim()
    for place, axis in enumerate(node.listed("axes") or range(x.dim())):
        factors[axis] = scales[place] if scales else target[axis] / x.shape[axis]
    mode = node.get("mode", "nearest")
    where = node.get(
        "coordinate_transformation_mode", "asymmetric" if node.opset < 11 else "half_pixel"
    )
    if mode == "nearest":
        return _nearest(call, x, target, factors, where)
    return _interpolated(call, x, target, factors, where, mode)


def _upsample(call: NodeCall) -> Tensor:
    if (mode := call.node.get("mode", "nearest")) != "nearest":
        raise call.refuse(f"its mode is {mode!r}; only nearest is supported. Use Resize.")
    x, scales = call.tensor(0), call.numbers(1)
    return _nearest(call, x, _targets(call, x, scales, []), scales, "asymmetric")


def _nearest(
    call: NodeCall, x: Tensor, target: list[int], factors: list[float], where: str
) -> Tensor:
    """Take for each place the nearest one; as torch's own operator where it takes the same."""
    rounding = call.node.get(
        "nearest_mode", "floor" if call.node.opset < 11 else "round_prefer_floor"
    )
    before = [int(n) for n in x.shape]
    places = [
        _nearest_places(call, n, out, factor, where, rounding)
        for n, out, factor in zip(before, target, factors, strict=True)
    ]
    same = all(
        np.array_equal(found, np.arange(out) * n // out)
        for found, n, out in zip(places, before, target, strict=True)
    )
    if same and target[:2] == before[:2] and 3 <= x.dim() <= 5:
        return F.interpolate(x, target[2:], mode="nearest")
    for axis, found in enumerate(places):
        if not np.array_equal(found, np.arange(before[axis])):
            x = torch.index_select(x, axis, call.as_tensor(found))
    return x


def _nearest_places(
    call: NodeCall, size: int, out: int, factor: float, where: str, rounding: str
) -> Array:
    at = np.arange(out, dtype=np.float64)
    if where == "asymmetric":
        at = at / factor
    elif where == "half_pixel" or (where == "pytorch_half_pixel" and out > 1):
        at = (at + 0.5) / factor - 0.5
    elif where == "pytorch_half_pixel":
        at = at * 0
    elif where == "align_corners":
        at = at * (size - 1) / (out - 1) if out > 1 else at * 0
    else:
        raise call.refuse(f"coordinate_transformation_mode {where!r} is not supported.")
    if rounding not in _ROUNDING:
        raise call.refuse(f"nearest_mode {rounding!r} is not one that ONNX has.")
    found: Array = _ROUNDING[rounding](at).clip(0, size - 1).astype(np.int64)
    return found


def _interpolated(
    call: NodeCall, x: Tensor, target: list[int], factors: list[float], where: str, mode: str
) -> Tensor:
    node, spatial = call.node, target[2:]
    kind = _KINDS.get((mode, len(spatial)))
    fits = (
        kind is not None
        and target[:2] == list(x.shape[:2])
        and node.get("antialias", 0) == 0
        and not (mode == "cubic" and node.get("exclude_outside", 0))
        and abs(node.get("cubic_coeff_a", -0.75) + 0.75) < 1e-9
    )
    if not fits or where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise call.refuse(
            f"mode {mode!r} with coordinate_transformation_mode {where!r} over the axes from "
            f"{list(x.shape)} to {target} is not supported; expected linear (1 to 3 axes) or cubic "
            "(2 axes, coefficient -0.75) over the axes after the first two, with half_pixel or "
            "align_corners, without antialias and exclude_outside."
        )
    if 1 in spatial and where != "half_pixel":
        raise call.refuse(f"an axis of size 1 with {where} is not supported.")
    corners = where == "align_corners"
    exact = all(factor == out / n for factor, out, n in zip(factors, target, x.shape, strict=True))
    if corners or exact:
        return F.interpolate(x, spatial, mode=str(kind), align_corners=corners)
    return F.interpolate(x, scale_factor=factors[2:], mode=str(kind), align_corners=False)


def _grid_sample(call: NodeCall) -> Tensor:
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = call.node.get("mode", "bilinear" if call.node.opset < 20 else "linear")
    padding, corners = call.node.get("padding_mode", "zeros"), call.node.get("align_corners", 0)
    return F.grid_sample(
        call.tensor(0), call.tensor(1), names.get(mode, mode), padding, bool(corners)
    )


HANDLERS: dict[str, Handler] = {
    "Resize": _resize, "Upsample": _upsample, "GridSample": _grid_sample,
}  # fmt: skip
