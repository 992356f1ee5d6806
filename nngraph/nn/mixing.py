r"""Pool, mix, spread on dense blocks: the arithmetic of the equivariant linear layer.

With P the means of every tensor into the tables of :class:`~nngraph.nn.terms.Terms`, M the mixing
of slots and channels within each table, S the spreading of a table back to the entries, and D the
product of each edge with its own weight, the layer is

.. math:: y = D e + S (M P e + \beta)

Its transpose is of the same form with sums for means, so the backward pass is one call of the same
functions. In each direction an edge is read by one mean per side and by its product, and written
once; nothing else of edge size is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from nngraph.nn.terms import MixedTensor, Terms

__all__ = ["Tables", "mix_dense", "mix_tables", "pool", "pool_globally"]

#: One table per permuted group, ``[B, d_k, c_k C]``, and the global one, ``[B, S C]``.
Tables = tuple[list[Tensor], Tensor]


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


def pool(terms: Terms, views: Sequence[Tensor], mean: bool = True) -> Tables:
    """Average every tensor into every table that has slots for it; with ``mean=False``, add up."""
    batch = views[0].shape[0] if views else 0
    reduce = torch.mean if mean else torch.sum
    tables: list[Tensor] = []
    homes: dict[int, Tensor] = {}
    for table in terms.tables:
        parts = []
        for part in table.parts:
            tensor, value = terms.tensors[part.tensor], views[part.tensor]
            if tensor.has_edge_mixing:
                value = reduce(value, 2 - part.axis)
            elif part.axis == 1:
                value = value.transpose(1, 2)
            parts.append(value.reshape(batch, table.size, -1))
        tables.append(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        totals = torch.split(reduce(tables[-1], 1), [value.shape[-1] for value in parts], dim=-1)
        homes.update(
            (p.tensor, total) for p, total in zip(table.parts, totals, strict=True) if p.home
        )
    pooled = [
        homes[i] if i in homes else views[i].reshape(batch, -1) for i in range(len(terms.tensors))
    ]
    return tables, torch.cat(pooled, dim=-1)


def pool_globally(terms: Terms, x: Tensor, edge_attr: Tensor) -> Tensor:
    """Average every tensor over all its permuted axes: the global table ``[B, S C]``."""
    pooled = []
    for tensor, view in zip(terms.tensors, _views(terms, x, edge_attr), strict=True):
        axes = [axis + 1 for axis in tensor.permuted_axes]
        pooled.append((view.mean(axes) if axes else view).flatten(1))
    return torch.cat(pooled, dim=-1)


def mix_tables(
    terms: Terms, tables: Tables, weights: Sequence[Tensor], bias: Tensor | None = None
) -> Tables:
    """Mix slots and channels of each table; ``weights`` are the global one's, then each group's."""
    mixed = [linear(table, weight) for table, weight in zip(tables[0], weights[1:], strict=True)]
    return mixed, linear(tables[1], weights[0], bias)


def _with_global(terms: Terms, tables: Tables, scaled: bool) -> list[Tensor]:
    """Add the global slots of each tensor to its home table, in place."""
    local, whole = tables
    channels = whole.shape[-1] // terms.num_slots
    pieces = torch.split(whole, [(s.stop - s.start) * channels for s in terms.slots], dim=-1)
    for table, mixed in zip(terms.tables, local, strict=True):
        homes = [
            pieces[p.tensor] if p.home else torch.zeros_like(pieces[p.tensor]) for p in table.parts
        ]
        total = torch.cat(homes, dim=-1) if len(homes) > 1 else homes[0]
        mixed.add_(total.unsqueeze(1), alpha=1 / table.size if scaled else 1)
    return list(pieces)


def _spread(
    terms: Terms,
    tables: Tables,
    views: Sequence[Tensor],
    weights: Sequence[Tensor],
    out: tuple[Tensor, Tensor] | None = None,
    scaled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Write the tables back at the entries and add the product of each edge with its weight.

    Args:
        views: tensors whose edges are multiplied.
        weights: of the edge mixing, ``[C, C_out]`` each.
        out: features ``(x, edge_attr)`` to write to; x is zero. Without them new ones are made in
            a form that can be differentiated.
        scaled: divide each slot by the number of entries it is spread to: the transpose of a mean.
    """
    architecture = terms.architecture
    pieces = _with_global(terms, tables, scaled)
    channels = tables[1].shape[-1] // terms.num_slots
    batch = len(tables[1])
    # For each tensor its slots in the tables of its axes.
    parts: list[dict[int, Tensor]] = [{} for _ in terms.tensors]
    for table, mixed in zip(terms.tables, tables[0], strict=True):
        sizes = [(p.stop - p.start) * channels for p in table.parts]
        for part, value in zip(table.parts, torch.split(mixed, sizes, dim=-1), strict=True):
            divide = scaled and part.pooled > 1
            parts[part.tensor][part.axis] = value / part.pooled if divide else value
    targets = None if out is None else _views(terms, *out)
    products = iter(weights)
    found: list[Tensor] = []
    for i, tensor in enumerate(terms.tensors):
        target = None if targets is None else targets[i]
        if tensor.has_edge_mixing:
            value = _edge_product(views[i], next(products), parts[i][0], parts[i][1], target)
        else:
            value = _placed(tensor, next(iter(parts[i].values()), pieces[i]), batch, channels)
            if target is not None:
                target.copy_(value)
        found.append(value)
    if out is not None:
        return out
    nodes = {t.groups[0]: value for t, value in zip(terms.tensors, found, strict=True)
             if not t.on_edges}  # fmt: skip
    edges = [value.flatten(1, 2) for t, value in zip(terms.tensors, found, strict=True)
             if t.on_edges]  # fmt: skip
    empty = tables[1].new_zeros
    rows = [
        nodes[g] if g in nodes else empty(batch, size, channels)
        for g, size in enumerate(architecture.widths)
    ]
    return torch.cat(rows, dim=1), torch.cat(edges or [empty(batch, 0, channels)], dim=1)


