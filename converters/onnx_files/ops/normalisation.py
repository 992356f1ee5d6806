"""Normalisations, as torch's own functions so that their parameters are recognised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.call import Handler, NodeCall


def _batch(call: NodeCall) -> Tensor:
    if call.node.integer("training_mode", 0):
        raise call.refuse("it is in training mode. Export the network in evaluation mode.")
    call.only_first_output("Export the network in evaluation mode.")
    x, scale, shift, mean, variance = (call.tensor(place) for place in range(5))
    # A file may keep one tensor for the statistics and for a scale that has the same numbers.
    mean, variance = (t.detach() if t.requires_grad else t for t in (mean, variance))
    eps = call.node.real("epsilon", 1e-5)
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=eps)


def _instance(call: NodeCall) -> Tensor:
    x, scale, shift = (call.tensor(place) for place in range(3))
    return F.instance_norm(x, weight=scale, bias=shift, eps=call.node.real("epsilon", 1e-5))


def _group(call: NodeCall) -> Tensor:
    x, scale, shift = (call.tensor(place) for place in range(3))
    groups, eps = call.node.integer("num_groups", 1), call.node.real("epsilon", 1e-5)
    if scale.shape[0] == x.shape[1]:
        return F.group_norm(x, groups, scale, shift, eps)
    # Operator sets 18 to 20: one scale for each group.
    per_channel = [1, x.shape[1]] + [1] * (x.dim() - 2)
    repeats = x.shape[1] // groups
    scale, shift = (t.unsqueeze(1).expand(-1, repeats).reshape(per_channel) for t in (scale, shift))
    return F.group_norm(x, groups, eps=eps) * scale + shift


def _layer(call: NodeCall) -> Tensor:
    call.only_first_output("Mean and deviation are of use in training only.")
    x, scale, shift = call.tensor(0), call.tensor(1), call.optional(2)
    axis, eps = call.node.integer("axis", -1), call.node.real("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and (shift is None or list(shift.shape) == shape):
        return F.layer_norm(x, shape, scale, shift, eps)
    y = F.layer_norm(x, shape, eps=eps) * scale
    return y if shift is None else y + shift


def _root_mean_square(call: NodeCall) -> Tensor:
    x, scale = call.tensor(0), call.tensor(1)
    axis, eps = call.node.integer("axis", -1), call.node.real("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape:
        return F.rms_norm(x, shape, scale, eps)
    return F.rms_norm(x, shape, eps=eps) * scale


def _mean_variance(call: NodeCall) -> Tensor:
    x, axes = call.tensor(0), call.node.listed("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)


def _unit(call: NodeCall) -> Tensor:
    power, axis = call.node.integer("p", 2), call.node.integer("axis", -1)
    return F.normalize(call.tensor(0), float(power), axis)


def _local_response(call: NodeCall) -> Tensor:
    node, size = call.node, call.node.integer("size", 1)
    if size % 2 == 0:
        raise call.refuse(f"its size is {size}; only odd sizes are supported.")
    alpha, beta, bias = node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0)
    return F.local_response_norm(call.tensor(0), size, alpha, beta, bias)


HANDLERS: dict[str, Handler] = {
    "BatchNormalization": _batch,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LayerNormalization": _layer,
    "RMSNormalization": _root_mean_square,
    "MeanVarianceNormalization": _mean_variance,
    "LpNormalization": _unit,
    "LRN": _local_response,
}
