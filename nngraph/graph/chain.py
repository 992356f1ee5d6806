"""Chains of affine maps: the layers of one, and what says that an architecture is none."""

from __future__ import annotations

from dataclasses import dataclass

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import Architecture


@dataclass(frozen=True)
class ChainLayer:
    """One layer ``x -> a(W x + b)``: names of its parameters, and its activation."""

    weight: str
    bias: str | None
    activation: Activation


def chain_layers(architecture: Architecture, advice: str = "") -> tuple[ChainLayer, ...]:
    """Return the layers of a chain; layer l leads from group l to group l + 1.

    Raises:
        ArchitectureError: naming what makes it no chain of affine maps; it ends with ``advice``.
    """
    if architecture.chain_fault is not None:
        raise ArchitectureError(
            f"the architecture {architecture} is not a chain of affine maps, x -> a(W x + b): "
            f"{architecture.chain_fault}. {advice}".rstrip()
        )
    biases = {column.group: column.parameter.name for column in architecture.columns}
    return tuple(
        ChainLayer(
            block.parameter.name, biases.get(block.target),
            architecture.groups[block.target].activation,
        )
        for block in architecture.blocks
    )  # fmt: skip
