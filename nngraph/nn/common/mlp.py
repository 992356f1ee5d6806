"""Linear maps in a row, and what a norm before one joins to it."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from nngraph.nn.common.pointwise import Dropout


def after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    r"""Return weight and bias of a map that the slope and offset of a norm before it have joined.

    .. math:: A (\gamma \odot \hat e + \beta) + b
        = (A \,\mathrm{diag}\,\gamma) \hat e + (A \beta + b)

    What is left of the norm has no parameters.
    """
    weight: Tensor = linear.weight
    return weight * norm.weight, linear.bias + weight @ norm.bias


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Return linear maps of these sizes with SiLU and dropout between them."""
    layers: list[nn.Module] = []
    for i, (size, following) in enumerate(pairwise(sizes)):
        if i:
            layers += [nn.SiLU(), Dropout(dropout)]
        layers.append(nn.Linear(size, following))
    return nn.Sequential(*layers)
