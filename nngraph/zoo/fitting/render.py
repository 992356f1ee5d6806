"""Networks back to the images that they represent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.zoo.fitting.siren import pixel_coordinates

__all__ = ["render"]


def render(
    networks: NeuralGraphStack | Mapping[str, Tensor],
    height: int,
    width: int,
    architecture: Architecture | None = None,
) -> Tensor:
    """Evaluate networks of image coordinates at the centres of ``height`` x ``width`` pixels.

    Any size gives the whole image; only the sampling differs.

    Args:
        networks: a stack, or stacked parameters ``[B, *shape]`` with their ``architecture``.

    Returns:
        Images ``[B, height, width, C]`` as the networks have them, not clamped to [0, 1].

    Raises:
        ArchitectureError: if the networks are not MLPs of 2 coordinates, or none is given.
    """
    if isinstance(networks, NeuralGraphStack):
        architecture, parameters = networks.architecture, networks.parameters()
    else:
        parameters = dict(networks)
    if architecture is None:
        raise ArchitectureError("stacked parameters have no architecture; pass the one they fit.")
    if not architecture.is_chain or architecture.widths[0] != 2:
        raise ArchitectureError(
            f"networks of {architecture} are not images; expected a chain of layers on 2 inputs."
        )
    biases = {column.group: column.parameter.name for column in architecture.columns}
    first = parameters[architecture.blocks[0].parameter.name]
    values = pixel_coordinates(height, width).to(first).expand(len(first), -1, -1)
    for block in architecture.blocks:
        values = torch.matmul(values, parameters[block.parameter.name].transpose(1, 2))
        if block.target in biases:
            values = values + parameters[biases[block.target]].unsqueeze(1)
        values = architecture.groups[block.target].activation(values)
    return values.reshape(len(first), height, width, -1)
