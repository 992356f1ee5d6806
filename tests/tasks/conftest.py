from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nngraph.tasks import TrainSettings
from nngraph.zoo import ImageSource, Zoo, fit_zoo

#: Small models by their names.
OPTIONS: dict[str, dict[str, Any]] = {
    "message-passing": {"channels": 8, "messages": 4, "edge_channels": 2, "hidden": 16},
    "symmetric": {"messages": 4, "hidden": 16},
    "flat": {"hidden": 16},
    "probe": {"probes": 8, "hidden": 16},
}


def bars(n: int = 40) -> ImageSource:
    """Images of a bar on the left, in the middle or on the right: classes that can be learned."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    images = 0.1 * torch.rand(n, 4, 6, 1, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += 0.8
    return ImageSource("bars", images, labels, ("left", "middle", "right"))


MakeZoo = Callable[..., Zoo]


@pytest.fixture(scope="session")
def make_zoo(tmp_path_factory: pytest.TempPathFactory) -> MakeZoo:
    def make(**changes: Any) -> Zoo:
        arguments: dict[str, Any] = {
            "widths": [2, 5, 4, 1], "w0": 10.0, "steps": 30, "threads": 1, "chunk": 64,
            "splits": (0.6, 0.2, 0.2), "progress": False, **changes,
        }  # fmt: skip
        return fit_zoo(tmp_path_factory.mktemp("zoos") / "bars", bars(), **arguments)

    return make


@pytest.fixture(scope="session")
def zoo(make_zoo: MakeZoo) -> Zoo:
    """40 networks 2-5-4-1 of three classes: 24 to train on, 8 and 8."""
    return make_zoo()


@pytest.fixture
def settings(zoo: Zoo) -> Callable[..., TrainSettings]:
    def make(model: str = "message-passing", **changes: Any) -> TrainSettings:
        options = {**OPTIONS[model], **changes.pop("options", {})}
        arguments: dict[str, Any] = {
            "zoo": str(zoo.path), "epochs": 4, "batch_size": 10, "warmup_steps": 3, **changes,
        }  # fmt: skip
        return TrainSettings(model=model, options=options, **arguments)

    return make

