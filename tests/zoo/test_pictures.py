from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from nngraph.drawing import draw_contact_sheet, draw_histograms
from nngraph.errors import InvalidGraphError
from nngraph.zoo import ImageSource, Zoo
from nngraph.zoo.store.facts import histogram

MakeZoo = Callable[..., Zoo]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_shows_what_the_networks_represent(
    make_zoo: MakeZoo, tmp_path: Path, channels: int
):
    white = ImageSource("white", torch.ones(4, 6, 6, channels), torch.arange(4) % 2, ("a", "b"))
    zoo = make_zoo(source=white, widths=[2, 8, channels], steps=200, lr=0.01, views=1)
    assert float(zoo.psnr.min()) > 20
    file = draw_contact_sheet(zoo, tmp_path / "sheet.png", torch.tensor([2, 0, 1]))
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100
    everything = draw_contact_sheet(zoo, tmp_path / "all.png")
    assert everything.stat().st_size > 1000
    with pytest.raises(InvalidGraphError, match="no networks to draw"):
        draw_contact_sheet(zoo, tmp_path / "x.png", torch.tensor([], dtype=torch.int64))


def test_weights_are_drawn_per_tensor(make_zoo: MakeZoo, tmp_path: Path):
    zoo = make_zoo()
    file = draw_histograms(zoo, tmp_path / "weights.png")
    with Image.open(file) as image:
        assert image.format == "PNG"
    with pytest.raises(InvalidGraphError, match="architecture 1 is asked for"):
        draw_histograms(zoo, tmp_path / "weights.png", kind=1)


def test_a_histogram_counts_every_finite_number_once():
    edges, counts = histogram(torch.tensor([0.0, 0.1, 0.5, 1.0, 1.0, float("nan")]), 4)
    assert edges == [0, 0.25, 0.5, 0.75, 1]
    assert counts == [2, 0, 1, 2]
    assert histogram(torch.tensor([3.0, 3.0])) == ([3, 3], [2])
    assert histogram(torch.tensor([])) == ([], [])
