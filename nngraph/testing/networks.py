"""Architectures, parameters and features to state laws over."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nngraph.graph import (
    ACTIVATIONS,
    Activation,
    Architecture,
    Factor,
    NeuralGraphStack,
    NeuronGroup,
    Parameter,
    Slab,
    Space,
)

#: Options to try beside the defaults, of every activation that has any; special ones among them.
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "leaky_relu": [{"negative_slope": slope} for slope in (0.3, 1.0, 0.0, -1.0)],
    "elu": [
        {"alpha": 2.0}, {"scale": 1.5, "input_scale": 0.3}, {"alpha": 0.0}, {"input_scale": 0.0},
        {"scale": 0.0}, {"alpha": -1.0},
    ],
    "softplus": [{"beta": 5.0}, {"threshold": 1.0}],
    "sine": [{"w0": 30.0}, {"w0": -2.5}, {"w0": 0.0}],
    "celu": [{"alpha": 0.5}, {"alpha": -2.0}],
    "hardtanh": [
        {"min_val": -3.0, "max_val": 3.0}, {"min_val": 0.0, "max_val": 6.0},
        {"min_val": 0.0, "max_val": 0.0}, {"min_val": 1.0, "max_val": 1.0},
    ],
    "softshrink": [{"lambd": 0.1}, {"lambd": 0.0}],
    "hardshrink": [{"lambd": 0.1}, {"lambd": 0.0}, {"lambd": -1.0}],
    "threshold": [
        {"threshold": 0.1, "value": 20.0}, {"value": 1.0}, {"threshold": -1.0},
        {"threshold": -1.0, "value": -1.0},
    ],
    "cosine": [{"w0": 7.0}, {"w0": 0.0}],
}  # fmt: skip


def every_activation() -> list[Activation]:
    """Return all that can be applied, ``"other"`` alone left out, each with several options.

    The same list every time; ``ids=str`` suits ``pytest.mark.parametrize``.
    """
    return [
        Activation(name, **options)
        for name, row in ACTIVATIONS.items() if row.function is not None
        for options in ({}, *_OPTIONS.get(name, []))
    ]


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


def structured_architectures() -> list[tuple[str, Architecture]]:
    """Return ``(id, architecture)`` of small networks that are no MLPs, one for each kind of block.

    The same list every time, as :func:`random_architectures`.
    """

    heads, grouped = Factor(2, "heads"), Factor(2, "parts")
    inner, value = (heads, Factor(3, "inner")), (heads, Factor(2, "value"))
    within = Space("inner", 3, ("heads",)), Space("value", 2, ("heads",))
    in_parts = Space("parts", 2, fixed=True), Space("a", 3, ("parts",)), Space("b", 2, ("parts",))
    # Of each head its queries and then its values.
    by_head = ((2, 5), (2,))
    queries, values = ((0, 2), (0, 3), (0, 2)), ((0, 2), (3, 5), (0, 2))
    return [
        ("convolutions", Architecture(
            _groups(("a", 4, "a"), ("b", 4, "a"), ("c", 3, "c")),
            (
                Parameter("conv", (4, 2, 3, 3), (1, 0, None, None)),
                Parameter("conv.bias", (4,), (1,), "bias"),
                Parameter("norm.weight", (4,), slabs=(Slab("b", 2, 1),)),
                Parameter("norm.bias", (4,), (2,), "bias"),
                Parameter("norm.mean", (4,), (2,), "mean"),
                Parameter("norm.count", (), integer="int64"),
                Parameter("point", (3, 4, 1, 1), (3, 2, None, None)),
                Parameter("linear", (3, 12), slabs=(Slab("tsf", 4, 3, split=((3,), (3, 4))),)),
                Parameter("linear.bias", (3,), (4,), "bias"),
            ),
        )),
        ("residual", Architecture(
            _groups(("a", 4, "s"), ("b", 5, "b"), ("c", 4, "s")),
            (
                Parameter("0", (4, 2), (1, 0)),
                Parameter("1", (5, 4), (2, 1)),
                Parameter("2", (4, 5), (3, 2)),
                Parameter("2.bias", (4,), (3,), "bias"),
                Parameter("3", (3, 4), (4, 3)),
            ),
            residuals=((1, 3),),
        )),
        ("concatenation", Architecture(
            _groups(("a", 3, "a"), ("b", 4, "b")),
            (
                Parameter("0", (3, 2), (1, 0)),
                Parameter("1", (2, 4), slabs=(Slab("st", 2, 0),)),  # [in, out]
                Parameter("2", (3, 7), slabs=(
                    Slab("ts", 3, 1, window=((0, 3), (0, 3))),
                    Slab("ts", 3, 2, window=((0, 3), (3, 7))),
                )),
                Parameter("place", (2, 3), slabs=(Slab("fn", 1, column="place"),)),
            ),
        )),
        ("grouped", Architecture(
            _groups(("a", 6, (grouped, Factor(3, "a"))), ("b", 4, (grouped, Factor(2, "b")))),
            (
                Parameter("0", (6, 2), (1, 0)),
                Parameter("1", (4, 3, 2), slabs=(Slab("btsf", 2, 1, split=((2, 2), (3,), (2,))),)),
                Parameter("1.bias", (4,), (2,), "bias"),
                Parameter("2", (3, 4), (3, 2)),
            ),
            structure=in_parts,
        )),
        ("heads", Architecture(
            _groups(("q", 6, inner), ("k", 6, inner), ("v", 4, value), ("h", 2, "heads")),
            (
                Parameter("qkv", (16, 2), slabs=(
                    Slab("ts", 1, 0, window=((0, 6), (0, 2))),
                    Slab("ts", 2, 0, window=((6, 12), (0, 2))),
                    Slab("ts", 3, 0, window=((12, 16), (0, 2))),
                )),
                Parameter("scale", (2,), (4,), "scale"),
                Parameter("out", (3, 4), (5, 3)),
            ),
            structure=within,
        )),
        ("head-by-head", Architecture(
            _groups(("q", 6, inner), ("v", 4, value)),
            (
                Parameter("qv", (10, 2), slabs=(
                    Slab("tts", 1, 0, split=by_head, part=queries),
                    Slab("tts", 2, 0, split=by_head, part=values),
                )),
                Parameter("out", (3, 6), (3, 1)),
                Parameter("values", (3, 4), (3, 2)),
            ),
            structure=within,
        )),
    ]  # fmt: skip


def _groups(*hidden: tuple[str, int, str | tuple[Factor, ...]]) -> tuple[NeuronGroup, ...]:
    """Groups between two inputs and three outputs, each with its name, size and neuron space."""
    between = [NeuronGroup(name, size, "hidden", space=space) for name, size, space in hidden]
    return (NeuronGroup("in", 2, "input"), *between, NeuronGroup("out", 3, "output"))


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
        if parameter.integer is not None:
            kind = getattr(torch, parameter.integer)
            parameters[parameter.name] = torch.randint(2, shape, generator=generator).to(kind)
            continue
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
    sizes = (architecture.num_nodes, node_channels), (architecture.num_edges, edge_channels)
    x, edge_attr = (
        torch.randn(count, *size, generator=generator, dtype=torch.float64).to(dtype)
        for size in sizes
    )
    return x, edge_attr


def _generator(generator: torch.Generator | int) -> torch.Generator:
    if isinstance(generator, torch.Generator):
        return generator
    return torch.Generator().manual_seed(generator)
