"""Streams of randomness: each its own, and nobody else's numbers change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def _seed(parts: tuple[int, ...]) -> int:
    # Not hash(parts), which is Python's own affair, and equal for -1 and -2.
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


@contextmanager
def seeded(*parts: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch by what the stream follows from; afterwards CPU and device are as before."""
    others = [] if device is None or device.type == "cpu" else [device]
    kind = others[0].type if others else "cuda"
    with torch.random.fork_rng(others, device_type=kind):
        torch.manual_seed(_seed(parts))
        yield


def generator_of(*parts: int) -> torch.Generator:
    """Return a generator on the CPU whose stream follows from some numbers alone."""
    return torch.Generator().manual_seed(_seed(parts))
