"""LeNet, VGG and ResNets: every space by hand."""

import pytest
import torch
from symmetry_cases import axis_text, check
from torch import nn
from torch.nn import functional as F


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 12), nn.Linear(12, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2).flatten(1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


def test_lenet_flattens_channels_times_positions():
    derivation = check(LeNet(), torch.randn(2, 1, 28, 28), {
        "conv1": (6, "conv1.weight[0] conv1.bias[0] conv2.weight[1]"),
        "conv2": (16, "conv2.weight[0] conv2.bias[0] fc1.weight[1]"),
        "fc1": (12, "fc1.weight[0] fc1.bias[0] fc2.weight[1]"),
        "fc2": (8, "fc2.weight[0] fc2.bias[0] fc3.weight[1]"),
    })
    assert axis_text(derivation.spec, "fc1.weight") == "[12 fc1] [16 conv2 x 16]"
    assert axis_text(derivation.spec, "conv2.weight") == "[16 conv2] [6 conv1] [5] [5]"
    assert not derivation.spec.reports


def vgg(norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for item in (4, "M", 6, 6, "M"):
        if item == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(width, item, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(item)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        width = item
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 9), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, *head, nn.Linear(9, 5))


def test_vgg():
    derivation = check(vgg(norm=False), torch.randn(2, 3, 8, 8), {
        "0": (4, "0.weight[0] 0.bias[0] 3.weight[1]"),
        "3": (6, "3.weight[0] 3.bias[0] 5.weight[1]"),
        "5": (6, "5.weight[0] 5.bias[0] 10.weight[1]"),
        "10": (9, "10.weight[0] 10.bias[0] 13.weight[1]"),
    })
    assert axis_text(derivation.spec, "10.weight") == "[9 10] [6 5 x 4]"


def statistics(*names: str) -> str:
    parts = ("weight", "bias", "running_mean", "running_var")
    return " ".join(f"{name}.{part}[0]" for name in names for part in parts)


def test_vgg_with_batch_norm_takes_its_statistics_along():
    derivation = check(vgg(norm=True), torch.randn(2, 3, 8, 8), {
        "0": (4, f"0.weight[0] 4.weight[1] {statistics('1')}"),
        "4": (6, f"4.weight[0] 7.weight[1] {statistics('5')}"),
        "7": (6, f"7.weight[0] 13.weight[1] {statistics('8')}"),
        "13": (9, "13.weight[0] 13.bias[0] 16.weight[1]"),
    }, maximal=False)
    assert "1.running_var" in derivation.spec.buffers
    assert "1.num_batches_tracked" in derivation.spec.unused


class Block(nn.Module):
    """Basic (one 3x3 after another) or bottleneck (1x1, 3x3, 1x1) residual block."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, bottleneck: bool):
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, outputs, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width if bottleneck else outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y)


class ResNet(nn.Module):
    def __init__(self, bottleneck: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        wide = 8 if bottleneck else 6
        self.a = nn.Sequential(
            Block(6, 4 if bottleneck else 6, wide, 1, bottleneck),
            Block(wide, 4 if bottleneck else 6, wide, 1, bottleneck),
        )
        self.b = nn.Sequential(Block(wide, 5 if bottleneck else 10, 10, 2, bottleneck))
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(F.adaptive_avg_pool2d(self.b(self.a(x)), 1).flatten(1))


def test_resnet_of_basic_blocks():
    derivation = check(ResNet(bottleneck=False), torch.randn(2, 3, 8, 8), {
        "conv1": (6, "conv1.weight[0] a.0.conv1.weight[1] a.0.conv2.weight[0] a.1.conv1.weight[1] "
                     "a.1.conv2.weight[0] b.0.conv1.weight[1] b.0.downsample.0.weight[1] "
                     + statistics("bn1", "a.0.bn2", "a.1.bn2")),
        "a.0.conv1": (6, f"a.0.conv1.weight[0] a.0.conv2.weight[1] {statistics('a.0.bn1')}"),
        "a.1.conv1": (6, f"a.1.conv1.weight[0] a.1.conv2.weight[1] {statistics('a.1.bn1')}"),
        "b.0.conv1": (10, f"b.0.conv1.weight[0] b.0.conv2.weight[1] {statistics('b.0.bn1')}"),
        "b.0.conv2": (10, "b.0.conv2.weight[0] b.0.downsample.0.weight[0] fc.weight[1] "
                          + statistics("b.0.bn2", "b.0.downsample.1")),
    })
    sums = [layer for layer in derivation.layers if layer.kind == "add"]
    assert [len(layer.inputs) for layer in sums] == [2, 2, 2]


def test_resnet_of_bottlenecks_with_projections():
    check(ResNet(bottleneck=True), torch.randn(2, 3, 8, 8), {
        "conv1": (6, "conv1.weight[0] a.0.conv1.weight[1] a.0.downsample.0.weight[1] "
                     + statistics("bn1")),
        "a.0.conv1": (4, f"a.0.conv1.weight[0] a.0.conv2.weight[1] {statistics('a.0.bn1')}"),
        "a.0.conv2": (4, f"a.0.conv2.weight[0] a.0.conv3.weight[1] {statistics('a.0.bn2')}"),
        "a.0.conv3": (8, "a.0.conv3.weight[0] a.0.downsample.0.weight[0] a.1.conv1.weight[1] "
                         "a.1.conv3.weight[0] b.0.conv1.weight[1] b.0.downsample.0.weight[1] "
                         + statistics("a.0.bn3", "a.0.downsample.1", "a.1.bn3")),
        "a.1.conv1": (4, f"a.1.conv1.weight[0] a.1.conv2.weight[1] {statistics('a.1.bn1')}"),
        "a.1.conv2": (4, f"a.1.conv2.weight[0] a.1.conv3.weight[1] {statistics('a.1.bn2')}"),
        "b.0.conv1": (5, f"b.0.conv1.weight[0] b.0.conv2.weight[1] {statistics('b.0.bn1')}"),
        "b.0.conv2": (5, f"b.0.conv2.weight[0] b.0.conv3.weight[1] {statistics('b.0.bn2')}"),
        "b.0.conv3": (10, "b.0.conv3.weight[0] b.0.downsample.0.weight[0] fc.weight[1] "
                          + statistics("b.0.bn3", "b.0.downsample.1")),
    }, maximal=False)


class PaddedShortcut(nn.Module):
    """A shortcut without weights, whose channels are padded with zeros (option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = self.conv(x) + F.pad(x, (0, 0, 0, 0, 2, 2))
        return self.fc(torch.relu(y).mean((2, 3)))


def test_a_padded_shortcut_ties_a_part_of_the_channels():
    derivation = check(PaddedShortcut(), torch.randn(2, 3, 4, 4), {
        "stem": (4, "stem.weight[0] stem.bias[0] conv.weight[0] conv.weight[1] conv.bias[0] "
                    "fc.weight[1]"),
        "conv": (2, "conv.weight[0] conv.bias[0] fc.weight[1]"),
        "conv.2": (2, "conv.weight[0] conv.bias[0] fc.weight[1]"),
    }, maximal=False)
    assert axis_text(derivation.spec, "fc.weight") == "[2] [2 conv | 4 stem | 2 conv.2]"


@pytest.mark.parametrize("dimension", [1, 3])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
def test_convolutions_of_other_dimensions(dimension, transposed):
    kinds = {
        (1, False): nn.Conv1d, (3, False): nn.Conv3d,
        (1, True): nn.ConvTranspose1d, (3, True): nn.ConvTranspose3d,
    }
    conv = kinds[dimension, transposed]
    model = nn.Sequential(conv(2, 6, 3, padding=1), nn.ReLU(), conv(6, 3, 3))
    axis, after = (1, 0) if transposed else (0, 1)
    check(model, torch.randn(2, 2, *[4] * dimension), {
        "0": (6, f"0.weight[{axis}] 0.bias[0] 2.weight[{after}]"),
    })
