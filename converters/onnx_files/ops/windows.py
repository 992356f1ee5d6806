"""Convolutions and pooling over sliding windows, of one to three axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall


@dataclass(frozen=True)
class _Windows:
    """Windows over the spatial axes: sizes per axis, and padding before and after."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]

    @property
    def spans(self) -> list[int]:
        """How many places a window reaches over, per axis."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]


def _windows(call: NodeCall, sizes: list[int], kernel: list[int]) -> _Windows:
    """Read the windows over spatial axes of these sizes."""
    node, rank = call.node, len(sizes)
    if not 1 <= rank <= 3:
        raise call.refuse(f"it has {rank} spatial axes; expected 1, 2 or 3.")
    stride = node.listed("strides") or [1] * rank
    dilation = node.listed("dilations") or [1] * rank
    pads = node.listed("pads") or [0] * (2 * rank)
    mode = node.get("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"its auto_pad is {mode!r}, which ONNX does not have.")
    if [len(kernel), len(stride), len(dilation), len(pads)] != [rank, rank, rank, 2 * rank]:
        raise call.refuse(f"its kernel, strides, dilations or pads do not fit {rank} axes.")
    if mode == "VALID":
        pads = [0] * (2 * rank)
    window = _Windows(kernel, stride, dilation, pads[:rank], pads[rank:])
    if not mode.startswith("SAME"):
        return window
    total = [
        max((-(-n // s) - 1) * s + span - n, 0)
        for n, s, span in zip(sizes, stride, window.spans, strict=True)
    ]
    return _Windows(kernel, stride, dilation, *_sides(total, mode))


def _sides(total: list[int], mode: str) -> tuple[list[int], list[int]]:
    """Share padding out to both sides; where it is odd, there is more after for SAME_UPPER."""
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _pad(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    """Pad the spatial axes with a number."""
    sizes = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return F.pad(x, sizes, value=value) if any(sizes) else x


def _crop(x: Tensor, before: list[int], after: list[int]) -> Tensor:
    """Take away from the ends of the spatial axes."""
    for axis, (start, end) in enumerate(zip(before, after, strict=True), start=2):
        if start or end:
            x = torch.narrow(x, axis, start, x.shape[axis] - start - end)
    return x


def _spatial(x: Tensor) -> list[int]:
    """Return the sizes of the spatial axes of ``[B, C, ..]``."""
    return [int(size) for size in x.shape[2:]]


def _of_rank(name: str, rank: int) -> Callable[..., Tensor]:
    """Return the function of torch for this many spatial axes."""
    function: Callable[..., Tensor] = getattr(F, f"{name}{rank}d")
    return function


# -- convolutions --------------------------------------------------------------------------------


def _kernel(call: NodeCall, weight: Tensor) -> list[int]:
    sizes = _spatial(weight)
    if (given := call.node.listed("kernel_shape")) not in (None, sizes):
        raise call.refuse(f"its kernel_shape is {given}, and its weight has {sizes}.")
    return sizes


def _conv(call: NodeCall) -> Tensor:
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    window = _windows(call, _spatial(x), _kernel(call, weight))
    padding = window.before
    if window.before != window.after:
        x, padding = _pad(x, window.before, window.after), [0] * len(padding)
    run, groups = _of_rank("conv", len(padding)), call.node.get("group", 1)
    return run(x, weight, bias, window.stride, padding, window.dilation, groups)


def _transposed(call: NodeCall) -> Tensor:
    """Run a transposed convolution; uneven padding is cut off afterwards."""
    node = call.node
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    window = _windows(call, _spatial(x), _kernel(call, weight))
    none = [0] * len(window.kernel)
    extra = node.listed("output_padding") or none
    before, after = window.before, window.after
    wanted = node.listed("output_shape")
    mode = node.get("auto_pad", "NOTSET")
    if wanted is None and mode.startswith("SAME"):
        wanted = [n * s for n, s in zip(_spatial(x), window.stride, strict=True)]
    if wanted is not None:
        shape = zip(_spatial(x), window.stride, window.spans, extra, wanted, strict=True)
        total = [(n - 1) * s + span + more - out for n, s, span, more, out in shape]
        if min(total) < 0:
            raise call.refuse(f"its output_shape {wanted} is larger than its windows reach.")
        before, after = _sides(total, mode)
    padding = before if before == after else none
    run, groups = _of_rank("conv_transpose", len(none)), node.get("group", 1)
    y = run(x, weight, bias, window.stride, padding, extra, groups, window.dilation)
    return y if before == after else _crop(y, before, after)


# -- pooling -------------------------------------------------------------------------------------


def _pooled(call: NodeCall, x: Tensor) -> tuple[_Windows, bool, bool]:
    """Return the windows, whether torch's own padding can serve, and whether sizes round up."""
    window = _windows(call, _spatial(x), call.node.listed("kernel_shape") or [])
    small = all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))
    own, ceil = window.before == window.after and small, bool(call.node.get("ceil_mode", 0))
    if ceil and not own:
        raise call.refuse(
            f"ceil_mode with the padding {window.before} before and {window.after} after is not "
            "supported; expected the same on both sides, of at most half a window."
        )
    return window, own, ceil


def _max_pool(call: NodeCall) -> Tensor:
    call.only_first_output("The places of the maxima are not supported.")
    x = call.tensor(0)
    window, own, ceil = _pooled(call, x)
    padding = window.before
    if not own:
        x = _pad(x, window.before, window.after, -torch.inf)
        padding = [0] * len(padding)
    run = _of_rank("max_pool", len(padding))
    return run(x, window.kernel, window.stride, padding, window.dilation, ceil_mode=ceil)


def _average_pool(call: NodeCall) -> Tensor:
    x = call.tensor(0)
    window, own, ceil = _pooled(call, x)
    if any(size != 1 for size in window.dilation):
        raise call.refuse(f"its dilations are {window.dilation}; only 1 is supported.")
    with_pad = bool(call.node.get("count_include_pad", 0))
    run = _of_rank("avg_pool", len(window.kernel))
    if own:
        return run(x, window.kernel, window.stride, window.before, ceil, with_pad)

    def padded_mean(values: Tensor) -> Tensor:
        return run(_pad(values, window.before, window.after), window.kernel, window.stride)

    return padded_mean(x) if with_pad else padded_mean(x) / padded_mean(torch.ones_like(x[:1, :1]))


def _global(name: str) -> Handler:
    def run(call: NodeCall) -> Tensor:
        x = call.tensor(0)
        if not 1 <= (rank := x.dim() - 2) <= 3:
            raise call.refuse(f"it has {rank} spatial axes; expected 1, 2 or 3.")
        return _of_rank(name, rank)(x, 1)

    return run


def _power_mean(call: NodeCall) -> Tensor:
    x, power = call.tensor(0), call.node.get("p", 2)
    y: Tensor = torch.linalg.vector_norm(x, power, list(range(2, x.dim())), keepdim=True)
    return y


HANDLERS: dict[str, Handler] = {
    "Conv": _conv, "ConvTranspose": _transposed, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _global("adaptive_avg_pool"),
    "GlobalMaxPool": _global("adaptive_max_pool"), "GlobalLpPool": _power_mean,
}  # fmt: skip
