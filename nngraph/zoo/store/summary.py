"""What there is to know about a zoo, as plain values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nngraph.zoo.store.facts import SPLITS
from nngraph.zoo.store.zoo import Zoo

__all__ = ["histogram", "summary_of"]


def summary_of(zoo: Zoo) -> dict[str, Any]:
    """Return sizes, splits, architectures, facts and how the zoo was made."""
    manifest = zoo.manifest
    counts = torch.bincount(zoo.architecture_index, minlength=len(zoo.architectures)).tolist()
    sizes = [sum(p.numel for p in architecture.parameters) for architecture in zoo.architectures]
    summary: dict[str, Any] = {
        "networks": len(zoo),
        "complete": zoo.complete,
        "shards": len(manifest.shards),
        "shards_done": len(zoo.shards),
        "architectures": [
            {"architecture": str(architecture), "networks": count, "parameters": size}
            for architecture, count, size in zip(zoo.architectures, counts, sizes, strict=True)
        ],
        "groups": len(torch.unique(zoo.group_keys())),
        "group": manifest.group,
        "target": manifest.target,
        "splits": {name: int((zoo.split == index).sum()) for index, name in enumerate(SPLITS)},
        "facts": {
            fact.name: _of_values(zoo.facts[fact.name], fact.values)
            if fact.values
            else _of_numbers(zoo.facts[fact.name])
            for fact in manifest.facts
            if fact.name != "split"
        },
        "bytes": sum((zoo.path / shard.file).stat().st_size for shard in zoo.shards),
        "origins": [origin.to_plain() for origin in manifest.origins],
        "history": list(manifest.history),
    }
    return summary


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
