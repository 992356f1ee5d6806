"""Convolutions and transposed convolutions over one to three axes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.call import Handler, NodeCall
from converters.onnx_files.ops.windows import crop, pad, spatial, windows

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _kernel(call: NodeCall, weight: Tensor) -> list[int]:
    sizes = spatial(weight)
    if (given := call.node.listed("kernel_shape")) not in (None, sizes):
        raise call.refuse(f"its kernel_shape is {given}, and its weight has {sizes}.")
    return sizes


def _conv(call: NodeCall) -> Tensor:
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    window = windows(call, spatial(x), _kernel(call, weight))
    groups = call.node.integer("group", 1)
    padding = window.before
    if not window.symmetric:
        x, padding = pad(x, window.before, window.after), [0] * len(padding)
    run = _CONV[len(padding)]
    return run(x, weight, bias, window.stride, padding, window.dilation, groups)


def _transposed(call: NodeCall) -> Tensor:
    """Run a transposed convolution; uneven padding is cut off afterwards."""
    node = call.node
    x, weight, bias = call.tensor(0), call.tensor(1), call.optional(2)
    window = windows(call, spatial(x), _kernel(call, weight))
    rank = len(window.kernel)
    extra = node.listed("output_padding") or [0] * rank
    before, after = window.before, window.after
    wanted = node.listed("output_shape")
    mode = node.text("auto_pad", "NOTSET")
    if wanted is None and mode.startswith("SAME"):
        wanted = [n * s for n, s in zip(spatial(x), window.stride, strict=True)]
    if wanted is not None:
        shape = zip(spatial(x), window.stride, window.spans, extra, wanted, strict=True)
        total = [(n - 1) * s + span + more - out for n, s, span, more, out in shape]
        if min(total) < 0:
            raise call.refuse(f"its output_shape {wanted} is larger than its windows reach.")
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    padding = before if before == after else [0] * rank
    groups = node.integer("group", 1)
    run = _TRANSPOSED[rank]
    y = run(x, weight, bias, window.stride, padding, extra, groups, window.dilation)
    return y if before == after else crop(y, before, after)


HANDLERS: dict[str, Handler] = {"Conv": _conv, "ConvTranspose": _transposed}
