"""The tables of an equivariant linear layer in plain form: one per group, and the global one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from nngraph.kernels.equivariant.terms import Terms

__all__ = ["Tables", "mix_tables", "pool_globally"]

#: One table per permuted group, ``[B, d_k, c_k C]``, and the global one, ``[B, S C]``.
Tables = tuple[list[Tensor], Tensor]


def mix_tables(
    terms: Terms, tables: Tables, weights: Sequence[Tensor], bias: Tensor | None = None
) -> Tables:
    """Mix slots and channels of each table; ``weights`` are the global one's, then each group's."""
    mixed = [linear(table, weight) for table, weight in zip(tables[0], weights[1:], strict=True)]
    return mixed, linear(tables[1], weights[0], bias)


def pool_globally(terms: Terms, x: Tensor, edge_attr: Tensor) -> Tensor:
    """Average every tensor over all its permuted axes: the global table ``[B, S C]``."""
    pooled = []
    for tensor, view in zip(terms.tensors, _views(terms, x, edge_attr), strict=True):
        axes = [axis + 1 for axis in tensor.permuted_axes]
        pooled.append((view.mean(axes) if axes else view).flatten(1))
    return torch.cat(pooled, dim=-1)


def _views(terms: Terms, x: Tensor, edge_attr: Tensor) -> list[Tensor]:
    """Each tensor as ``[B, *shape, C]``, a view; split at once, so that gradients are one cat."""
    architecture = terms.architecture
    nodes = torch.split(x, list(architecture.widths), dim=1)
    edges = torch.split(edge_attr, [b.stop - b.start for b in architecture.blocks], dim=1)
    remaining = iter(edges)
    return [
        torch.unflatten(next(remaining), 1, tensor.shape)
        if tensor.on_edges
        else nodes[tensor.groups[0]]
        for tensor in terms.tensors
    ]
