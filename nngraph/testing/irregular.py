"""The topology of any graph: edges in any order, in no blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import (
    KERNEL_AXES,
    ROLES,
    Activation,
    Blocks,
    Groups,
    Level,
    Members,
    Neurons,
    Nodes,
    Topology,
)


@dataclass(frozen=True, eq=False)
class IrregularTopology(Topology):
    """Any graph, each of its components one group of hidden neurons and one block.

    Attributes:
        ends: source and target of each edge.
    """

    ends: tuple[Tensor, Tensor] = field(kw_only=True)

    @classmethod
    def of_edges(
        cls, edge_index: Tensor, num_nodes: int, batch: Tensor | None = None
    ) -> IrregularTopology:
        """Return the topology of a graph, or of several side by side.

        Args:
            edge_index: ``[2, E]``, edges in any order.
            batch: ``[N]`` graph of each node, as PyG counts them; default one graph.

        Raises:
            InvalidGraphError: if the edges name nodes that are not there, or join two graphs.
        """
        if batch is None:
            batch = torch.zeros(num_nodes, dtype=torch.long, device=edge_index.device)
        _check(edge_index, num_nodes, batch)
        source, target = edge_index
        graphs = int(batch.max()) + 1 if num_nodes else 1
        zeros, none = torch.zeros_like(batch), torch.zeros_like(batch[:1]).expand(graphs)
        graph = Members(batch, torch.bincount(batch, minlength=graphs))
        each = Members(torch.arange(graphs, device=batch.device), none + 1)
        identity, every = Activation("identity"), Nodes(num_nodes, 1, 0, None)
        return cls(
            num_nodes=num_nodes,
            num_edges=len(source),
            num_graphs=graphs,
            nodes=Neurons(
                group=graph,
                graph=graph,
                role=torch.full_like(batch, ROLES.index("hidden")),
                position=zeros,
                output_position=zeros - 1,
                moves=zeros == 0,
                level=zeros,
                depth_from_output=zeros,
                level_order=torch.arange(num_nodes, device=batch.device),
                in_degree=torch.bincount(target, minlength=num_nodes),
                out_degree=torch.bincount(source, minlength=num_nodes),
                activation=zeros,
                mask=zeros.unsqueeze(1) == 0,
                columns=zeros.unsqueeze(1) + 1,
            ),
            groups=Groups(each, graph.sizes, none),
            blocks=Blocks(
                graph=each,
                kernel_size=(none + 1).unsqueeze(1).expand(-1, KERNEL_AXES),
                size=torch.bincount(batch[source], minlength=graphs),
                **dict.fromkeys(
                    ("level", "kind", "rows", "columns", "parts", "source", "target", "edge"), none
                ),
            ),
            levels=(Level(every, (), False, ((identity, None),), None),),
            buckets=None,
            meetings=None,
            places=((0, 0, every),),
            activations=(identity,),
            architectures=(),
            ends=(source, target),
        )

    edge_block = property(lambda self: self.nodes.graph.index[self.ends[0]])
    source = property(lambda self: self.ends[0])
    target = property(lambda self: self.ends[1])


def _check(edge_index: Tensor, num_nodes: int, batch: Tensor) -> None:
    if edge_index.dim() != 2 or len(edge_index) != 2 or edge_index.dtype != torch.long:
        raise InvalidGraphError(
            f"edge_index is {edge_index.dtype} of shape {tuple(edge_index.shape)}; expected int64 "
            "(2, E)."
        )
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
        raise InvalidGraphError(
            f"edge_index names the nodes {int(edge_index.min())} to {int(edge_index.max())}; "
            f"expected 0 to {num_nodes - 1}."
        )
    if batch.shape != (num_nodes,):
        raise InvalidGraphError(
            f"batch has shape {tuple(batch.shape)}; expected ({num_nodes},), the graph of each "
            "node."
        )
    if bool((batch[edge_index[0]] != batch[edge_index[1]]).any()):
        raise InvalidGraphError("an edge joins nodes of two graphs; expected both ends in one.")
