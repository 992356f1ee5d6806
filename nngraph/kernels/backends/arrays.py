"""Blocks as dense arrays: views of their edges and of the neurons at their ends, and back."""

from __future__ import annotations

from operator import le

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Bucket, Nodes, Topology


def buckets_of(topology: Topology) -> tuple[Bucket, ...]:
    """Return the buckets that a topology must have."""
    if topology.buckets is None:
        raise InvalidGraphError(
            "the backend 'dense' was asked of an irregular graph, whose edges are in no blocks; "
            "expected 'scatter', 'reference' or 'auto'."
        )
    return topology.buckets


def take(x: Tensor, nodes: Nodes) -> Tensor:
    """Return the features of some neurons: ``[*, N, C] -> [*, n, C]``; a view where contiguous."""
    if nodes.index is None:
        return x[..., nodes.start : nodes.stop, :]
    return x.index_select(-2, nodes.index)


def sets_of(x: Tensor, nodes: Nodes) -> Tensor:
    """Return :func:`take`'s rows as ``[*, count, size, C]``."""
    rows = take(x, nodes)
    return rows.reshape(*rows.shape[:-2], nodes.count, nodes.size, rows.shape[-1])


def axes_of(bucket: Bucket, side: str = "target") -> tuple[int, ...]:
    """Return the axes of a bucket's edges: arrays, rows, columns; by block, blocks and edges."""
    if side == "block":
        return bucket.blocks, bucket.parts * bucket.rows * bucket.columns
    return bucket.count, bucket.rows, bucket.columns


def edges_of(e: Tensor, bucket: Bucket, side: str = "target") -> Tensor:
    """Return edges of a bucket as ``[*, axes, C]`` of :func:`axes_of`, a view of ``[*, E, C]``."""
    shape = (*e.shape[:-2], *axes_of(bucket, side), e.shape[-1])
    return e[..., bucket.start : bucket.stop, :].reshape(shape)


def ends_of(x: Tensor, bucket: Bucket, side: str) -> Tensor:
    """Return what a bucket's edges read of their end or block; the axes along it have size 1."""
    if side == "block":
        return block_rows(x, bucket).unsqueeze(-2)
    if side == "target":
        return sets_of(x, bucket.target).unsqueeze(-2)
    return sets_of(x, bucket.source).unsqueeze(-3)


def block_rows(z: Tensor, bucket: Bucket) -> Tensor:
    """Return the rows of a bucket's blocks, ``[*, blocks, C]``, a view of ``[*, K, C]``."""
    return z[..., bucket.first_block : bucket.first_block + bucket.blocks, :]


def assemble(
    num_nodes: int, like: Tensor, parts: list[tuple[Nodes, Tensor]], op: str = "sum"
) -> Tensor:
    """Bring parts ``[*, count, size, C]`` together at their nodes: ``[*, N, C]``."""
    if not parts:
        return like.new_zeros(*like.shape[:-2], num_nodes, like.shape[-1])
    first = parts[0][1]
    lead, channels = first.shape[:-3], first.shape[-1]
    if all(n.index is None for n, _ in parts):
        ordered = sorted(parts, key=lambda part: part[0].start)
        starts, stops = [n.start for n, _ in ordered], [n.stop for n, _ in ordered]
        if all(map(le, [0, *stops], [*starts, num_nodes])):
            # Disjoint slices, as in any chain: set side by side, nothing is added.
            pieces, at = [], 0
            for nodes, part in ordered:
                if nodes.start > at:
                    pieces.append(part.new_zeros(*lead, nodes.start - at, channels))
                pieces.append(part.flatten(-3, -2))
                at = nodes.stop
            if at < num_nodes:
                pieces.append(first.new_zeros(*lead, num_nodes - at, channels))
            return torch.cat(pieces, dim=-2) if len(pieces) > 1 else pieces[0]
    # One operation for all parts: one each would copy all neurons once per bucket.
    index = torch.cat([_rows(n, first.device) for n, _ in parts])
    values = torch.cat([part.flatten(-3, -2) for _, part in parts], dim=-2)
    out = values.new_zeros(*lead, num_nodes, channels)
    if op == "sum":
        return out.index_add(-2, index, values)
    at_rows = index.unsqueeze(-1).expand_as(values)
    return out.scatter_reduce(-2, at_rows, values, f"a{op}", include_self=False)


def _rows(nodes: Nodes, device: torch.device) -> Tensor:
    if nodes.index is None:
        return torch.arange(nodes.start, nodes.stop, device=device)
    return nodes.index
