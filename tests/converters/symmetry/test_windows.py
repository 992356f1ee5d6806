"""Convolutions, pooling and resampling along one axis leave the others as they are."""

from typing import Any

import pytest
import torch
from symmetry_cases import check
from torch import Tensor, nn
from torch.nn import functional as F

from converters.symmetry import permutation_spec


class Pixels(nn.Module):
    """Six neurons stand where rows of pixels do: ``[batch, 1, neurons, 4]``."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.a, self.b, self.body = nn.Linear(3, 6), nn.Linear(6, 2), body
        self.conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).transpose(1, 2)[:, None]
        return self.b(self.body(self.conv(h))[:, 0].transpose(1, 2))


def along_one_axis(h: Tensor) -> Tensor:
    h = F.avg_pool2d(F.max_pool2d(h, (1, 2)), (1, 3), 1, (0, 1))
    h = F.interpolate(F.adaptive_avg_pool2d(h, (None, 3)), size=(6, 4), mode="bilinear")
    h = F.interpolate(h, scale_factor=(1, 2)) + F.interpolate(h, size=(6, 8), mode="bicubic")
    return F.pad(h.unfold(2, 1, 1)[..., 0], (1, 1))


def over_everything(h: Tensor) -> Tensor:
    return h * F.avg_pool2d(h, (6, 1)) + F.adaptive_max_pool2d(h, (1, None))


@pytest.mark.parametrize("body", [along_one_axis, over_everything], ids=lambda f: f.__name__)
def test_windows_of_one_and_one_window_leave_an_axis_free(body: Any):
    check(Pixels(body), torch.randn(2, 4, 3), {"a": (6, "a.weight[0] a.bias[0] b.weight[1]")})


def indices(h: Tensor) -> Tensor:
    return F.max_pool2d(h, (1, 2), return_indices=True)[1] * h[..., :2]


MOVING = {
    "windows of two": lambda h: F.interpolate(F.max_pool2d(h, (2, 1)), size=(6, 4)),
    "every second": lambda h: F.interpolate(F.max_pool2d(h, 1, (2, 1)), size=(6, 4)),
    "windows with a border": lambda h: F.avg_pool2d(h, (3, 1), 1, (1, 0)),
    "a scale that is no whole number": lambda h: F.interpolate(h, scale_factor=(1.1, 1)),
    "indices over all pixels": indices,
}


@pytest.mark.parametrize("body", MOVING.values(), ids=MOVING)
def test_other_windows_fix_it(body: Any):
    assert permutation_spec(Pixels(body), torch.randn(2, 4, 3)).free_spaces == ()
