"""Facts of many networks summed up, as plain values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def describe(value: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Return how often each name of a fact occurs, or where its numbers lie if it has none."""
    return _of_values(value, names) if names else _of_numbers(value)


def _of_values(value: Tensor, names: tuple[str, ...]) -> dict[str, int]:
    counts = torch.bincount(value, minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def _of_numbers(value: Tensor) -> dict[str, Any]:
    numbers = value.double()
    numbers = numbers[torch.isfinite(numbers)]
    if not len(numbers):
        return dict.fromkeys(("histogram", "mean", "min", "max"))
    edges, counts = histogram(numbers)
    return {
        "histogram": {"edges": edges, "counts": counts},
        "mean": float(numbers.mean()), "min": float(numbers.min()), "max": float(numbers.max())
    }  # fmt: skip


def histogram(value: Tensor, bins: int = 10) -> tuple[list[float], list[int]]:
    """Return the edges of ``bins`` equal intervals, and how many finite numbers are in each."""
    numbers = value.double()
    numbers = numbers[torch.isfinite(numbers)]
    if not len(numbers):
        return [], []
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return [low, high], [len(numbers)]
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    inner = torch.bucketize(numbers, edges[1:-1], right=True)
    return edges.tolist(), torch.bincount(inner, minlength=bins).tolist()
