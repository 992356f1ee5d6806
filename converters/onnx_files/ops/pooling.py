"""Pooling over windows and over everything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.call import Handler, NodeCall
from converters.onnx_files.ops.windows import Windows, pad, spatial, windows

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_ADAPTIVE_MEAN = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def _window(call: NodeCall, x: Tensor) -> tuple[Windows, bool]:
    """Return the windows, and whether torch's own padding can serve."""
    window = windows(call, spatial(x), call.node.listed("kernel_shape") or [])
    small = all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))
    if not (window.symmetric and small) and call.node.integer("ceil_mode", 0):
        raise call.refuse(
            f"ceil_mode with the padding {window.before} before and {window.after} after is not "
            "supported; expected the same on both sides, of at most half a window."
        )
    return window, window.symmetric and small


def _max_pool(call: NodeCall) -> Tensor:
    call.only_first_output("The places of the maxima are not supported.")
    x = call.tensor(0)
    window, own = _window(call, x)
    padding = window.before
    if not own:
        x = pad(x, window.before, window.after, -torch.inf)
        padding = [0] * len(padding)
    run = _MAX[len(padding)]
    ceil = bool(call.node.integer("ceil_mode", 0))
    y: Tensor = run(x, window.kernel, window.stride, padding, window.dilation, ceil_mode=ceil)
    return y


def _mean(x: Tensor, window: Windows, padding: list[int], ceil: bool, with_pad: bool) -> Tensor:
    rank = len(padding)
    if rank == 1:
        return F.avg_pool1d(x, window.kernel, window.stride, padding, ceil, with_pad)
    run = F.avg_pool2d if rank == 2 else F.avg_pool3d
    return run(x, window.kernel, window.stride, padding, ceil, with_pad)


def _average_pool(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    window, own = _window(call, x)
    if any(size != 1 for size in window.dilation):
        raise call.refuse(f"its dilations are {window.dilation}; only 1 is supported.")
    with_pad = bool(call.node.integer("count_include_pad", 0))
    ceil = bool(call.node.integer("ceil_mode", 0))
    if own:
        return _mean(x, window, window.before, ceil, with_pad)
    none = [0] * len(window.before)
    y = _mean(pad(x, window.before, window.after), window, none, False, True)
    if with_pad:
        return y
    inside = pad(torch.ones_like(x[:1, :1]), window.before, window.after)
    return y / _mean(inside, window, none, False, True)


def _global(functions: dict[int, object], call: NodeCall) -> Tensor:
    x = call.tensor(0)
    rank = x.dim() - 2
    if rank not in functions:
        raise call.refuse(f"it has {rank} spatial axes; expected 1, 2 or 3.")
    y: Tensor = functions[rank](x, 1)  # type: ignore[operator]
    return y


def _power_mean(call: NodeCall) -> Tensor:
    x, power = call.tensor(0), call.node.integer("p", 2)
    y: Tensor = torch.linalg.vector_norm(x, power, list(range(2, x.dim())), keepdim=True)
    return y


HANDLERS: dict[str, Handler] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda call: _global(dict(_ADAPTIVE_MEAN), call),
    "GlobalMaxPool": lambda call: _global(dict(_ADAPTIVE_MAX), call),
    "GlobalLpPool": _power_mean,
}
