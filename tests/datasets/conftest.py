from __future__ import annotations

import pytest
import torch

from nngraph.zoo import ImageSource, Zoo, fit_zoo, merge_zoos


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """40 networks of 20 images in shards of 15, 15 and 10."""
    images = torch.rand(20, 4, 4, 1, generator=torch.Generator().manual_seed(0))
    source = ImageSource("tiny", images, torch.arange(20) % 4, ("a", "b", "c", "d"))
    return fit_zoo(
        tmp_path_factory.mktemp("zoos") / "zoo", source, widths=[2, 4, 3, 1], views=2, steps=3,
        shard_size=15, splits=(0.5, 0.25, 0.25), progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def long_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """1,000 unfitted networks in shards of 90."""
    images = torch.zeros(1000, 2, 2, 1)
    source = ImageSource("blank", images, torch.arange(1000) % 2, ("a", "b"))
    return fit_zoo(
        tmp_path_factory.mktemp("zoos") / "long", source, widths=[2, 2, 1], steps=0,
        shard_size=90, splits=(0.9, 0.1, 0), progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mixed_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """90 networks of 30 images: 30 of each of three architectures."""
    folder = tmp_path_factory.mktemp("zoos")
    images = torch.rand(30, 4, 4, 1, generator=torch.Generator().manual_seed(1))
    source = ImageSource("mixed", images, torch.arange(30) % 4, ("a", "b", "c", "d"))
    parts = [
        fit_zoo(folder / str(len(widths)), source, widths=widths, steps=1, progress=False)
        for widths in ([2, 3, 1], [2, 4, 3, 1], [2, 5, 4, 3, 1])
    ]
    return merge_zoos(folder / "mixed", parts)
