r"""Running a neural graph as the network it describes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch

from nngraph.errors import InvalidGraphError
from nngraph.graph.chain import ChainLayer, chain_layers
from nngraph.graph.neural_graph import NeuralGraph, check_readable
from nngraph.graph.stack import NeuralGraphStack

#: Messages of one pass that are held at once; more inputs are run in several parts.
_MAX_MESSAGES = 2**24


def forward(
    graph: NeuralGraph | NeuralGraphStack, inputs: Tensor, *, return_activations: bool = False
) -> Tensor:
    r"""Run a neural graph as a network: one message pass per layer.

    .. math:: h_i = a_{g(i)}\Big(b_i + \sum_{e = (j \to i)} w_e \, h_j\Big)

    over the neurons i of one group after another; the inputs are the h of the first group. A single
    graph is run over its own ``edge_index`` and features, which proves what a converter made, with
    sums in float32 at least; a stack (or a ``Batch`` of one architecture) by batched matrix
    products over its blocks. Differentiable in the inputs and in the weights.

    Args:
        graph: a chain of affine maps (``architecture.is_chain``).
        return_activations: return h of all N neurons, in the order of the nodes, and not only the
            outputs, which are its last d_L.

    Shape:
        one graph: ``[*, d_0]`` -> ``[*, d_L]`` or ``[*, N]``.
        B networks: ``[P, d_0]`` for all, or ``[B, P, d_0]`` -> ``[B, P, d_L]`` or ``[B, P, N]``.

    Raises:
        ArchitectureError: if the architecture is not a chain of affine maps.
        InvalidGraphError: if the inputs or the edges and nodes do not fit the architecture.
    """
    if isinstance(graph, Batch):
        graph = _stacked(graph)
    if not isinstance(graph, NeuralGraphStack):
        check_readable(graph, any_order=True)
    architecture = graph.architecture
    layers = chain_layers(architecture, "Only such a chain can be run without its module.")
    weights = graph.edge_attr
    assert isinstance(weights, Tensor)
    if inputs.dim() == 0 or inputs.shape[-1] != architecture.widths[0]:
        raise InvalidGraphError(
            f"the inputs have shape {tuple(inputs.shape)}; the network {architecture} expects "
            f"(..., {architecture.widths[0]})."
        )
    if inputs.dtype != weights.dtype or inputs.device != weights.device:
        raise InvalidGraphError(
            f"the inputs are {inputs.dtype} on {inputs.device} and the weights {weights.dtype} on "
            f"{weights.device}; expected one dtype and one device."
        )
    if isinstance(graph, NeuralGraphStack):
        activations = _run_stack(graph, layers, inputs)
        return torch.cat(activations, dim=-1) if return_activations else activations[-1]
    flat = inputs.reshape(-1, architecture.widths[0])
    step = max(1, _MAX_MESSAGES // max(b.stop - b.start for b in architecture.blocks))
    parts = [_run_graph(graph, part.T) for part in torch.split(flat, step)]
    values = torch.cat(parts, dim=1).T
    if not return_activations:
        values = values[:, architecture.node_starts[-2] :]
    return values.reshape(*inputs.shape[:-1], values.shape[-1])


def _run_graph(graph: NeuralGraph, inputs: Tensor) -> Tensor:
    """Return the activations ``[N, P]`` of one graph for inputs ``[d_0, P]``, edge by edge."""
    architecture = graph.architecture
    x, edge_attr, edge_index = graph.x, graph.edge_attr, graph.edge_index
    assert isinstance(x, Tensor)
    assert isinstance(edge_attr, Tensor)
    assert isinstance(edge_index, Tensor)
    wide = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    starts = architecture.node_starts
    # Which group an edge leads into is read off the graph and not off the architecture, so that
    # the order of the edges does not matter here.
    into = graph.node_group[edge_index[1]]
    values = architecture.groups[0].activation(inputs)
    for index, group in enumerate(architecture.groups[1:], start=1):
        edges = (into == index).nonzero().squeeze(1)
        source, target = edge_index[:, edges]
        messages = edge_attr[edges, 0].to(wide).unsqueeze(1) * values[source].to(wide)
        bias = x[starts[index] : starts[index + 1], 0].to(wide)
        total = bias.unsqueeze(1).expand(-1, inputs.shape[1])
        total = total.index_add(0, target - starts[index], messages)
        values = torch.cat([values, group.activation(total.to(x.dtype))])
    return values


def _run_stack(
    stack: NeuralGraphStack, layers: Sequence[ChainLayer], inputs: Tensor
) -> list[Tensor]:
    """Return the activations ``[B, P, d_l]`` of each layer, by batched products over the blocks."""
    architecture, count = stack.architecture, len(stack)
    if inputs.dim() not in (2, 3) or (inputs.dim() == 3 and inputs.shape[0] != count):
        raise InvalidGraphError(
            f"the inputs have shape {tuple(inputs.shape)}; {count} networks expect "
            f"(P, {architecture.widths[0]}) for all of them, or ({count}, P, "
            f"{architecture.widths[0]})."
        )
    parameters = stack.parameters()
    values = architecture.groups[0].activation(inputs.expand(count, *inputs.shape[-2:]))
    activations = [values]
    for layer in layers:
        weight = parameters[layer.weight].transpose(1, 2)
        if layer.bias is not None:
            values = torch.baddbmm(parameters[layer.bias].unsqueeze(1), values, weight)
        else:
            values = torch.bmm(values, weight)
        values = layer.activation(values)
        activations.append(values)
    return activations


def _stacked(batch: Batch) -> NeuralGraphStack:
    """Return a batch of graphs of one architecture as a stack that shares its memory."""
    check_readable(batch)
    architectures = batch.architecture
    if any(architecture != architectures[0] for architecture in architectures):
        raise InvalidGraphError(
            "the batch holds graphs of different architectures, whose outputs do not stack; "
            "run the graphs of batch.to_data_list() one by one."
        )
    count = len(architectures)
    x, edge_attr = (v.view(count, -1, v.shape[-1]) for v in (batch.x, batch.edge_attr))
    return NeuralGraphStack(architectures[0], x, edge_attr)
