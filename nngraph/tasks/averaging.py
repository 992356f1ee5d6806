"""The average of a model's parameters over the last steps of its training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedModel:
    r"""An exponential moving average of a model's parameters.

    .. math:: \bar\theta \leftarrow \bar\theta + (1 - d_t)(\theta - \bar\theta), \qquad
        d_t = \min(d, (1 + t) / (10 + t))

    after step t = 1, 2, ...: at the start the average follows closely, so that it does not carry
    the fresh parameters along. Buffers are the model's own.

    Args:
        model: as it is at the start of training.
        decay: d, in [0, 1).

    Attributes:
        model: a copy of the model whose parameters are the averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the parameters after step ``step``, which counts from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        mine: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(mine, list(model.parameters()), share)
        for own, other in zip(self.model.buffers(), model.buffers(), strict=True):
            own.copy_(other)
