"""Concatenations, chunks, slices and partial sums: every space by hand."""

import pytest
import torch
from symmetry_cases import axis_text, check
from torch import nn
from torch.nn import functional as F


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 3, 3, padding=1)
        self.bn3, self.head = nn.BatchNorm2d(10), nn.Linear(10, 2)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.bn1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.bn2(x)))], 1)
        return self.head(F.relu(self.bn3(x)).mean((2, 3)))


def statistics(*names: str) -> str:
    parts = ("weight", "bias", "running_mean", "running_var")
    return " ".join(f"{name}.{part}[0]" for name in names for part in parts)


def test_densenet_concatenates_spaces_through_norms():
    derivation = check(DenseNet(), torch.randn(2, 3, 4, 4), {
        "stem": (4, "stem.weight[0] stem.bias[0] conv1.weight[1] conv2.weight[1] head.weight[1] "
                    + statistics("bn1", "bn2", "bn3")),
        "conv1": (3, "conv1.weight[0] conv1.bias[0] conv2.weight[1] head.weight[1] "
                     + statistics("bn2", "bn3")),
        "conv2": (3, "conv2.weight[0] conv2.bias[0] head.weight[1] " + statistics("bn3")),
    })
    assert axis_text(derivation.spec, "head.weight") == "[2] [4 stem | 3 conv1 | 3 conv2]"


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, 2)
        self.join, self.out = nn.Conv2d(9, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        y = self.up(F.relu(self.mid(F.max_pool2d(skip, 2))))
        y = y + F.interpolate(y, size=y.shape[2:], mode="bilinear")
        return self.out(F.relu(self.join(torch.cat([y, skip], 1))))


def test_unet_joins_its_skips_as_segments():
    derivation = check(UNet(), torch.randn(2, 2, 4, 4), {
        "down": (4, "down.weight[0] down.bias[0] mid.weight[1] join.weight[1]"),
        "mid": (6, "mid.weight[0] mid.bias[0] up.weight[0]"),
        "up": (5, "up.weight[1] up.bias[0] join.weight[1]"),
        "join": (4, "join.weight[0] join.bias[0] out.weight[1]"),
    })
    assert axis_text(derivation.spec, "join.weight") == "[4 join] [5 up | 4 down] [3] [3]"


class Chunks(nn.Module):
    """Three chunks in one order, used in another, one of them twice."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.fc, self.out = nn.Linear(3, 12), nn.Linear(4, 2)

    def forward(self, x):
        y = self.fc(x) if self.axis == 1 else self.fc(x).t()
        a, b, c = torch.chunk(y, 3, self.axis)
        y = torch.cat([torch.sigmoid(c) * a, (b * b)], self.axis)
        first, second = y.split(4, self.axis)
        y = first + a + second.mean(self.axis, keepdim=True)
        return self.out(y if self.axis == 1 else y.t())


@pytest.mark.parametrize("axis", [0, 1])
def test_chunks_are_told_apart_by_their_number(axis):
    derivation = check(Chunks(axis), torch.randn(5, 3), {
        "fc": (4, "fc.weight[0] fc.bias[0] out.weight[1]"),
        "fc.2": (4, "fc.weight[0] fc.bias[0]"),
    })
    assert axis_text(derivation.spec, "fc.bias") == "[4 fc | 4 fc.2 | 4 fc]"


class Unequal(nn.Module):
    """Chunks of unequal size, a slice through two of them, and a sum of a part."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.part = nn.Linear(3, 10), nn.Linear(4, 4)
        self.one, self.two, self.out = nn.Linear(3, 2), nn.Linear(7, 2), nn.Linear(10, 2)

    def forward(self, x):
        y = torch.tanh(self.fc(x))
        short, long = y.split([3, 7], -1)
        middle = y[:, 2:6]
        y = torch.cat([y[:, :2], middle + self.part(middle), y[:, 6:]], -1)
        return self.one(short) + self.two(long) + self.out(y)


def test_unequal_chunks_and_partial_residual_sums():
    derivation = check(Unequal(), torch.randn(6, 3), {
        "fc": (2, "fc.weight[0] fc.bias[0] one.weight[1] out.weight[1]"),
        "fc.2": (3, "fc.weight[0] fc.bias[0] part.weight[0] part.weight[1] part.bias[0] "
                    "two.weight[1] out.weight[1]"),
        "fc.3": (4, "fc.weight[0] fc.bias[0] two.weight[1] out.weight[1]"),
    }, maximal=False)
    spec = derivation.spec
    assert axis_text(spec, "fc.bias") == "[2 fc | 1 | 3 fc.2 | 4 fc.3]"
    assert axis_text(spec, "two.weight") == "[2] [3 fc.2 | 4 fc.3]"


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bi, self.out = nn.Linear(3, 12), nn.Bilinear(6, 6, 5), nn.Linear(5, 2)

    def forward(self, x):
        y = F.glu(self.fc(x), dim=-1)
        return self.out(self.bi(y, y.flip(0)))


def test_a_gated_unit_ties_two_chunks():
    derivation = check(Gated(), torch.randn(4, 3), {
        "fc": (6, "fc.weight[0] fc.bias[0] bi.weight[1] bi.weight[2]"),
        "bi": (5, "bi.weight[0] bi.bias[0] out.weight[1]"),
    })
    assert axis_text(derivation.spec, "fc.bias") == "[6 fc | 6 fc]"


class PatchMerging(nn.Module):
    """Four neighbours are concatenated, as between the stages of a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 4, 1), nn.LayerNorm(16)
        self.reduce, self.head = nn.Linear(16, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.head(self.reduce(self.norm(torch.cat(parts, -1))).mean((1, 2)))


def test_patch_merging_ties_all_four_copies():
    derivation = check(PatchMerging(), torch.randn(2, 3, 4, 4), {
        "embed": (4, "embed.weight[0] embed.bias[0] norm.weight[0] norm.bias[0] reduce.weight[1]"),
        "reduce": (5, "reduce.weight[0] head.weight[1]"),
    })
    assert axis_text(derivation.spec, "norm.bias") == "[4 embed | 4 embed | 4 embed | 4 embed]"


class Windows(nn.Module):
    """Tokens are shifted and partitioned into windows; channels pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.roll(self.embed(x), (-1, -1), (1, 2))
        b, h, w, c = x.shape
        y = x.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        y = self.mix(y - y.mean(1, keepdim=True))
        y = y.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
        return self.head(x + torch.roll(y, (1, 1), (1, 2)))


def test_window_partition_leaves_channels_free():
    check(Windows(), torch.randn(2, 4, 4, 3), {
        "embed": (4, "embed.weight[0] embed.bias[0] mix.weight[0] mix.weight[1] mix.bias[0] "
                     "head.weight[1]"),
    })


class RelativePositions(nn.Module):
    """Scores of relative positions, padded and viewed as scores of positions, head by head."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.table = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(7, 4))

    def forward(self, x):
        heads = self.query(x).reshape(2, 4, 16).transpose(1, 2)
        scores = (heads @ self.table.t()).reshape(-1, 4, 7)
        scores = F.pad(F.pad(scores, [0, 1]).flatten(1), [0, 3])
        return scores.reshape(-1, 5, 7)[:, :4, 3:].reshape(2, 16, 4).sum(0)


def test_a_view_that_shears_positions_keeps_the_order_of_heads_free():
    check(RelativePositions(), torch.randn(1, 3, 4, 4), {
        "query": (2, "query.weight[0] query.bias[0]"),
        "query.2": (4, "query.weight[0] query.bias[0] table[1]"),
    })
