"""Affine maps: Gemm in either orientation, matrix products, einsum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.onnx_files.call import Handler, NodeCall


def _gemm(call: NodeCall) -> Tensor:
    """Run alpha A' B' + beta C, as torch's linear where it is one, and as addmm otherwise."""
    node = call.node
    first, second, added = call.tensor(0), call.tensor(1), call.optional(2)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if node.integer("transA", 0):
        first = first.t()
    linear = node.integer("transB", 0) and alpha == 1.0 and beta == 1.0
    if linear and (added is None or added.shape == second.shape[:1]):
        return F.linear(first, second, added)
    if node.integer("transB", 0):
        second = second.t()
    if added is None:
        product = torch.mm(first, second)
        return product if alpha == 1.0 else alpha * product
    return torch.addmm(added, first, second, beta=beta, alpha=alpha)


HANDLERS: dict[str, Handler] = {
    "Gemm": _gemm,
    "MatMul": lambda call: torch.matmul(call.tensor(0), call.tensor(1)),
    "Einsum": lambda call: torch.einsum(call.node.text("equation", ""), *call.tensors()),
}
