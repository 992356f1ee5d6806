"""Groups, depthwise convolutions, gates and norms over channels: every space by hand."""

import torch
from symmetry_cases import axis_text, check
from torch import nn
from torch.nn import functional as F


def statistics(*names: str) -> str:
    parts = ("weight", "bias", "running_mean", "running_var")
    return " ".join(f"{name}.{part}[0]" for name in names for part in parts)


class MobileNet(nn.Module):
    """An inverted residual with a depthwise convolution and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.expand, self.bn1 = nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.project, self.bn3 = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        y = F.hardswish(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        y = y * F.hardsigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.bn3(self.project(y))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_mobilenet_with_squeeze_and_excitation():
    check(MobileNet(), torch.randn(2, 3, 5, 5), {
        "stem": (4, "stem.weight[0] stem.bias[0] expand.weight[1] project.weight[0] "
                    f"head.weight[1] {statistics('bn3')}"),
        "expand": (8, "expand.weight[0] depthwise.weight[0] squeeze.weight[1] excite.weight[0] "
                      f"excite.bias[0] project.weight[1] {statistics('bn1', 'bn2')}"),
        "squeeze": (3, "squeeze.weight[0] squeeze.bias[0] excite.weight[1]"),
    })


def test_a_depthwise_multiplier_is_tied_to_its_input():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    derivation = check(model, torch.randn(2, 3, 4, 4), {
        "2.groups": (4, "0.weight[0] 0.bias[0] 2.weight[0] 2.bias[0] 4.weight[1]"),
        "2": (3, "2.weight[0] 2.bias[0] 4.weight[1]", "2.groups"),
    })
    assert axis_text(derivation.spec, "2.weight") == "[4 2.groups x 3 2] [1] [3] [3]"


class ResNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 1)
        self.conv1, self.bn1 = nn.Conv2d(5, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 9, 3, 1, 1, groups=3, bias=False), nn.BatchNorm2d(9)
        self.conv3 = nn.Conv2d(9, 5, 1, bias=False)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return self.head(F.relu(x + self.conv3(y)))


def test_resnext_relabels_groups_and_channels_within_groups():
    derivation = check(ResNeXt(), torch.randn(2, 3, 4, 4), {
        "stem": (5, "stem.weight[0] stem.bias[0] conv1.weight[1] conv3.weight[0] head.weight[1]"),
        "conv2.groups": (3, f"conv1.weight[0] conv2.weight[0] conv3.weight[1] "
                            f"{statistics('bn1', 'bn2')}"),
        "conv1": (2, f"conv1.weight[0] conv2.weight[1] {statistics('bn1')}", "conv2.groups"),
        "conv2": (3, f"conv2.weight[0] conv3.weight[1] {statistics('bn2')}", "conv2.groups"),
    })
    text = axis_text(derivation.spec, "conv2.weight")
    assert text == "[3 conv2.groups x 3 conv2] [2 conv1] [3] [3]"


def test_a_grouped_transposed_convolution():
    model = nn.Sequential(
        nn.Conv1d(2, 4, 1), nn.Tanh(), nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Tanh(),
        nn.Conv1d(6, 2, 1),
    )
    derivation = check(model, torch.randn(3, 2, 5), {
        "2.groups": (2, "0.weight[0] 0.bias[0] 2.weight[0] 2.bias[0] 4.weight[1]"),
        "0": (2, "0.weight[0] 0.bias[0] 2.weight[0]", "2.groups"),
        "2": (3, "2.weight[1] 2.bias[0] 4.weight[1]", "2.groups"),
    })
    assert axis_text(derivation.spec, "2.weight") == "[2 2.groups x 2 0] [3 2] [3]"


def test_group_norm_leaves_groups_and_channels_within_them():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    ties = "0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 3.weight[1]"
    check(model, torch.randn(2, 3, 4, 4), {"1.groups": (2, ties), "0": (3, ties, "1.groups")})


def test_group_norm_of_one_group_and_instance_norm_leave_channels_free():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.GroupNorm(1, 6), nn.PReLU(6), nn.InstanceNorm2d(6, affine=True),
        nn.Conv2d(6, 2, 1),
    )
    check(model, torch.randn(2, 3, 4, 4), {
        "0": (6, "0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 2.weight[0] 3.weight[0] 3.bias[0] "
                 "4.weight[1]"),
    })


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4)
        self.depthwise, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 7), nn.Linear(7, 4)
        self.gamma = nn.Parameter(torch.full((4,), 1e-6))
        self.shrink, self.head = nn.Conv2d(4, 5, 2, 2), nn.Linear(5, 2)

    def forward(self, x):
        x = self.stem_norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.shrink(x).mean([-2, -1]))


def test_convnext_changes_between_layouts():
    check(ConvNeXt(), torch.randn(2, 3, 8, 8), {
        "stem": (4, "stem.weight[0] stem.bias[0] stem_norm.weight[0] stem_norm.bias[0] gamma[0] "
                    "depthwise.weight[0] depthwise.bias[0] norm.weight[0] norm.bias[0] up.weight[1]"
                    " down.weight[0] down.bias[0] shrink.weight[1]"),
        "up": (7, "up.weight[0] up.bias[0] down.weight[1]"),
        "shrink": (5, "shrink.weight[0] shrink.bias[0] head.weight[1]"),
    })


class ChannelConvolution(nn.Module):
    """Efficient channel attention: a convolution runs over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.eca = nn.Conv2d(3, 6, 1), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.mid, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        gate = self.eca(x.mean((2, 3))[:, None, :]).sigmoid()
        return self.head(torch.relu(self.mid(x * gate.transpose(1, 2)[..., None])))


