"""A small transformer on patches of images, and its adapters of low rank, many at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.graph import Architecture, NeuronGroup, Parameter

#: Patches on a side of an image, of which the first that fits is taken.
_PATCHES = (4, 3, 2, 1)


@dataclass(frozen=True)
class TransformerSpec:
    """A transformer without biases in its blocks: attention and an MLP of GELU, norms before each.

    Args:
        image_shape: ``(H, W, C)``.
        classes: number of outputs.
        width, heads, blocks: of it; the MLP is twice as wide.
    """

    image_shape: tuple[int, int, int]
    classes: int
    width: int = 32
    heads: int = 4
    blocks: int = 2

    @property
    def side(self) -> int:
        """Patches on a side of an image."""
        height, width, _ = self.image_shape
        return next(n for n in _PATCHES if height % n == 0 and width % n == 0)

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """The linear maps within blocks, ``(out, in)`` by name."""
        square, wide = (self.width, self.width), 2 * self.width
        sizes = dict.fromkeys("qkvo", square)
        sizes |= {"up": (wide, self.width), "down": (self.width, wide)}
        return {f"blocks.{i}.{n}": size for i in range(self.blocks) for n, size in sizes.items()}

    def base(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return first weights."""
        height, width, channels = self.image_shape
        patch = height * width * channels // self.side**2
        shapes = {
            "embed.weight": (self.width, patch), "positions": (self.side**2, self.width),
            **{f"{name}.weight": size for name, size in self.maps.items()},
            "head.weight": (self.classes, self.width),
        }  # fmt: skip
        drawn = {
            name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            for name, shape in shapes.items()
        }
        return {**drawn, "head.bias": torch.zeros(self.classes)}

    def adapter(self, layers: tuple[str, ...], rank: int) -> Architecture:
        """Return an adapter of some maps of every block, as peft keeps it and it is imported."""
        groups: list[NeuronGroup] = []
        parameters: list[Parameter] = []
        for name, (outputs, inputs) in self.maps.items():
            if name.rpartition(".")[2] not in layers:
                continue
            first, between = len(groups), f"{name}.lora_A"
            groups += [
                NeuronGroup(f"{name}.in", inputs, "input"),
                NeuronGroup(between, rank, "hidden", space=between),
                NeuronGroup(f"{name}.lora_B", outputs, "output"),
            ]
            parameters += [
                Parameter(f"{between}.weight", (rank, inputs), (first + 1, first)),
                Parameter(f"{name}.lora_B.weight", (outputs, rank), (first + 2, first + 1)),
            ]
        return Architecture(tuple(groups), tuple(parameters))

    def run(
        self, base: Mapping[str, Tensor], adapters: Mapping[str, Tensor], images: Tensor
    ) -> Tensor:
        """Return logits of K adapters of one base, each on its own images.

        Shape:
            adapters ``[K, *shape]`` by name, some or none; images ``[K, n, C, H, W]`` ->
            ``[K, n, classes]``
        """

        def mapped(name: str, x: Tensor) -> Tensor:
            y = x @ base[f"{name}.weight"].T
            if f"{name}.lora_A.weight" not in adapters:
                return y
            down, up = (adapters[f"{name}.lora_{side}.weight"] for side in "AB")
            return y + ((x.flatten(1, 2) @ down.mT) @ up.mT).view_as(y)

        def norm(x: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:])

        side = self.side
        height, width, _ = self.image_shape
        rows = images.reshape(*images.shape[:3], side, height // side, side, width // side)
        patches = rows.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        x = patches @ base["embed.weight"].T + base["positions"]
        for i in range(self.blocks):
            h = norm(x)
            q, k, v = (
                mapped(f"blocks.{i}.{n}", h).view(*h.shape[:3], self.heads, -1).transpose(2, 3)
                for n in "qkv"
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3)
            x = x + mapped(f"blocks.{i}.o", mixed)
            x = x + mapped(f"blocks.{i}.down", F.gelu(mapped(f"blocks.{i}.up", norm(x))))
        return norm(x).mean(2) @ base["head.weight"].T + base["head.bias"]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def train_base(
    spec: TransformerSpec, images: Tensor, labels: Tensor, steps: int, seed: int
) -> dict[str, Tensor]:
    """Train the transformer that adapters are of, on all classes, with Adam."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: w.requires_grad_() for name, w in spec.base(generator).items()}
    optimiser = torch.optim.Adam(weights.values(), 3e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randint(len(images), (64,), generator=generator)
        logits = spec.run(weights, {}, images[rows][None])[0]
        gradients = torch.autograd.grad(
            F.cross_entropy(logits, labels[rows]), list(weights.values())
        )
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient
        optimiser.step()
    return {name: weight.detach() for name, weight in weights.items()}
