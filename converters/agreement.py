"""Running a graph beside its module: what it says that the network computes, held to that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from converters.symmetry.running import ForwardFailed, Network, relative_change
from converters.symmetry.spec import PermutationSpec
from nngraph.errors import ArchitectureError
from nngraph.graph import NeuralGraph, NeuralGraphStack, forward


def run_change(graph: NeuralGraph, network: Network, spec: PermutationSpec) -> float | None:
    """Return by how much a graph that is run differs from its network, over several inputs.

    Both in float64.

    Returns:
        the largest difference relative to the largest entry of the outputs; infinity if the graph
        gives something else than one tensor of as many entries; ``None`` if it cannot be run.
    """
    run = _runnable(graph)
    if run is None:
        return None
    leaves, tree = pytree.tree_flatten((network.args, network.kwargs))
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if len(tensors) != 1:
        return float("inf")
    worst = 0.0
    for number, inputs in enumerate(_inputs(leaves[tensors[0]])):
        if inputs.numel() % graph.architecture.widths[0]:
            return float("inf")
        leaves[tensors[0]] = inputs
        args, kwargs = pytree.tree_unflatten(leaves, tree)
        given = Network(network.module, args, kwargs, spec)
        try:
            expected = given.run(given.state)
        except ForwardFailed:
            if number == 0:
                raise
            continue  # inputs that only we wanted
        worst = max(worst, relative_change(expected, [run(inputs)]))
    return worst


def _runnable(graph: NeuralGraph) -> Callable[[Tensor], Tensor] | None:
    """Return a function that runs a graph in float64; ``None`` if it cannot be run."""
    if not graph.architecture.is_chain:
        return None
    values = {name: value.double()[None] for name, value in graph.parameters().items()}
    width = graph.architecture.widths[0]

    def run(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(stack, inputs.double().reshape(-1, width))[0].flatten()

    try:
        stack = NeuralGraphStack.from_parameters(graph.architecture, values)
        device = next(iter(values.values())).device
        run(torch.zeros(1, width, device=device))
    except ArchitectureError:
        return None
    return run


def _inputs(example: Tensor) -> Iterator[Tensor]:
    """The example, and others of its shape that reach further."""
    yield example
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 3.0):
        noise = torch.randn(example.shape, generator=generator, dtype=torch.float64)
        yield (scale * noise).to(example)
