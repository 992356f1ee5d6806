from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nngraph.zoo import ImageSource, Zoo, fit_zoo


def tiny_source(n: int = 10) -> ImageSource:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 4, 5, 1, generator=generator)
    return ImageSource("tiny", images, torch.arange(n) % 3, ("a", "b", "c"))


SETTINGS: dict[str, Any] = {
    "widths": [2, 4, 3, 1], "views": 2, "steps": 5, "chunk": 3, "shard_size": 8, "threads": 2,
    "splits": (0.6, 0.2, 0.2), "progress": False,
}  # fmt: skip


@pytest.fixture
def make_zoo(tmp_path: Path) -> Callable[..., Zoo]:
    """20 networks of 10 images in shards of 8, 8 and 4."""

    def make(name: str = "zoo", **changes: Any) -> Zoo:
        source = changes.pop("source", None) or tiny_source()
        return fit_zoo(tmp_path / name, source, **{**SETTINGS, **changes})

    return make
