r"""Several networks as one: summed in function space, and joined into a network that does it.

What a model that returns several networks for one (output-capacity expansion) is run by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph.architecture import Architecture
from nngraph.graph.chain import chain_layers
from nngraph.graph.run import forward
from nngraph.graph.stack import NeuralGraphStack


def run_ensemble(copies: Sequence[NeuralGraphStack], inputs: Tensor) -> Tensor:
    r"""Run k networks in place of each one and average their outputs: :math:`\frac1k\sum_c f_c(x)`.

    Args:
        copies: k stacks of B networks each -> ``[B, P, d_L]``.
        inputs: as of :func:`nngraph.graph.forward`: ``[P, d_0]`` or ``[B, P, d_0]``.

    Raises:
        InvalidGraphError: if there are no copies.
    """
    _check_given(copies)
    return reduce(torch.add, (forward(copy, inputs) for copy in copies)) / len(copies)


def joined_architecture(architectures: Sequence[Architecture]) -> Architecture:
    """Describe the chain whose hidden layers are those of several chains side by side.

    They may differ in widths of hidden layers alone, and their output is linear.
    """
    first = architectures[0]
    last = first.groups[-1].activation
    chain_layers(first, "Other networks are not joined.")
    if last.name != "identity" and len(architectures) > 1:
        raise ArchitectureError(
            f"networks of {first} cannot be joined: their average is no such network, since "
            f"{last} is applied to its outputs. Expected a linear output; run_ensemble takes any."
        )
    sizes = [
        sum(widths) if group.role == "hidden" else group.size
        for group, widths in zip(
            first.groups, zip(*(a.widths for a in architectures), strict=False), strict=False
        )
    ]
    joined, ends = with_widths(first, sizes), (first.widths[0], first.widths[-1])
    assert joined is not None
    if other := [
        a for a in architectures
        if with_widths(a, sizes) != joined or (a.widths[0], a.widths[-1]) != ends
    ]:  # fmt: skip
        raise ArchitectureError(
            f"networks of {first} and {other[0]} cannot be joined; expected architectures that "
            "differ in the widths of their hidden layers alone."
        )
    return joined


def with_widths(architecture: Architecture, sizes: Sequence[int]) -> Architecture | None:
    """Return a chain with other widths, inputs first; ``None`` if it is none of as many layers."""
    if len(sizes) != len(architecture.groups) or not architecture.is_chain:
        return None
    pairs = zip(architecture.groups, sizes, strict=True)
    return replace(
        architecture,
        groups=tuple(replace(group, size=size) for group, size in pairs),
        parameters=tuple(
            replace(p, shape=tuple(sizes[axis] for axis in p.axes if axis is not None))
            for p in architecture.parameters
        ),
    )


def join_ensemble(
    copies: Sequence[NeuralGraphStack], shares: Sequence[float] | None = None
) -> NeuralGraphStack:
    r"""Join k networks into one that computes their average, or another sum of them, exactly.

    .. math::
        W_1 = \begin{bmatrix} W_1^1 \\ \vdots \\ W_1^k \end{bmatrix}, \quad
        W_l = \mathrm{diag}(W_l^1, \dots, W_l^k), \quad
        W_L = [a_1 W_L^1 \cdots a_k W_L^k], \quad b_L = \textstyle\sum_c a_c b_L^c

    with hidden layers and their biases side by side. Without hidden layers W and b are sums.

    Args:
        copies: k stacks of B networks each, which differ in the widths of hidden layers alone.
        shares: a, of each in the sum; default 1/k.

    Raises:
        ArchitectureError: if they differ otherwise, or are no chains with a linear output.
        InvalidGraphError: if there are no copies, or not as many shares.
    """
    _check_given(copies)
    shares = [1 / len(copies)] * len(copies) if shares is None else list(shares)
    if len(shares) != len(copies):
        raise InvalidGraphError(f"{len(copies)} copies were given {len(shares)} shares.")
    architecture = copies[0].architecture
    joined = joined_architecture([copy.architecture for copy in copies])
    held = [copy.parameters() for copy in copies]
    last = len(architecture.groups) - 1
    values = {}
    for parameter in architecture.parameters:
        parts = [parameters[parameter.name] for parameters in held]
        if parameter.axes[0] == last:
            parts = [share * part for share, part in zip(shares, parts, strict=True)]
        hidden = [axis for axis in parameter.axes if axis not in (0, last)]
        if not hidden:
            values[parameter.name] = torch.stack(parts).sum(0)
        elif len(hidden) == len(parameter.axes) == 2:
            values[parameter.name] = _diagonal(parts)
        else:
            axis = parameter.axes.index(hidden[0]) - len(parameter.axes)
            values[parameter.name] = torch.cat(parts, dim=axis)
    return NeuralGraphStack.from_parameters(joined, values, copies[0].y)


def _diagonal(parts: Sequence[Tensor]) -> Tensor:
    """Set matrices ``[B, m, n]`` along the diagonal of one ``[B, sum m, sum n]``; 0 elsewhere."""
    widths, rows = [part.shape[-1] for part in parts], []
    for i, part in enumerate(parts):
        before, after = sum(widths[:i]), sum(widths[i + 1 :])
        rows.append(torch.nn.functional.pad(part, (before, after)))
    return torch.cat(rows, dim=-2)


def _check_given(copies: Sequence[NeuralGraphStack]) -> None:
    if not copies:
        raise InvalidGraphError("there are no copies; expected at least one stack of networks.")
