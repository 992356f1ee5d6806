"""What is said of the tensors of a network, done to graphs and stacks alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch_geometric.data import Batch

from nngraph.errors import ArchitectureError
from nngraph.graph import NeuralGraph, NeuralGraphStack

#: Tensors of a module by name, its graph, or several such graphs.
Network: TypeAlias = Mapping[str, Tensor] | NeuralGraph | NeuralGraphStack
#: From the tensors of one network to those of another.
Change: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def change_network(network: Network, changes: Sequence[Change]) -> Network:
    """Return a network in the form it was given in, its tensors changed, network by network.

    Args:
        network: tensors by name, a graph, or a stack.
        changes: of the tensors of one network: a single one, or of a stack one for each network.

    Raises:
        ArchitectureError: if the changes are not as many, or the network is a ``Batch``.
    """
    count = len(network) if isinstance(network, NeuralGraphStack) else 1
    if isinstance(network, Batch) or len(changes) not in (1, count):
        raise ArchitectureError(
            f"a {type(network).__name__} of {count} networks and {len(changes)} elements were "
            "given; expected tensors by name, a NeuralGraph or a NeuralGraphStack, and one element "
            "for all or one for each."
        )
    if isinstance(network, NeuralGraphStack):
        values = network.parameters()
        found = [
            changes[i % len(changes)]({name: value[i] for name, value in values.items()})
            for i in range(count)
        ]
        stacked = {n: torch.stack([f[n] for f in found]) if found else v for n, v in values.items()}
        return network.with_parameters(stacked)
    if isinstance(network, NeuralGraph):
        return network.with_parameters(changes[0](network.parameters()))
    return changes[0](network)
