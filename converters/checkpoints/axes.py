"""Names and axes of Keras, turned into torch's."""

from __future__ import annotations

import re

from torch import Tensor

#: What Keras calls a tensor of a layer, and torch.
_NAMES = {
    "kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip


def to_torch_order(kernel: Tensor, lead: int = 0) -> Tensor:
    """Turn a kernel ``[*window, in, out]`` of Keras into ``[out, in, *window]``.

    Args:
        lead: leading axes that are no part of the kernel.
    """
    last = kernel.dim()
    order = [*range(lead), last - 1, last - 2, *range(lead, last - 2)]
    return kernel.permute(order).contiguous()


def torch_name(name: str) -> str:
    """Return ``conv2d.weight`` for ``sequential/conv2d/kernel:0``; other names stay as they are."""
    if "/" not in name and ":" not in name:
        return name
    *path, last = re.sub(r":\d+$", "", name).split("/")
    if len(path) > 1 and re.fullmatch(r"(sequential|model|functional)(_\d+)?", path[0]):
        del path[0]
    return ".".join([*path, _NAMES.get(last, last)])
