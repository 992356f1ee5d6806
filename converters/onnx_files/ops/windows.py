"""Sliding windows: how ONNX says where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.call import NodeCall


@dataclass(frozen=True)
class Windows:
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

    @property
    def symmetric(self) -> bool:
        """Whether there is as much padding before as after."""
        return self.before == self.after


def windows(call: NodeCall, sizes: list[int], kernel: list[int]) -> Windows:
    """Read the windows of a convolution or pooling over spatial axes of these sizes."""
    node, rank = call.node, len(sizes)
    if not 1 <= rank <= 3:
        raise call.refuse(f"it has {rank} spatial axes; expected 1, 2 or 3.")
    ones = [1] * rank
    stride = node.listed("strides") or ones
    dilation = node.listed("dilations") or ones
    pads = node.listed("pads") or [0] * (2 * rank)
    mode = node.text("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"its auto_pad is {mode!r}, which ONNX does not have.")
    if [len(kernel), len(stride), len(dilation), len(pads)] != [rank, rank, rank, 2 * rank]:
        raise call.refuse(f"its kernel, strides, dilations or pads do not fit {rank} axes.")
    before, after = pads[:rank], pads[rank:]
    if mode == "VALID":
        before = after = [0] * rank
    if mode.startswith("SAME"):
        spans = Windows(kernel, stride, dilation, before, after).spans
        total = [
            max((-(-n // s) - 1) * s + span - n, 0)
            for n, s, span in zip(sizes, stride, spans, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    return Windows(kernel, stride, dilation, before, after)


def pad(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    """Pad the spatial axes with a number."""
    sizes = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return F.pad(x, sizes, value=value) if any(sizes) else x


def spatial(x: Tensor) -> list[int]:
    """Return the sizes of the spatial axes of ``[B, C, ..]``."""
    return [int(size) for size in x.shape[2:]]


def crop(x: Tensor, before: list[int], after: list[int]) -> Tensor:
    """Take away from the ends of the spatial axes."""
    for axis, (start, end) in enumerate(zip(before, after, strict=True), start=2):
        if start or end:
            x = torch.narrow(x, axis, start, x.shape[axis] - start - end)
    return x
