"""How the learning rate runs, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

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
