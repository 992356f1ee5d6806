"""What models that return networks return: new features in the form the networks were given in."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from torch_geometric.data import Batch

from nngraph.graph import NeuralGraph, NeuralGraphStack, restore_edges, unpack
from nngraph.nn.features import Features, Networks

__all__ = ["output_networks"]


def output_networks(features: Features, like: Networks) -> Any:
    """Bring features to the form that networks were given in: undoes ``input_features``.

    A stack, a graph and a PyG batch keep what else they carry, such as ``y``.

    Args:
        features: of networks of the same architectures in the same order.
        like: the networks that were given.
    """
    if isinstance(like, Features):
        return features
    if isinstance(like, NeuralGraphStack):
        x, edge_attr = features.x, features.edge_attr
        return NeuralGraphStack(like.architecture, x, edge_attr, like.y, like.integers)
    if not isinstance(like, NeuralGraph):
        return _apart(features, like)
    if not isinstance(like, Batch):
        integers = like.integers if like.architecture.integers else None
        values = unpack(like.architecture, features.x, features.edge_attr, integers)
        return like.with_parameters(values)
    out = copy(like)
    edge_attr = restore_edges(features.topology, features.edge_attr)
    out.x = features.x.reshape(-1, features.x.shape[-1])
    out.edge_attr = edge_attr.reshape(-1, edge_attr.shape[-1])
    return out


def _apart(features: Features, like: Sequence[NeuralGraphStack]) -> list[NeuralGraphStack]:
    """Return the networks of several stacks that were laid side by side as stacks again."""
    if len(like) == 1:
        return [output_networks(features, like[0])]
    edges = restore_edges(features.topology, features.edge_attr)
    out, node, edge = [], 0, 0
    for stack in like:
        a, count = stack.architecture, len(stack)
        nodes, weights = count * a.num_nodes, count * a.num_edges
        x = features.x[node : node + nodes, : len(a.column_names)]
        e = edges[edge : edge + weights, : a.num_taps]
        x, e = x.reshape(count, a.num_nodes, -1), e.reshape(count, a.num_edges, a.num_taps)
        out.append(NeuralGraphStack(a, x, e, stack.y, stack.integers))
        node, edge = node + nodes, edge + weights
    return out
