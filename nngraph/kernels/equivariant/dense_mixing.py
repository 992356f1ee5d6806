r"""Pool, mix, broadcast on dense blocks: the arithmetic of the equivariant linear layer.

With P the means of every tensor into the tables of
:class:`~nngraph.kernels.equivariant.terms.Terms`, M the mixing of slots and channels within each
table, S the broadcast of a table back to the entries, and D the product of each edge with its own
weight, the layer is

.. math:: y = D e + S (M P e + \beta)

Its transpose is of the same form with sums for means, so the backward pass is one call of the same
functions. In each direction an edge is read by one mean per side and by its product, and written
once; nothing else of edge size is made. Neighbouring blocks of one shape are pooled as one array,
and tables of one shape are mixed as one product
(:class:`~nngraph.kernels.equivariant.table_layout.TableLayout`), so that deep networks of small
layers do not drown in calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nngraph.kernels.equivariant.table_layout import RowTile, TableLayout, TensorRun
from nngraph.kernels.equivariant.terms import Terms
from nngraph.kernels.modes import derivatives, follows_operations

#: Stacks of tables, ``[G, B, n, c, C]``, and the global table, ``[B, S C]``.
Tables = tuple[list[Tensor], Tensor]


class DenseMixing(nn.Module):
    """The layer on ``x [B, N, C]`` and ``edge_attr [B, E, C]`` in the architecture's own order."""

    #: The index vectors of the layout.
    pooled: Tensor
    broadcast: Tensor

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.terms, self.layout = terms, TableLayout.of(terms)
        # Derived from the architecture, so no part of the state dict.
        self.register_buffer("pooled", self.layout.pooled, persistent=False)
        self.register_buffer("broadcast", self.layout.broadcast, persistent=False)

    def forward(
        self, x: Tensor, edge_attr: Tensor, bias: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            x, edge_attr: features.
            bias: ``[S C_out]`` or ``None``, the constants.
            weights: ``[S C_out, S C]`` of the global table, ``[c_k C_out, c_k C]`` of each group's
                table, and ``[C_out, C]`` of each tensor with edge mixing.
        """
        if follows_operations(x):
            return self.plain(x, edge_attr, bias, *weights)
        found: tuple[Tensor, Tensor]
        found = _Mix.apply(self, x, edge_attr, bias, *weights)  # type: ignore[no-untyped-call]
        return found

    def plain(
        self, x: Tensor, edge_attr: Tensor, bias: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The layer in operations that torch differentiates itself, to any order."""
        count = len(self.terms.tables) + 1
        mixed = self.mix(self.pool(x, edge_attr), weights[:count], bias)
        slots = self.add_global(mixed)
        factors = (weight.mT.expand(len(x), -1, -1) for weight in weights[count:])
        pieces: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}
        for run in self.layout.runs:
            size = run.rows * run.columns
            if run.mixed:
                edges = run.array(x, edge_attr).flatten(2, 3).unbind(1)
                values = [
                    torch.baddbmm((t + s).flatten(1, 2), e, next(factors))
                    for t, s, e in zip(*_sides(run, mixed[0]), edges, strict=True)
                ]
            elif run.moves:
                ((axis, moves),) = run.moves.items()
                parts = [part for move in moves for part in move.part(mixed[0]).unbind(1)]
                values = [(p.transpose(1, 2) if axis else p).flatten(1, 2) for p in parts]
            else:
                values = [slots[:, run.slot : run.slot + size]]
            pieces[run.on_edges].update(
                (run.start + k * size, value) for k, value in enumerate(values)
            )
        sizes = x.shape[1], edge_attr.shape[1]
        nodes, found = (_assembled(p, slots, size) for p, size in zip(pieces, sizes, strict=True))
        return nodes, found

    def pool(
        self, x: Tensor, edge_attr: Tensor, mean: bool = True,
        visit: Callable[[TensorRun, RowTile], None] | None = None,
    ) -> Tables:  # fmt: skip
        """Average every tensor into every table that has slots for it; or add up.

        ``visit`` is told each tile of the edges that are mixed, while it is in the cache.
        """
        batch, _, channels = x.shape
        stacks = [
            x.new_empty(len(stack.tables), batch, stack.size, stack.slots, channels)
            for stack in self.layout.stacks
        ]
        loose = []
        for run in self.layout.runs:
            array = run.array(x, edge_attr)
            if run.mixed:
                sides = _sums(run, array, visit)
                if mean:
                    sides = sides[0].div_(run.columns), sides[1].div_(run.rows)
            else:
                sides = array, array.transpose(2, 3)
            for axis, moves in run.moves.items():
                for move in moves:
                    move.part(stacks).copy_(sides[axis][:, move.first : move.first + move.count])
            if not run.moves:
                loose.append(array.flatten(1, 3))
        reduce = torch.mean if mean else torch.sum
        slots = [reduce(stack, 2).transpose(0, 1).flatten(1, 2) for stack in stacks]
        whole = torch.cat([*slots, *loose, x[:, :0]], dim=1)
        return stacks, whole.index_select(1, self.pooled).flatten(1)

    def mix(self, tables: Tables, weights: Sequence[Tensor], bias: Tensor | None = None) -> Tables:
        """Mix slots and channels of each table; ``weights`` are the global one's, then the rest."""
        mixed = []
        for stack, table in zip(self.layout.stacks, tables[0], strict=True):
            own = [weights[1 + i] for i in stack.tables]
            weight = torch.stack(own) if len(own) > 1 else own[0].unsqueeze(0)
            product = torch.bmm(_matrix(table), weight.mT)
            mixed.append(product.view(*table.shape[:4], weight.shape[1] // table.shape[3]))
        return mixed, linear(tables[1], weights[0], bias)

    def add_global(self, mixed: Tables, scaled: bool = False) -> Tensor:
        """Add the global table to the others in place; return all slots ``[B, Q, C]``.

        ``scaled`` divides it by the number of neurons it is broadcast to: the transpose of a mean.
        """
        whole = torch.unflatten(mixed[1], 1, (self.terms.num_slots, -1))
        slots = torch.cat([whole, torch.zeros_like(whole[:, :1])], dim=1)
        slots = slots.index_select(1, self.broadcast)
        before = 0
        for stack, table in zip(self.layout.stacks, mixed[0], strict=True):
            own = slots[:, before : before + stack.width]
            own = torch.unflatten(own, 1, (len(stack.tables), 1, stack.slots)).transpose(0, 1)
            table.add_(own, alpha=1 / stack.size if scaled else 1)
            before += stack.width
        return slots

    def write(
        self, mixed: Tables, edge_attr: Tensor, weights: Sequence[Tensor],
        out: tuple[Tensor, Tensor], scaled: bool = False,
    ) -> None:  # fmt: skip
        """Write to ``out``, x of zeros and edge_attr, what tables and each edge's product give.

        Without a graph. ``mixed`` is overwritten; ``weights`` are of the edge mixing, ``[C,
        C_out]`` each; ``scaled`` as of :meth:`add_global`, for entries.
        """
        slots = self.add_global(mixed, scaled)
        batch, count = len(edge_attr), 0
        for run in self.layout.runs:
            written = run.array(*out)
            if not run.moves:
                shape = (run.count, run.rows, run.columns)
                size = run.rows * run.columns
                written.copy_(torch.unflatten(slots[:, run.slot : run.slot + size], 1, shape))
            for axis, moves in run.moves.items():
                for move in moves:
                    part = move.part(mixed[0])
                    if run.mixed and scaled:
                        part.div_(run.size(1 - axis))
                    elif not run.mixed:
                        side = written.transpose(2, 3) if axis else written
                        side[:, move.first : move.first + move.count].copy_(part)
            if not run.mixed:
                continue
            targets, sources = _sides(run, mixed[0])
            arrays = written.unbind(1), run.array(edge_attr, edge_attr).unbind(1)
            for tile in run.tiles(batch * edge_attr.shape[-1]):
                for k in range(tile.first, tile.last):
                    target, total, edges = targets[k], arrays[0][k], arrays[1][k]
                    if tile.stop - tile.start < run.rows:
                        target, total, edges = (
                            part[:, tile.start : tile.stop] for part in (target, total, edges)
                        )
                    torch.add(target, sources[k], out=total)
                    # What was written is still in the cache when it is multiplied.
                    total.flatten(1, 2).baddbmm_(
                        edges.flatten(1, 2), weights[count + k].expand(batch, -1, -1)
                    )
            count += run.count


def _sums(
    run: TensorRun, array: Tensor, visit: Callable[[TensorRun, RowTile], None] | None
) -> tuple[Tensor, Tensor]:
    """Sums of a run ``[B, K, r, c, C]`` at its targets and its sources, ``[B, K, *, 1, C]``."""
    if torch.is_grad_enabled() or follows_operations(array):
        return array.sum(3, keepdim=True), array.sum(2).unsqueeze(3)
    batch, channels = len(array), array.shape[-1]
    target = array.new_empty(batch, run.count, run.rows, channels)
    source = array.new_empty(batch, run.count, run.columns, channels)
    for tile in run.tiles(batch * channels):
        part = tile.part(array)
        torch.sum(part, 3, out=tile.part(target))
        if tile.start:
            source[:, tile.first : tile.last] += part.sum(2)
        else:
            torch.sum(part, 2, out=source[:, tile.first : tile.last])
        if visit is not None:
            visit(run, tile)
    return target.unsqueeze(3), source.unsqueeze(3)


def _add_weight_gradients(
    found: list[Tensor], edge_attr: Tensor, gradient: Tensor, run: TensorRun, tile: RowTile
) -> None:
    """Sum gradient times edge ``[C_out, C]`` for each tensor with edge mixing, by tiles."""
    gradients, edges = (
        tile.part(run.array(value, value)).flatten(2, 3) for value in (gradient, edge_attr)
    )
    for one, other in zip(gradients.unbind(1), edges.unbind(1), strict=True):
        if edges.shape[2] >= 64:
            product = torch.bmm(one.mT, other).sum(0)
        else:
            # Few edges per network: one product over all costs a copy, but no sum.
            product = one.flatten(0, 1).T @ other.flatten(0, 1)
        if tile.start:
            found[-1] += product
        else:
            found.append(product)


def _sides(run: TensorRun, stacks: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Tables at the targets ``[B, r, 1, C]`` and sources ``[B, 1, c, C]`` of each tensor, views."""
    targets, sources = (
        [part for move in run.moves[axis] for part in move.part(stacks).unbind(1)]
        for axis in (0, 1)
    )
    return targets, [source.transpose(1, 2) for source in sources]


def _matrix(stack: Tensor) -> Tensor:
    """A stack as matrices ``[G, B n, c C]``, a view."""
    return stack.flatten(3, 4).flatten(1, 2)


def _assembled(pieces: dict[int, Tensor], like: Tensor, size: int) -> Tensor:
    """Set pieces ``[B, n, C]``, by their first rows, side by side, with zeros between."""
    found, at = [], 0
    for start in sorted(pieces):
        piece = pieces[start]
        found += [like.new_zeros(len(like), start - at, like.shape[-1]), piece]
        at = start + piece.shape[1]
    return torch.cat([*found, like.new_zeros(len(like), size - at, like.shape[-1])], dim=1)


class _Mix(torch.autograd.Function):
    """:meth:`DenseMixing.plain` with a backward pass of its own; higher ones use the plain form."""

    @staticmethod
    def forward(
        ctx: Any, mixing: DenseMixing, x: Tensor, edge_attr: Tensor, bias: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        count = len(mixing.terms.tables) + 1
        tables = mixing.pool(x, edge_attr)
        mixed = mixing.mix(tables, weights[:count], bias)
        channels = len(weights[0]) // max(mixing.terms.num_slots, 1)
        out = x.new_zeros(*x.shape[:2], channels), x.new_empty(*edge_attr.shape[:2], channels)
        mixing.write(mixed, edge_attr, [w.mT for w in weights[count:]], out)
        ctx.mixing, ctx.has_bias, ctx.num_weights = mixing, bias is not None, len(weights)
        ctx.save_for_backward(x, edge_attr, bias, *weights, *tables[0], tables[1])
        return out

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor, grad_edges: Tensor) -> tuple[Tensor | None, ...]:
        mixing: DenseMixing = ctx.mixing
        x, edge_attr, bias, *rest = ctx.saved_tensors
        weights, tables = rest[: ctx.num_weights], rest[ctx.num_weights :]
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            inputs = [x, edge_attr, bias, *weights]
            return None, *derivatives(mixing.plain, inputs, needed, (grad_x, grad_edges))
        count = len(mixing.terms.tables) + 1
        of_edges: list[Tensor] = []
        visit = partial(_add_weight_gradients, of_edges, edge_attr, grad_edges)
        sums, total = mixing.pool(grad_x, grad_edges, mean=False, visit=visit)
        found_weights: list[Tensor] = [total.T @ tables[-1], *weights[1:count]]
        for stack, own, table in zip(mixing.layout.stacks, sums, tables[:-1], strict=True):
            product = torch.bmm(_matrix(own).mT, _matrix(table))
            for index, gradient in zip(stack.tables, product.unbind(), strict=True):
                found_weights[1 + index] = gradient
        found_weights += of_edges
        grad_bias = total.sum(0) if ctx.has_bias else None
        if not (needed[0] or needed[1]):
            return None, None, None, grad_bias, *found_weights
        mixed = mixing.mix((sums, total), [w.mT for w in weights[:count]])
        out = torch.zeros_like(x), torch.empty_like(edge_attr)
        mixing.write(mixed, grad_edges, weights[count:], out, scaled=True)
        return None, *out, grad_bias, *found_weights
