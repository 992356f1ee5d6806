"""Affine maps: Gemm in either orientation, matrix products, einsum, attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.node import Handler, NodeCall

_QUERY, _KEY, _VALUE, _MASK = range(4)


def _gemm(call: NodeCall) -> Tensor:
    """Run alpha A' B' + beta C, as torch's linear where it is one, and as addmm otherwise."""
    node = call.node
    first, second, added = call.tensor(0), call.tensor(1), call.optional(2)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transA", 0):
        first = first.t()
    linear = node.get("transB", 0) and alpha == 1.0 and beta == 1.0
    if linear and (added is None or added.shape == second.shape[:1]):
        return F.linear(first, second, added)
    if node.get("transB", 0):
        second = second.t()
    if added is None:
        product = torch.mm(first, second)
        return product if alpha == 1.0 else alpha * product
    return torch.addmm(added, first, second, beta=beta, alpha=alpha)


def _heads(call: NodeCall, place: int, attribute: str) -> Tensor:
    """Return ``[B, heads, T, dim]`` also of ``[B, T, heads * dim]``."""
    x = call.tensor(place)
    if x.dim() == 4:
        return x
    count = call.node.get(attribute, 0)
    if x.dim() != 3 or count < 1:
        raise call.refuse(f"input {place} has the shape {list(x.shape)} and {attribute} {count}.")
    return x.reshape(*x.shape[:2], count, x.shape[-1] // count).transpose(1, 2)


def _attention(call: NodeCall) -> Tensor:
    node = call.node
    call.only_first_output("Keys and values of earlier calls are not supported.")
    if call.has(4) or call.has(5) or call.has(6):
        raise call.refuse("keys and values of earlier calls are not supported.")
    if node.get("softcap", 0.0):
        raise call.refuse("softcap is not supported.")
    query = _heads(call, _QUERY, "q_num_heads")
    key, value = (_heads(call, place, "kv_num_heads") for place in (_KEY, _VALUE))
    causal, mask = bool(node.get("is_causal", 0)), call.optional(_MASK)
    if causal and mask is not None:
        raise call.refuse("a mask and is_causal together are not supported.")
    y = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=node.attributes.get("scale"),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return y if call.tensor(_QUERY).dim() == 4 else y.transpose(1, 2).flatten(2)


HANDLERS: dict[str, Handler] = {
    "Gemm": _gemm, "Attention": _attention,
    "MatMul": lambda call: torch.matmul(call.tensor(0), call.tensor(1)),
    "Einsum": lambda call: torch.einsum(call.node.get("equation", ""), *call.tensors()),
}  # fmt: skip