def test_a_convolution_over_channels_fixes_them_and_says_so():
    derivation = check(ChannelConvolution(), torch.randn(2, 3, 4, 4), {
        "mid": (4, "mid.weight[0] mid.bias[0] head.weight[1]"),
    })
    report, = derivation.spec.reports
    assert (report.op, report.module_path, report.unknown) == ("aten.conv1d", "eca", False)
    assert report.parameters == ("stem.weight", "stem.bias", "mid.weight")


class SelectiveKernel(nn.Module):
    """Two branches, weighed by a softmax over the branches for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.reduce, self.attend = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        both = torch.stack([self.one(x), self.two(x)], dim=1)
        weights = self.attend(torch.relu(self.reduce(both.sum(1).mean((2, 3), keepdim=True))))
        weights = weights.view(x.shape[0], 2, 6, 1, 1).softmax(1)
        return self.head(torch.relu((both * weights).sum(1)))


def test_selective_kernels_tie_the_channels_of_both_branches():
    derivation = check(SelectiveKernel(), torch.randn(2, 3, 4, 4), {
        "one": (6, "one.weight[0] one.bias[0] two.weight[0] two.bias[0] reduce.weight[1] "
                   "attend.weight[0] attend.bias[0] head.weight[1]"),
        "reduce": (4, "reduce.weight[0] reduce.bias[0] attend.weight[1]"),
    }, maximal=False)
    assert axis_text(derivation.spec, "attend.bias") == "[6 one | 6 one]"


class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.back = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        wide = F.pixel_shuffle(torch.relu(self.conv(x)), 2)
        return self.back(F.pixel_unshuffle(self.head(wide), 2))


def test_pixel_shuffle_keeps_the_outer_channels_free():
    derivation = check(PixelShuffle(), torch.randn(2, 3, 4, 4), {
        "conv": (3, "conv.weight[0] conv.bias[0] head.weight[1]"),
        "head": (2, "head.weight[0] head.bias[0] back.weight[1]"),
    })
    assert axis_text(derivation.spec, "conv.bias") == "[3 conv x 4]"
    assert axis_text(derivation.spec, "back.weight") == "[2] [2 head x 4] [1] [1]"
