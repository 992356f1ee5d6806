"""Architectures, parameters and features to state laws over."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nngraph.graph import Activation, Architecture, NeuralGraphStack

__all__ = ["random_architectures", "random_features", "random_parameters", "random_stack"]


def random_architectures() -> list[tuple[str, Architecture]]:
    """Return ``(id, architecture)`` of small MLPs, one for each case that a law may fail in.

    The same list every time; the ids suit ``pytest.mark.parametrize``.
    """
    sine = Activation("sine", w0=30)
    leaky = Activation("leaky_relu", negative_slope=0.2)
    mixed: list[Activation | str] = ["tanh", sine, leaky, "silu"]
    mlp = Architecture.mlp
    return [
        ("one-affine-map", mlp([3, 2])),
        ("one-hidden-layer", mlp([2, 5, 1], sine)),
        ("width-one", mlp([2, 1, 3, 1, 2], "tanh")),
        ("no-bias", mlp([2, 4, 3, 1], "relu", bias=False)),
        ("mixed-biases", mlp([2, 4, 3, 5, 2], "gelu", bias=[True, False, True, False])),
        ("several-outputs", mlp([2, 4, 3, 3], sine)),
        ("equal-widths", mlp([3, 3, 3, 3], "elu")),
        ("wide-input", mlp([20, 4, 3, 2], "sigmoid")),
        ("depth-six", mlp([2, 3, 4, 3, 4, 3, 2], "softplus")),
        ("mixed-activations", mlp([2, 4, 5, 3, 2], mixed)),
    ]


def random_parameters(
    architecture: Architecture,
    generator: torch.Generator | int,
    dtype: torch.dtype = torch.float64,
    zero_fraction: float = 0.0,
    lead: tuple[int, ...] = (),
) -> dict[str, Tensor]:
    """Return normal parameters of variance 1 / fan-in, ``[*lead, *shape]`` each, by their names.

    Args:
        generator: source of randomness, or a seed.
        zero_fraction: share of the entries that is set to exactly 0, on average.
        lead: leading shape, ``(B,)`` for a stack.
    """
    generator = _generator(generator)
    parameters = {}
    for parameter in architecture.parameters:
        shape = (*lead, *parameter.shape)
        scale = 1 / math.sqrt(parameter.shape[1]) if len(parameter.shape) == 2 else 0.5
        value = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        if zero_fraction:
            kept = torch.rand(shape, generator=generator) >= zero_fraction
            value = value * kept
        parameters[parameter.name] = value.to(dtype)
    return parameters


def random_stack(
    architecture: Architecture,
    count: int,
    generator: torch.Generator | int,
    dtype: torch.dtype = torch.float64,
    zero_fraction: float = 0.0,
) -> NeuralGraphStack:
    """Return ``count`` networks with :func:`random_parameters`."""
    parameters = random_parameters(architecture, generator, dtype, zero_fraction, (count,))
    return NeuralGraphStack.from_parameters(architecture, parameters)


def random_features(
    architecture: Architecture,
    count: int,
    node_channels: int,
    edge_channels: int,
    generator: torch.Generator | int,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Return standard normal features: x ``[B, N, C_x]`` and edge_attr ``[B, E, C_e]``.

    Every neuron gets features, the inputs too: what layers deeper in a model see.
    """
    generator = _generator(generator)
    shapes = (
        (count, architecture.num_nodes, node_channels),
        (count, architecture.num_edges, edge_channels),
    )
    x, edge_attr = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    )
    return x, edge_attr


def _generator(generator: torch.Generator | int) -> torch.Generator:
    if isinstance(generator, torch.Generator):
        return generator
    return torch.Generator().manual_seed(generator)
