"""What is known of a neuron or a tensor without its parameters: where it stands, and what it is.

Every part here is a module from a topology to vectors ``[N, C]`` of neurons or ``[K, C]`` of
blocks, the same for all networks of a stack; an encoder adds up those that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph.graph import ACTIVATIONS, COLUMN_KINDS, KERNEL_AXES, Topology
from nngraph.nn.common.levels import by_input, by_output

PositionKind = Literal["learned", "sinusoidal"]


class LearnedRows(nn.Module):
    """One learned vector for each position, ``[positions, C]`` whatever the number asked for."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, count: int) -> Tensor:
        return self.table


class SinusoidalRows(nn.Module):
    """A learned map of the sinusoids of a position: any number of positions, near ones alike.

    Shape:
        number of positions -> ``[count, C]``, one row at least.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = channels + channels % 2
        self.map = nn.Linear(size, channels, bias=False)
        # As large as the rows of a learned table: the mean square of a sinusoid is 1/2.
        nn.init.normal_(self.map.weight, 0, (2 / size) ** 0.5)

    def forward(self, count: int) -> Tensor:
        weight = self.map.weight
        position = torch.arange(max(count, 1), device=weight.device)
        return self.map(sinusoids(position, weight.shape[1], weight.dtype))  # type: ignore[no-any-return]


def make_rows(kind: PositionKind, count: int, channels: int) -> LearnedRows | SinusoidalRows:
    """Return rows of either kind; ``count`` learned ones."""
    if kind == "learned":
        return LearnedRows(torch.randn(count, channels))
    if kind == "sinusoidal":
        return SinusoidalRows(channels)
    raise ValueError(f"positions is {kind!r}; expected 'learned', 'sinusoidal' or 'none'.")


def sinusoids(position: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    r"""Return sines and cosines of positions, ``[K] -> [K, C]`` with C even.

    .. math:: \sin(p / 10000^{2k / C}), \; \cos(p / 10000^{2k / C})
    """
    exponent = torch.arange(0, size, 2, device=position.device, dtype=torch.float64) / size
    angle = position.to(torch.float64).unsqueeze(-1) * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)


class InputPositions(nn.Module):
    """Which input neuron one is; 0 at all others."""

    def __init__(self, rows: LearnedRows | SinusoidalRows) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, topology: Topology) -> Tensor:
        return by_input(topology, self.rows(topology.max_inputs))


class OutputPositions(InputPositions):
    """Which output neuron one is; 0 at all others."""

    def forward(self, topology: Topology) -> Tensor:
        return by_output(topology, self.rows(topology.max_outputs))


class Lookup(nn.Module):
    """A row of a learned table for each neuron or block; indices beyond the last take the last."""

    def __init__(self, rows: int, channels: int, index: Callable[[Topology], Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, channels) * 0.1)
        self.index = index

    def forward(self, topology: Topology) -> Tensor:
        return self.table[self.index(topology).clamp(max=len(self.table) - 1)]


class ActivationFeatures(Lookup):
    """A learned row for each activation that there is, :data:`nngraph.graph.ACTIVATIONS`.

    Tables that were learned when there were fewer are loaded: new activations stand at the end.
    """

    def __init__(self, channels: int) -> None:
        # Those up to here are drawn as they ever were, so that a seed gives the model that it gave
        # however many there are; each row of the others has a generator of its own.
        first = list(ACTIVATIONS).index("other") + 1
        super().__init__(first, channels, _activation_kinds)
        own = self.table.detach()
        further = [
            torch.randn(1, channels, generator=torch.Generator().manual_seed(row)).to(own) * 0.1
            for row in range(first, len(ACTIVATIONS))
        ]
        self.table = nn.Parameter(torch.cat([own, *further]))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *further: Any
    ) -> None:
        saved, own = state_dict.get(f"{prefix}table"), self.table.detach()
        if saved is not None and saved.shape[1:] == own.shape[1:]:
            state_dict[f"{prefix}table"] = torch.cat([saved, own[len(saved) :].to(saved)])
        super()._load_from_state_dict(state_dict, prefix, *further)


class ColumnFeatures(nn.Module):
    """Sum of what the parameters on a neuron are: a bias, a running mean, ..."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Nothing is known of what is not there.
        self.table = nn.Parameter(torch.randn(len(COLUMN_KINDS) - 1, channels) * 0.1)

    def forward(self, topology: Topology) -> Tensor:
        return pad(self.table, (0, 0, 1, 0))[topology.nodes.columns].sum(-2)


class HiddenPositions(nn.Module):
    """Place of each hidden neuron in its layer, sinusoidal: **breaks the symmetry**, on purpose.

    All are 0 while it is not ``active``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows, self.active = SinusoidalRows(channels), True

    def forward(self, topology: Topology) -> Tensor:
        if not self.active:
            return self.rows.map.weight.new_zeros(topology.num_nodes, len(self.rows.map.weight))
        table: Tensor = self.rows(int(topology.groups.size.max()))
        return table[topology.nodes.position] * topology.nodes.moves.unsqueeze(-1)


def _activation_kinds(topology: Topology) -> Tensor:
    kinds = [list(ACTIVATIONS).index(activation.name) for activation in topology.activations]
    return torch.tensor(kinds, device=topology.nodes.activation.device)[topology.nodes.activation]


class KernelSizes(nn.Module):
    """A linear map of the logarithms of a kernel's sizes, so that others than those seen follow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Linear(KERNEL_AXES, channels, bias=False)

    def forward(self, topology: Topology) -> Tensor:
        return self.map(topology.blocks.kernel_size.to(self.map.weight).log())  # type: ignore[no-any-return]
