"""The topology of any graph: edges in any order, in no blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import ROLES
from nngraph.graph.topology.kinds import KERNEL_AXES
from nngraph.graph.topology.parts import Nodes

__all__ = ["of_edges"]

#: The topology, which imports this module.
Made = TypeVar("Made")


def of_edges(
    make: Callable[..., Made], edge_index: Tensor, num_nodes: int, batch: Tensor | None = None
) -> Made:
    """See :meth:`nngraph.graph.Topology.of_edges`."""
    if edge_index.dim() != 2 or len(edge_index) != 2 or edge_index.dtype != torch.long:
        raise InvalidGraphError(
            f"edge_index is {edge_index.dtype} of shape {tuple(edge_index.shape)}; expected int64 "
            "(2, E)."
        )
    device = edge_index.device
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
        raise InvalidGraphError(
            f"edge_index names the nodes {int(edge_index.min())} to {int(edge_index.max())}; "
            f"expected 0 to {num_nodes - 1}."
        )
    if batch is None:
        batch = torch.zeros(num_nodes, dtype=torch.long, device=device)
    if batch.shape != (num_nodes,):
        raise InvalidGraphError(
            f"batch has shape {tuple(batch.shape)}; expected ({num_nodes},), the graph of each "
            "node."
        )
    source, target = edge_index[0], edge_index[1]
    if bool((batch[source] != batch[target]).any()):
        raise InvalidGraphError("an edge joins nodes of two graphs; expected both ends in one.")
    graphs = int(batch.max()) + 1 if num_nodes else 1
    zeros = torch.zeros(num_nodes, dtype=torch.long, device=device)
    each = torch.arange(graphs, device=device)
    identity = Activation("identity")
    return make(
        num_nodes=num_nodes,
        num_edges=edge_index.shape[1],
        num_graphs=graphs,
        node_group=batch,
        node_graph=batch,
        block_graph=each,
        group_graph=each,
        node_role=torch.full_like(zeros, ROLES.index("hidden")),
        node_position=zeros,
        node_moves=torch.ones_like(zeros).bool(),
        node_level=zeros,
        node_height=zeros,
        node_mask=torch.ones_like(zeros).bool().unsqueeze(-1),
        node_columns=torch.ones_like(zeros).unsqueeze(-1),
        output_place=torch.full_like(zeros, -1),
        in_level_order=True,
        output_rows={},
        level_order=torch.arange(num_nodes, device=device),
        max_inputs=0,
        max_outputs=0,
        group_level=torch.zeros_like(each),
        block_level=torch.zeros_like(each),
        block_kind=torch.zeros_like(each),
        kernel_size=torch.ones(graphs, KERNEL_AXES, dtype=torch.long, device=device),
        in_degree=torch.bincount(target, minlength=num_nodes),
        out_degree=torch.bincount(source, minlength=num_nodes),
        block_size=torch.bincount(batch[source], minlength=graphs),
        group_size=torch.bincount(batch, minlength=graphs),
        buckets=None,
        levels=(),
        level_skips=(),
        level_nodes=(Nodes(num_nodes, 1, 0, None),),
        places=((0, 0, Nodes(num_nodes, 1, 0, None)),),
        level_activations=(((identity, None),),),
        activations=(identity,),
        node_activation=zeros,
        blocks=torch.zeros(graphs, 6, dtype=torch.long, device=device),
        reordered=False,
        architectures=(),
        ends=(source, target),
    )
