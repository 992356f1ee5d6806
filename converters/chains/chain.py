"""A chain of affine maps, and the graph it makes: what every MLP converter ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import (
    Activation,
    Architecture,
    ChainLayer,
    NeuralGraph,
    NeuralGraphStack,
    check_tensor,
)

#: One activation for all hidden layers, or one per hidden layer, or one per map.
Activations = Activation | str | Sequence[Activation | str]


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


def mlp_to_graph(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    activations: Activations,
    *,
    names: Sequence[str] | None = None,
    allow_nonfinite: bool = False,
    differentiable: bool = False,
) -> NeuralGraph:
    """Turn the weights of an MLP into a neural graph, ``x -> a_l(W_l x + b_l)``.

    Args:
        weights: W_l, ``[out, in]`` each, the first layer first.
        biases: b_l, ``[out]`` or ``None`` each; ``None`` for no biases at all.
        activations: one for all hidden layers (the last map then has none), or a sequence of one
            per hidden layer or one per map.
        names: prefix of each map's parameters; default ``"0"``, ``"1"``, ...

    Raises:
        InvalidGraphError: if the tensors are no chain, or the lists differ in length.
        ArchitectureError: if the activations do not fit.
        NonFiniteError: as :func:`to_graph`.
    """
    maps, parameters = _listed_maps(weights, biases, activations, names)
    return chain_to_graph(maps, parameters, allow_nonfinite, differentiable)


def stacked_to_graphs(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None, activations: Activations, *,
    names: Sequence[str] | None = None, y: Tensor | None = None,
    allow_nonfinite: bool = False, differentiable: bool = False,
) -> NeuralGraphStack:  # fmt: skip
    """Turn B networks of one architecture into graphs at once, without a loop over networks.

    The arguments and errors are those of :func:`mlp_to_graph` with the networks stacked.

    Args:
        y: labels or anything else with one entry per network; optional.

    Shape:
        weights ``[B, out, in]`` each, biases ``[B, out]`` each.

    Raises:
        InvalidGraphError: also if the tensors do not stack as many networks.
    """
    maps, parameters = _listed_maps(weights, biases, activations, names)
    ranks = {affine.weight: 3 for affine in maps}
    for name, value in parameters.items():
        if value.dim() != ranks.get(name, 2):
            raise InvalidGraphError(
                f"parameter {name!r} has shape {tuple(value.shape)}; expected the networks "
                "stacked: (B, out, in) for weights and (B, out) for biases."
            )
    if len(counts := {len(value) for value in parameters.values()}) > 1:
        raise InvalidGraphError(
            f"the parameters stack {sorted(counts)} networks; expected the same B for all."
        )
    shapes = {name: tuple(value.shape[1:]) for name, value in parameters.items()}
    architecture = chain_architecture(maps, shapes)
    if not differentiable:
        parameters = {name: value.detach() for name, value in parameters.items()}
    return NeuralGraphStack.from_parameters(
        architecture, parameters, y, allow_nonfinite=allow_nonfinite
    )


def _listed_maps(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None, activations: Activations,
    names: Sequence[str] | None,
) -> tuple[list[ChainLayer], dict[str, Tensor]]:  # fmt: skip
    depth = len(weights)
    if depth == 0:
        raise InvalidGraphError("there are no weights; expected at least one matrix (out, in).")
    biases = [None] * depth if biases is None else list(biases)
    prefixes = [str(i) for i in range(depth)] if names is None else list(names)
    # Widths do not matter here; the architecture has the rule for the last of them.
    groups = Architecture.mlp([1] * (depth + 1), activations).groups[1:]
    for what, values in (("biases", biases), ("names", prefixes)):
        if len(values) != depth:
            raise InvalidGraphError(
                f"there are {depth} weights and {len(values)} {what}; expected {depth}."
            )
    maps, parameters = [], {}
    for prefix, weight, bias, group in zip(prefixes, weights, biases, groups, strict=True):
        dotted = f"{prefix}." if prefix else ""
        affine = ChainLayer(
            f"{dotted}weight", None if bias is None else f"{dotted}bias", group.activation
        )
        maps.append(affine)
        for name, value in ((affine.weight, weight), (affine.bias, bias)):
            if name is not None:
                parameters[name] = check_tensor(name, value)
    return maps, parameters