def _placed(tensor: MixedTensor, value: Tensor, batch: int, channels: int) -> Tensor:
    """Slots of a tensor with at most one permuted axis as ``[B, *shape, C]``."""
    if tensor.on_edges and tensor.permuted_axes == (1,):
        targets, sources = tensor.shape
        return value.reshape(batch, sources, targets, channels).transpose(1, 2)
    return value.reshape(batch, *tensor.shape, channels)


def _edge_product(
    edges: Tensor, weight: Tensor, target: Tensor, source: Tensor, out: Tensor | None
) -> Tensor:
    """Return ``[B, r, c, C_out]``: edge times weight, plus its target's and its source's part."""
    rows = (target.unsqueeze(2), source.unsqueeze(1))
    total = torch.add(*rows) if out is None else torch.add(*rows, out=out)
    weight = weight.expand(len(edges), *weight.shape)
    flat = total.flatten(1, 2)
    if flat.dtype != edges.dtype or torch.is_autocast_enabled(edges.device.type):
        return total + torch.bmm(edges.flatten(1, 2), weight).view_as(total)
    flat.baddbmm_(edges.flatten(1, 2), weight)
    return flat.view_as(total)


def _weight_gradient(edges: Tensor, gradient: Tensor) -> Tensor:
    """Return ``[C_out, C]``: the sum over networks and edges of gradient times edge."""
    edges, gradient = edges.flatten(1, 2), gradient.flatten(1, 2)
    if edges.shape[1] >= 64:
        return torch.bmm(gradient.mT, edges).sum(0)
    # Few edges per network: one product over all of them costs a copy, and no sum over networks.
    return gradient.reshape(-1, gradient.shape[-1]).T @ edges.reshape(-1, edges.shape[-1])


def mix_plain(
    terms: Terms, x: Tensor, edge_attr: Tensor, bias: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The layer in operations that torch differentiates itself, to any order."""
    views = _views(terms, x, edge_attr)
    count = len(terms.tables) + 1
    mixed = mix_tables(terms, pool(terms, views), weights[:count], bias)
    return _spread(terms, mixed, views, [w.mT for w in weights[count:]])


class _Mix(torch.autograd.Function):
    """:func:`mix_plain` with a backward pass of its own; higher derivatives use the plain form."""

    @staticmethod
    def forward(
        ctx: Any, terms: Terms, x: Tensor, edge_attr: Tensor, bias: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        views = _views(terms, x, edge_attr)
        count = len(terms.tables) + 1
        tables = pool(terms, views)
        mixed = mix_tables(terms, tables, weights[:count], bias)
        channels = mixed[1].shape[-1] // terms.num_slots
        out = x.new_zeros(*x.shape[:2], channels), x.new_empty(*edge_attr.shape[:2], channels)
        _spread(terms, mixed, views, [w.mT for w in weights[count:]], out)
        ctx.terms, ctx.has_bias = terms, bias is not None
        ctx.save_for_backward(x, edge_attr, bias, *weights, *tables[0], tables[1])
        ctx.num_weights = len(weights)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        terms: Terms = ctx.terms
        x, edge_attr, bias, *rest = ctx.saved_tensors
        weights, saved = rest[: ctx.num_weights], rest[ctx.num_weights :]
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            inputs = [x, edge_attr, bias, *weights]
            with torch.enable_grad():
                outputs = mix_plain(terms, x, edge_attr, bias, *weights)
                found = iter(
                    torch.autograd.grad(
                        outputs,
                        [value for value, need in zip(inputs, needed, strict=True) if need],
                        gradients,
                        create_graph=True,
                        allow_unused=True,
                    )
                )
            return None, *(next(found) if need else None for need in needed)
        count = len(terms.tables) + 1
        views = _views(terms, *gradients)
        sums, total = pool(terms, views, mean=False)
        tables, whole = saved[:-1], saved[-1]
        grad_weights: list[Tensor | None] = [total.T @ whole]
        grad_weights += [
            grad.flatten(0, 1).T @ table.flatten(0, 1)
            for grad, table in zip(sums, tables, strict=True)
        ]
        inputs = _views(terms, x, edge_attr)
        grad_weights += [_weight_gradient(inputs[i], views[i]) for i in terms.edge_mixing]
        grad_bias = total.sum(0) if ctx.has_bias else None
        if not (needed[0] or needed[1]):
            return None, None, None, grad_bias, *grad_weights
        mixed = mix_tables(terms, (sums, total), [w.mT for w in weights[:count]])
        grad_x, grad_edges = torch.zeros_like(x), torch.empty_like(edge_attr)
        _spread(terms, mixed, views, weights[count:], (grad_x, grad_edges), scaled=True)
        return None, grad_x, grad_edges, grad_bias, *grad_weights


def mix_dense(
    terms: Terms, x: Tensor, edge_attr: Tensor, bias: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply the layer to ``x [B, N, C]`` and ``edge_attr [B, E, C]``.

    Args:
        bias: ``[S C_out]`` or ``None``, the constants.
        weights: ``[S C_out, S C]`` of the global table, ``[c_k C_out, c_k C]`` of each group's
            table, and ``[C_out, C]`` of each tensor with edge mixing.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) or not terms.tensors:
        return mix_plain(terms, x, edge_attr, bias, *weights)
    found: tuple[Tensor, Tensor]
    found = _Mix.apply(terms, x, edge_attr, bias, *weights)  # type: ignore[no-untyped-call]
    return found
