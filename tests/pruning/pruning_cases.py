"""Small networks of every kind that neurons are removed from, and what may be removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A block of convolutions with batch norm and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.inner, self.head = nn.BatchNorm2d(6), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.two(self.inner(self.one(x)).relu())).relu()
        return self.head(x.mean((2, 3)))


class Concatenated(nn.Module):
    """Features that are concatenated, normalised together, split again, and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.norm, self.mix = nn.BatchNorm2d(10), nn.Conv2d(10, 8, 2)
        self.head = nn.Linear(4 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        mixed = self.mix(self.norm(torch.cat([one, self.two(one.relu())], 1)).relu())
        left, right = mixed.chunk(2, 1)
        return self.head((left * right.sigmoid()).flatten(1))


class Separable(nn.Sequential):
    """Depthwise, pointwise, grouped and transposed convolutions, and a norm of groups."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.SiLU(), nn.Conv2d(6, 8, 1),
            nn.Conv2d(8, 12, 3, groups=4), nn.GroupNorm(4, 12), nn.ReLU(),
            nn.ConvTranspose2d(12, 5, 2), nn.PReLU(5), nn.Conv2d(5, 2, 1),
        )  # fmt: skip


class Attention(nn.Module):
    """Attention of which several heads share keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.copies, self.head_dim = 4, 2, 2, 6
        self.q, self.k, self.v = nn.Linear(5, 24), nn.Linear(5, 12), nn.Linear(5, 12)
        self.out, self.scale = nn.Linear(24, 5), 6**-0.5

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (
            layer(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
            .repeat_interleave(self.copies, 1) for layer in (self.k, self.v)
        )
        mixed = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """Attention of one projection, scaled by the number of features that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 6
        self.qkv, self.out = nn.Linear(5, 36), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).movedim(1, 3)
        q, k, v = parts.unbind(1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """A gated linear unit of one projection, normalised before, at positions that a mask picks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(7, 8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        # A forward whose sizes depend on numbers is run more than once.
        x = x[:, torch.arange(x.shape[1]) % 2 == 0]
        value, gate = self.up(self.norm(self.embed(x))).chunk(2, -1)
        return self.down(value * nn.functional.silu(gate))


class Recurrent(nn.Module):
    """Two layers of LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 6, 2, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])


class Averaged(nn.Module):
    """A mean, a softmax and a norm over neurons, none of which masking leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(3, 6)
        self.norm, self.head = nn.RMSNorm(6, eps=1e-6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.one(x).relu().mean(-1, keepdim=True)
        return mean + self.head(self.two(x).softmax(-1)) + self.head(self.norm(self.three(x)))


@dataclass(frozen=True)
class PrunedCase:
    """A network, inputs, how many neurons are left of each space at a half, and what is refused."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    left: dict[str, int]
    refused: tuple[str, ...] = ()


def image() -> Tensor:
    return torch.randn(2, 3, 4, 4)


CASES = {
    "mlp": PrunedCase(
        lambda: nn.Sequential(
            nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)
        ),
        lambda: torch.randn(4, 3), {"0": 4, "2": 3},
    ),
    "residual": PrunedCase(Residual, image, {"stem": 4, "one": 3}),
    "concatenated": PrunedCase(Concatenated, image, {"one": 2, "two": 3, "mix": 2}),
    "separable": PrunedCase(
        Separable, lambda: torch.randn(1, 3, 6, 6), {"0": 3, "4.groups": 2, "3": 1, "7": 2}, ("4",)
    ),
    "attention": PrunedCase(
        Attention, lambda: torch.randn(2, 7, 5), {"kv_heads": 1, "copies": 1, "qk": 3, "v": 3}
    ),
    "fused": PrunedCase(
        Fused, lambda: torch.randn(2, 7, 5), {"heads": 1, "qk": 3, "v": 3}
    ),
    "gated": PrunedCase(
        Gated, lambda: torch.randint(7, (2, 5)), {"up": 3}, ("embed",)
    ),
    "recurrent": PrunedCase(
        Recurrent, lambda: torch.randn(2, 5, 3), {"cells.units": 3, "cells.units.2": 3}
    ),
    "averaged": PrunedCase(
        Averaged, lambda: torch.randn(4, 3), {}, ("one", "two")
    ),
}  # fmt: skip


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return the network of a case in float64, with no weight or statistic that is special."""
    torch.manual_seed(0)
    module = CASES[name].make().double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    inputs = CASES[name].inputs()
    return module, inputs.double() if inputs.is_floating_point() else inputs
