"""How parameters learn: the learning rate, which of them decay, and the average over the steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from nngraph.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, total: int) -> float:
    """Rise over the warm-up, a tenth of all steps at most, then fall to 0 along half a cosine."""
    warmup = min(1.0, (step + 1) / max(1, min(settings.warmup_steps, total // 10)))
    return settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / total))


def new_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW over the parameters that learn; vectors and scalars do not decay.

    A module with a number ``rate`` learns at so many times the learning rate, with all within it;
    groups of parameters have theirs in ``"rate"``.
    """
    rates: dict[nn.Parameter, float] = {}

    def visit(module: nn.Module, rate: float) -> None:
        rate *= getattr(module, "rate", 1.0)
        rates.update(dict.fromkeys(module.parameters(recurse=False), rate))
        for child in module.children():
            visit(child, rate)

    visit(model, 1.0)
    learning = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for rate in dict.fromkeys(rates[p] for p in learning):
        own = [p for p in learning if rates[p] == rate]
        groups += [
            {"params": [p for p in own if p.dim() > 1], "rate": rate},
            {"params": [p for p in own if p.dim() <= 1], "rate": rate, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


class AveragedModel:
    r"""An exponential moving average of a model's parameters.

    .. math:: \bar\theta \leftarrow \bar\theta + (1 - d_t)(\theta - \bar\theta), \qquad
        d_t = \min(d, (1 + t) / (10 + t))

    after step t = 1, 2, ...: at the start the average follows closely, so that it does not carry
    the fresh parameters along. Buffers are the model's own.

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
