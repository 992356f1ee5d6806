r"""Products of low rank :math:`B A`, as adapters keep them, and the matrices between their factors.

:math:`(B, A) \mapsto (B g^{-1}, g A)` leaves a product as it is for each invertible g of the rank's
size, so that a pair of factors has the symmetry GL(r).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph.architecture import Architecture
from nngraph.graph.layout import Block


@dataclass(frozen=True)
class LowRankPair:
    """Two parameters whose product alone a network computes with.

    Args:
        down, up: names of A and B.
        rank: neurons between them.
        down_axis, up_axis: axes of A and B that count these.
    """

    down: str
    up: str
    rank: int
    down_axis: int
    up_axis: int

    def factors(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return B and A of stacked parameters as matrices, ``[n, out, r]`` and ``[n, r, in]``."""
        up = values[self.up].movedim(self.up_axis + 1, -1)
        down = values[self.down].movedim(self.down_axis + 1, 1)
        return up.flatten(1, -2), down.flatten(2)

    def moved(self, values: Mapping[str, Tensor], maps: Tensor) -> dict[str, Tensor]:
        """Return both parameters with an invertible ``[n, r, r]`` put between them."""
        up, down = self.factors(values)
        others = values[self.up].movedim(self.up_axis + 1, -1).shape
        inner = values[self.down].movedim(self.down_axis + 1, 1).shape
        up, down = torch.linalg.solve(maps, up, left=False), maps @ down
        return {
            self.up: up.reshape(others).movedim(-1, self.up_axis + 1),
            self.down: down.reshape(inner).movedim(1, self.down_axis + 1),
        }


@lru_cache(maxsize=256)
def low_rank_pairs(architecture: Architecture) -> tuple[LowRankPair, ...]:
    """Return the pairs of factors between fixed neurons, such as the inputs and outputs of layers.

    The neurons between them have no activation, no bias, and one parameter on each side.
    """
    with_columns = {column.group for column in architecture.columns}
    into: dict[int, list[Block]] = {}
    out_of: dict[int, list[Block]] = {}
    for block in architecture.blocks:
        into.setdefault(block.target, []).append(block)
        out_of.setdefault(block.source, []).append(block)
    found = []
    for number, group in enumerate(architecture.groups):
        blocks = [*into.get(number, []), *out_of.get(number, [])]
        plain = group.role == "hidden" and group.activation.name == "identity"
        if not plain or number in with_columns or len(into.get(number, [])) != 1:
            continue
        if len(blocks) != 2 or any(b.identity or not b.parameter.axes for b in blocks):
            continue
        ends = architecture.groups[blocks[0].source], architecture.groups[blocks[1].target]
        if all(end.space is None and end.role != "hidden" for end in ends):
            down, up = (block.parameter for block in blocks)
            found.append(LowRankPair(
                down.name, up.name, group.size, down.axes.index(number), up.axes.index(number)
            ))
    return tuple(found)


def sample_gauges(
    architecture: Architecture, parameters: Mapping[str, Tensor], condition: float = 3.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Put a random matrix between the factors of each low-rank product, functions kept.

    Args:
        architecture: of the networks.
        parameters: by name, ``[n, *shape]``; each network is moved by its own draw.
        condition: the condition number of the matrices, at the most: orthogonal ones times
            log-uniform scales times orthogonal ones.
        generator: source of randomness; default torch's global one.

    Raises:
        ArchitectureError: if the condition is no number of at least 1.
    """
    if not (math.isfinite(condition) and condition >= 1):
        raise ArchitectureError(f"condition is {condition!r}; expected a number of at least 1.")
    values = dict(parameters)
    for pair in low_rank_pairs(architecture):
        like = values[pair.down]
        shape = (2, len(like), pair.rank, pair.rank)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        left, right = torch.linalg.qr(drawn).Q
        spread = torch.rand(shape[1:3], generator=generator, dtype=torch.float64) - 0.5
        maps = left * (spread * math.log(condition)).exp()[:, None] @ right
        values.update(pair.moved(values, maps.to(like)))
    return values
