"""Normalisations, as torch's own functions so that their parameters are recognised."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall


def _batch(call: NodeCall) -> Tensor:
    if call.node.get("training_mode", 0):
        raise call.refuse("it is in training mode. Export the network in evaluation mode.")
    call.only_first_output("Export the network in evaluation mode.")
    x, scale, shift, mean, variance = (call.tensor(place) for place in range(5))
    # A file may keep one tensor for the statistics and for a scale that has the same numbers.
    mean, variance = (t.detach() if t.requires_grad else t for t in (mean, variance))
    eps = call.node.get("epsilon", 1e-5)
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=eps)


def _instance(call: NodeCall) -> Tensor:
    x, scale, shift = (call.tensor(place) for place in range(3))
    return F.instance_norm(x, weight=scale, bias=shift, eps=call.node.get("epsilon", 1e-5))


def _group(call: NodeCall) -> Tensor:
    x, scale, shift = (call.tensor(place) for place in range(3))
    groups, eps = call.node.get("num_groups", 1), call.node.get("epsilon", 1e-5)
    if scale.shape[0] == x.shape[1]:
        return F.group_norm(x, groups, scale, shift, eps)
    # Operator sets 18 to 20: one scale for each group.
    per_channel = [1, x.shape[1]] + [1] * (x.dim() - 2)
    repeats = x.shape[1] // groups
    scale, shift = (t.unsqueeze(1).expand(-1, repeats).reshape(per_channel) for t in (scale, shift))
    return F.group_norm(x, groups, eps=eps) * scale + shift


def _last_axes(normalise: Callable[..., Tensor]) -> Handler:
    def run(call: NodeCall) -> Tensor:
        call.only_first_output("Mean and deviation are of use in training only.")
        x, scale, shift = call.tensor(0), call.tensor(1), call.optional(2)
        shape, eps = list(x.shape[call.node.get("axis", -1) :]), call.node.get("epsilon", 1e-5)
        given = [scale] if shift is None else [scale, shift]
        if all(list(t.shape) == shape for t in given):
            return normalise(x, shape, *given, eps=eps)
        y = normalise(x, shape, eps=eps) * scale
        return y if shift is None else y + shift

    return run


def _mean_variance(call: NodeCall) -> Tensor:
    x, axes = call.tensor(0), call.node.listed("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)


def _local_response(call: NodeCall) -> Tensor:
    node, size = call.node, call.node.get("size", 1)
    if size % 2 == 0:
        raise call.refuse(f"its size is {size}; only odd sizes are supported.")
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return F.local_response_norm(call.tensor(0), size, alpha, beta, bias)


def _scaler(call: NodeCall) -> Tensor:
    """Standardise features: ``(x - offset) * scale``, of one number or one for each feature."""
    x = call.tensor(0)
    offset, scale = (
        call.as_tensor(np.asarray(call.node.listed(name) or [default], dtype=np.float32))
        for name, default in (("offset", 0.0), ("scale", 1.0))
    )
    return (x.to(offset.dtype) - offset) * scale


HANDLERS: dict[str, Handler] = {
    "BatchNormalization": _batch, "InstanceNormalization": _instance, "GroupNormalization": _group,
    "LayerNormalization": _last_axes(F.layer_norm), "RMSNormalization": _last_axes(F.rms_norm),
    "MeanVarianceNormalization": _mean_variance, "LRN": _local_response, "Scaler": _scaler,
    "LpNormalization": lambda call: F.normalize(
        call.tensor(0), float(call.node.get("p", 2)), call.node.get("axis", -1)
    ),
}  # fmt: skip
