"""A chain of affine maps, and the graph it makes: what every MLP converter ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Activation, Architecture, ChainLayer, NeuralGraph

#: One activation for all hidden layers, or one per hidden layer, or one per map.
Activations = Activation | str | Sequence[Activation | str]


def activation_list(activations: Activations, depth: int) -> list[Activation]:
    """Return one activation per map; the last map has none unless it is given one."""
    # Widths do not matter here; the architecture has the rule.
    groups = Architecture.mlp([1] * (depth + 1), activations).groups
    return [group.activation for group in groups[1:]]


def affine_layer(prefix: str, has_bias: bool, activation: Activation) -> ChainLayer:
    """Return the affine map whose parameters have this prefix."""
    dotted = f"{prefix}." if prefix else ""
    return ChainLayer(f"{dotted}weight", f"{dotted}bias" if has_bias else None, activation)


def chain_architecture(
    maps: Sequence[ChainLayer], shapes: Mapping[str, tuple[int, ...]]
) -> Architecture:
    """Describe the chain of these maps, whose parameters have these shapes; refuse what is none."""
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
                f"parameter {affine.weight!r} has shape {shape}; expected at least one neuron on "
                "either side."
            )
        if i and columns != widths[-1]:
            raise InvalidGraphError(
                f"parameter {affine.weight!r} of shape {shape} takes {columns} inputs, but "
                f"{maps[i - 1].weight!r} before it gives {widths[-1]} outputs; expected a chain."
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
    named = zip(plain.parameters, names, strict=True)
    return Architecture(plain.groups, tuple(replace(p, name=name) for p, name in named))


def chain_to_graph(
    maps: Sequence[ChainLayer], parameters: Mapping[str, Tensor], allow_nonfinite: bool,
    differentiable: bool,
) -> NeuralGraph:  # fmt: skip
    """Put the parameters of a chain, checked tensors by name, on its graph, without a copy."""
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    architecture = chain_architecture(maps, shapes)
    return to_neural_graph(architecture, parameters, allow_nonfinite, differentiable)


def to_neural_graph(
    architecture: Architecture, parameters: Mapping[str, Tensor], allow_nonfinite: bool,
    differentiable: bool,
) -> NeuralGraph:  # fmt: skip
    """Put parameters on an architecture, detached if they are not to be differentiable."""
    if not differentiable:
        parameters = {name: value.detach() for name, value in parameters.items()}
    return NeuralGraph.from_parameters(architecture, parameters, allow_nonfinite=allow_nonfinite)
