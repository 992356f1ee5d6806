"""Networks of one architecture stacked, and networks of any as a PyG ``Batch``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch_geometric.data import Batch

from nngraph.errors import InvalidGraphError
from nngraph.graph.architecture import Architecture
from nngraph.graph.neural_graph import NeuralGraph
from nngraph.graph.parameters import check_parameters, pack, pack_integers, unpack


class NeuralGraphStack:
    """B networks of one architecture: features stacked, one structure for all.

    The form that training uses: no ``Data`` per network is made, and the dense kernels apply.

    Args:
        architecture: the architecture of all networks.
        x: node features ``[B, N, F]``.
        edge_attr: edge features ``[B, E, C]``; channel 0 is the weight, or the first are the taps.
        y: anything with one entry per network, such as labels ``[B]``; optional.
        integers: ``[B, I]``, for architectures with buffers of whole numbers.

    Raises:
        InvalidGraphError: if the shapes do not fit the architecture or one another.
    """

    def __init__(
        self,
        architecture: Architecture,
        x: Tensor,
        edge_attr: Tensor,
        y: Tensor | None = None,
        integers: Tensor | None = None,
    ) -> None:
        nodes, columns = architecture.num_nodes, len(architecture.column_names)
        if x.dim() != 3 or tuple(x.shape[1:]) != (nodes, columns):
            raise InvalidGraphError(
                f"x has shape {tuple(x.shape)}; the architecture {architecture} "
                f"expects (B, {nodes}, {columns})."
            )
        if edge_attr.dim() != 3 or edge_attr.shape[:2] != (x.shape[0], architecture.num_edges):
            raise InvalidGraphError(
                f"edge_attr has shape {tuple(edge_attr.shape)}; the architecture {architecture} "
                f"expects ({x.shape[0]}, {architecture.num_edges}, C)."
            )
        if y is not None and y.shape[:1] != x.shape[:1]:
            raise InvalidGraphError(
                f"y has shape {tuple(y.shape)}; expected {x.shape[0]} entries, one per network."
            )
        if architecture.integers and (integers is None or len(integers) != len(x)):
            raise InvalidGraphError(
                f"the architecture {architecture} has buffers of whole numbers, such as "
                f"{architecture.integers[0].name!r}; expected them as integers ({len(x)}, I)."
            )
        self.architecture, self.x, self.edge_attr = architecture, x, edge_attr
        self.y, self.integers = y, integers

    @classmethod
    def from_parameters(
        cls,
        architecture: Architecture,
        parameters: Mapping[str, Tensor],
        y: Tensor | None = None,
        *,
        allow_nonfinite: bool = True,
    ) -> NeuralGraphStack:
        """Put stacked parameters ``[B, *shape]`` on an architecture, all networks at once."""
        first = next(iter(parameters.values()), None)
        if first is None or not isinstance(first, Tensor) or first.dim() == 0:
            raise InvalidGraphError(
                "there are no stacked parameters; expected a tensor (B, *shape) per parameter."
            )
        lead = (first.shape[0],)
        parameters = check_parameters(architecture, parameters, lead, allow_nonfinite)
        x, edge_attr = pack(architecture, parameters, lead)
        integers = pack_integers(architecture, parameters, lead) if architecture.integers else None
        return cls(architecture, x, edge_attr, y, integers)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> NeuralGraphStack:
        """Return networks of the same architecture and ``y`` with other parameters."""
        return NeuralGraphStack.from_parameters(self.architecture, parameters, self.y)

    def parameters(self) -> dict[str, Tensor]:
        """Return every parameter ``[B, *shape]`` by its name, as views where it is one slab."""
        return unpack(self.architecture, self.x, self.edge_attr, self.integers)

    def to(self, *args: Any, **kwargs: Any) -> NeuralGraphStack:
        """Return the stack with its features on another device or in another dtype."""
        x, edge_attr = self.x.to(*args, **kwargs), self.edge_attr.to(*args, **kwargs)
        y = None if self.y is None else self.y.to(x.device)
        integers = None if self.integers is None else self.integers.to(x.device)
        return NeuralGraphStack(self.architecture, x, edge_attr, y, integers)

    def to_batch(self) -> Batch:
        """Return the networks as a PyG ``Batch`` of :class:`NeuralGraph`; see :func:`to_batch`."""
        return to_batch(list(self))

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Return network ``index`` as a :class:`NeuralGraph`, or several as a smaller stack."""
        y = None if self.y is None else self.y[index]
        integers = None if self.integers is None else self.integers[index]
        x, edge_attr = self.x[index], self.edge_attr[index]
        if isinstance(index, int):
            attributes: dict[str, Any] = {} if y is None else {"y": y.reshape(1, *y.shape)}
            values = unpack(self.architecture, x, edge_attr, integers)
            return NeuralGraph.from_parameters(self.architecture, values, **attributes)
        return NeuralGraphStack(self.architecture, x, edge_attr, y, integers)

    def __iter__(self) -> Iterator[NeuralGraph]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"NeuralGraphStack({len(self)} x {self.architecture}, {self.x.dtype})"


def to_batch(graphs: Sequence[NeuralGraph]) -> Batch:
    """Return a PyG ``Batch`` of networks of any architectures.

    Node and edge features get as many columns and taps as the most of them have, 0 where a network
    has none; ``get_example`` still gives each network back, bit by bit. For networks of the same
    numbers of both this is ``Batch.from_data_list``.

    Raises:
        InvalidGraphError: if there are no graphs.
    """
    if not graphs:
        raise InvalidGraphError("there are no graphs to batch; expected at least one.")
    columns = max(graph.x.shape[-1] for graph in graphs)
    taps = max(graph.edge_attr.shape[-1] for graph in graphs)
    counted = any(graph.architecture.integers for graph in graphs)
    return Batch.from_data_list([_padded(graph, columns, taps, counted) for graph in graphs])


def _padded(graph: NeuralGraph, columns: int, taps: int, counted: bool) -> NeuralGraph:
    if (graph.x.shape[-1], graph.edge_attr.shape[-1], "integers" in graph) == (
        columns, taps, counted
    ):  # fmt: skip
        return graph
    out = copy.copy(graph)
    out.x, out.x_mask = (pad(v, (0, columns - v.shape[-1])) for v in (graph.x, graph.x_mask))
    out.edge_attr = pad(graph.edge_attr, (0, taps - graph.edge_attr.shape[-1]))
    if counted and "integers" not in graph:
        out.integers = torch.zeros(0, dtype=torch.long, device=out.x.device)
    return out
