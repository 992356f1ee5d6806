"""Primitives of networks that are run level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Topology
from nngraph.kernels.backends.choice import End, kernel_of

__all__ = ["propagate_level"]


def propagate_level(
    topology: Topology,
    level: int,
    weight: Tensor,
    x: Tensor | Sequence[Tensor],
    to: End = "target",
    backend: str = "auto",
) -> Tensor:
    r"""Pass the features of earlier neurons on to those of one level: :math:`\sum_j w_{ij} x_j`.

    Args:
        level: of the targets, from 1.
        weight: ``[*, E]``, of all edges.
        x: ``[*, n, C]``, features of the neurons ``topology.levels[l].nodes`` of every level l
            before; those of the last of them alone will do where no block skips a level.
        to: ``"source"`` runs backwards, :math:`\sum_i w_{ij} x_i`, from features of the level.

    Returns:
        ``[*, m, C]`` at the neurons ``topology.levels[level].nodes``; backwards at those of the
        level before, or, where blocks skip levels, of all levels before, one after another.

    Raises:
        InvalidGraphError: if the topology has no such level, or blocks skip levels and only the
            features of one are given.
    """
    last = len(topology.levels) - 1
    if not 1 <= level <= last:
        raise InvalidGraphError(
            f"level {level} was asked of a topology with {last}; expected 1 to "
            "that. An irregular graph has none."
        )
    if to == "source":
        received = x if isinstance(x, Tensor) else x[level]
    elif topology.levels[level].skips:
        if isinstance(x, Tensor) or len(x) < level:
            raise InvalidGraphError(
                f"level {level} hears of neurons of other levels than the one before, as skip "
                f"connections make it; expected the features of all {level} levels before it."
            )
        received = torch.cat(list(x[:level]), dim=-2)
    else:
        received = x if isinstance(x, Tensor) else x[level - 1]
    kernel = kernel_of(topology, backend, "propagate_level")
    return cast(Tensor, kernel(topology, level, weight, received, to))
