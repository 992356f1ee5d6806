"""A chain of affine maps, and the graph it makes: what every MLP converter ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from nngraph.errors import InvalidGraphError
from nngraph.graph import (
    INTEGERS,
    Activation,
    Architecture,
    ChainLayer,
    NeuralGraph,
    check_parameters,
)

__all__ = [
    "Activations",
    "activation_list",
    "chain_architecture",
    "chain_to_graph",
    "check_tensor",
    "to_neural_graph",
]

#: One activation for all hidden layers, or one per hidden layer, or one per map.
Activations = Activation | str | Sequence[Activation | str]

#: Convertible bit for bit; the formats of fewer bits have no arithmetic of their own in torch.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def activation_list(activations: Activations, depth: int) -> list[Activation]:
    """Return one activation per map; the last map has none unless it is given one.

    Raises:
        ArchitectureError: if there are neither ``depth`` nor ``depth - 1`` of them.
    """
    # Widths do not matter here; the architecture has the rule.
    groups = Architecture.mlp([1] * (depth + 1), activations).groups
    return [group.activation for group in groups[1:]]


def check_tensor(name: str, value: object, integer: bool = False) -> Tensor:
    """Return ``value`` if a graph can carry it: a dense tensor of real floating-point numbers.

    Args:
        integer: whether it is a buffer of whole numbers, which may have their dtypes instead.

    Raises:
        InvalidGraphError: if it is anything else.
    """
    what = f"parameter {name!r}"
    if not isinstance(value, Tensor):
        raise InvalidGraphError(
            f"{what} is a {type(value).__name__}; expected a tensor. For an array use "
            "torch.from_numpy."
        )
    if isinstance(value, UninitializedTensorMixin):
        raise InvalidGraphError(
            f"{what} has no shape yet: its lazy module has not been run. Run the module once first."
        )
    if value.is_meta:
        raise InvalidGraphError(
            f"{what} is on the meta device and has no numbers. Load the weights first, for example "
            "with module.to_empty(device='cpu') and module.load_state_dict(...)."
        )
    if value.is_quantized:
        raise InvalidGraphError(
            f"{what} is quantised ({value.dtype}); expected real numbers. Dequantise the network "
            "first, or convert the one it was made of."
        )
    if value.layout != torch.strided:
        raise InvalidGraphError(
            f"{what} has layout {value.layout}; expected a dense tensor. Convert it with "
            ".to_dense()."
        )
    if integer and str(value.dtype).removeprefix("torch.") in INTEGERS:
        return value
    if value.dtype not in DTYPES:
        raise InvalidGraphError(
            f"{what} has dtype {value.dtype}; expected one of {', '.join(map(str, DTYPES))}. "
            "Convert the network first, for example with module.to(torch.float32)."
        )
    return value


def chain_architecture(
    maps: Sequence[ChainLayer], shapes: Mapping[str, tuple[int, ...]]
) -> Architecture:
    """Describe the chain of these maps, whose parameters have these shapes.

    Raises:
        InvalidGraphError: if a weight is not a matrix, a bias does not fit its weight, or a map
            does not take what the one before it gives.
    """
    widths: list[int] = []
    for i, affine in enumerate(maps):
        shape = shapes[affine.weight]
        if len(shape) != 2:
            raise InvalidGraphError(
                f"parameter {affine.weight!r} has shape {shape}; expected a matrix (out, in)."
            )
        rows, columns = shape
        if not rows or not columns:
            raise InvalidGraphError(
                f"parameter {affine.weight!r} has shape ({rows}, {columns}); expected at least one "
                "neuron on either side."
            )
        if i and columns != widths[-1]:
            raise InvalidGraphError(
                f"parameter {affine.weight!r} of shape ({rows}, {columns}) takes {columns} inputs, "
                f"but {maps[i - 1].weight!r} before it gives {widths[-1]} outputs; "
                "expected a chain."
            )
        if affine.bias is not None and shapes[affine.bias] != (rows,):
            raise InvalidGraphError(
                f"parameter {affine.bias!r} has shape {shapes[affine.bias]}; "
                f"expected ({rows},), one bias per output of {affine.weight!r}."
            )
        widths += [columns, rows] if not i else [rows]
    plain = Architecture.mlp(
        widths, [affine.activation for affine in maps], [affine.bias is not None for affine in maps]
    )
    names = [name for affine in maps for name in (affine.weight, affine.bias) if name is not None]
    return Architecture(
        plain.groups,
        tuple(replace(p, name=name) for p, name in zip(plain.parameters, names, strict=True)),
    )


def chain_to_graph(
    maps: Sequence[ChainLayer],
    parameters: Mapping[str, Tensor],
    allow_nonfinite: bool = False,
    differentiable: bool = False,
) -> NeuralGraph:
    """Put the parameters of a chain on its graph, without a copy.

    Args:
        parameters: every parameter that the maps name.
        allow_nonfinite: whether NaN and infinity pass.
        differentiable: keep the parameters in their autograd graph, and do not detach them.
    """
    values = {name: check_tensor(name, value) for name, value in parameters.items()}
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    return to_neural_graph(
        chain_architecture(maps, shapes), values, allow_nonfinite, differentiable
    )


def to_neural_graph(
    architecture: Architecture,
    parameters: Mapping[str, Tensor],
    allow_nonfinite: bool,
    differentiable: bool,
) -> NeuralGraph:
    """Put checked parameters on an architecture."""
    values = check_parameters(architecture, parameters, allow_nonfinite=allow_nonfinite)
    if not differentiable:
        values = {name: value.detach() for name, value in values.items()}
    return NeuralGraph.from_parameters(architecture, values)
