r"""Several networks as one: averaged in function space, and joined into a network that does it.

What a model that returns k networks for one (output-capacity expansion) is run by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph.architecture import Architecture
from nngraph.graph.layout import Parameter
from nngraph.graph.neural_graph import NeuralGraphStack
from nngraph.graph.run import forward

__all__ = ["join_copies", "joined_architecture", "run_copies"]


def run_copies(copies: Sequence[NeuralGraphStack], inputs: Tensor) -> Tensor:
    r"""Run k networks in place of each one and average their outputs: :math:`\frac1k\sum_c f_c(x)`.

    Args:
        copies: k stacks of B networks each, of one architecture.
        inputs: as of :func:`nngraph.graph.forward`: ``[P, d_0]`` for all networks, or
            ``[B, P, d_0]``.

    Returns:
        ``[B, P, d_L]``.

    Raises:
        InvalidGraphError: if there are no copies.
    """
    _check_given(copies)
    total = forward(copies[0], inputs)
    for copy in copies[1:]:
        total = total + forward(copy, inputs)
    return total / len(copies)


def joined_architecture(architecture: Architecture, copies: int) -> Architecture:
    """Describe a chain whose hidden layers are ``copies`` times as wide; all else is as before.

    Raises:
        ArchitectureError: if it is no chain of affine maps with a linear output, whose average
            such a network would be.
    """
    last = architecture.groups[-1].activation
    if not architecture.is_chain or architecture.column_names != ("bias",):
        raise ArchitectureError(
            f"networks of {architecture} cannot be joined: expected a chain of affine maps, with "
            "no node parameters but biases."
        )
    if last.name != "identity" and copies > 1:
        raise ArchitectureError(
            f"networks of {architecture} cannot be joined: their average is no such network, since "
            f"{last} is applied to its outputs. Expected a linear output; run_copies averages any."
        )
    groups = tuple(
        replace(group, size=group.size * copies) if group.role == "hidden" else group
        for group in architecture.groups
    )

    def wider(parameter: Parameter) -> Parameter:
        sizes = tuple(groups[axis].size for axis in parameter.axes if axis is not None)
        return replace(parameter, shape=sizes)

    return replace(
        architecture, groups=groups, parameters=tuple(map(wider, architecture.parameters))
    )


def join_copies(copies: Sequence[NeuralGraphStack]) -> NeuralGraphStack:
    r"""Join k networks into one that computes their average, exactly.

    .. math::
        W_1 = \begin{bmatrix} W_1^1 \\ \vdots \\ W_1^k \end{bmatrix}, \quad
        W_l = \mathrm{diag}(W_l^1, \dots, W_l^k), \quad
        W_L = \tfrac1k [W_L^1 \cdots W_L^k], \quad b_L = \tfrac1k \textstyle\sum_c b_L^c

    with hidden layers k times as wide and their biases one after another. Without hidden layers W
    and b are averages.

    Args:
        copies: k stacks of B networks each, of one architecture.

    Returns:
        a stack of B networks of :func:`joined_architecture`, with the y of the first copy.

    Raises:
        ArchitectureError: as :func:`joined_architecture` does.
        InvalidGraphError: if there are no copies, or their architectures differ.
    """
    _check_given(copies)
    architecture, count = copies[0].architecture, len(copies)
    joined = joined_architecture(architecture, count)
    held = [copy.parameters() for copy in copies]
    hidden = {g for g, group in enumerate(architecture.groups) if group.role == "hidden"}
    values = {}
    for parameter in architecture.parameters:
        parts = [parameters[parameter.name] for parameters in held]
        wide = [axis for axis, group in enumerate(parameter.axes) if group in hidden]
        if not wide:
            values[parameter.name] = torch.stack(parts).sum(0) / count
        elif len(wide) == 1:
            value = torch.cat(parts, dim=wide[0] - len(parameter.axes))
            # What reads the last hidden layer of all copies is their average.
            ends = len(parameter.axes) == 2 and wide == [1]
            values[parameter.name] = value / count if ends else value
        else:
            values[parameter.name] = _diagonal(parts)
    return NeuralGraphStack.from_parameters(joined, values, copies[0].y)


def _diagonal(parts: Sequence[Tensor]) -> Tensor:
    """Set matrices ``[B, m, n]`` along the diagonal of one ``[B, k m, k n]``; 0 elsewhere."""
    rows = [
        torch.cat([part if i == j else torch.zeros_like(part) for j in range(len(parts))], dim=-1)
        for i, part in enumerate(parts)
    ]
    return torch.cat(rows, dim=-2)


def _check_given(copies: Sequence[NeuralGraphStack]) -> None:
    if not copies:
        raise InvalidGraphError("there are no copies; expected at least one stack of networks.")
    if other := [c for c in copies if c.architecture != copies[0].architecture]:
        raise InvalidGraphError(
            f"copies have the architectures {copies[0].architecture} and "
            f"{other[0].architecture}; expected one."
        )
