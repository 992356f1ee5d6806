"""B classifiers of one architecture run and trained at once, each on its own images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.graph import Activation
from nngraph.settings import OPTIMISERS, WEIGHT_INITS
from nngraph.zoo.classifiers.spec import ClassifierSpec, HiddenLayer

#: Momentum of a batch norm's running statistics, torch's own.
_MOMENTUM = 0.1


class BatchedClassifiers:
    """B networks of one :class:`ClassifierSpec`.

    What is trained lies in one tensor ``flat`` ``[B, P]``, network by network, so that an optimiser
    is a few passes over it; the running statistics of norms in another, ``running`` ``[B, R]``.

    Args:
        inits: for each network an index into :data:`~nngraph.settings.WEIGHT_INITS`.
        scales: for each network a factor of its first weights.
    """

    def __init__(
        self, spec: ClassifierSpec, inits: Tensor, scales: Tensor, generator: torch.Generator
    ) -> None:
        self.spec = spec
        self.activation = Activation(spec.activation)
        self.count = len(inits)
        shapes = {p.name: p.shape for p in spec.architecture().parameters}
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        self.trained = {k: v for k, v in shapes.items() if not k.endswith(statistics)}
        self.tracked = {k: v for k, v in shapes.items() if k.endswith(statistics[:2])}
        first = [self._first(k, v, inits, scales, generator) for k, v in self.trained.items()]
        self.flat = torch.cat([value.flatten(1) for value in first], dim=1)
        running = [
            torch.full((self.count, *shape), float(name.endswith("var")))
            for name, shape in self.tracked.items()
        ]
        self.running = torch.cat([torch.empty(self.count, 0), *running], dim=1)
        self.steps = 0

    def _first(
        self, name: str, shape: tuple[int, ...], inits: Tensor, scales: Tensor,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        if len(shape) == 1:
            one = name.startswith("norms") and name.endswith("weight")
            return torch.full((self.count, *shape), float(one))
        inputs = math.prod(shape[1:])
        outputs = shape[0] * math.prod(shape[2:])
        drawn = []
        for init, scale in zip(inits.tolist(), scales.tolist(), strict=True):
            kind = WEIGHT_INITS[init]
            std = math.sqrt(2 / inputs if kind.startswith("he") else 2 / (inputs + outputs))
            if kind == "orthogonal":
                value = torch.empty(shape)
                torch.nn.init.orthogonal_(value, generator=generator)
            elif kind.endswith("uniform"):
                value = (torch.rand(shape, generator=generator) * 2 - 1) * math.sqrt(3) * std
            else:
                value = torch.randn(shape, generator=generator) * std
            drawn.append(value * scale)
        return torch.stack(drawn)

    def forward(
        self, images: Tensor, flat: Tensor | None = None, training: bool = False,
        dropout: Tensor | None = None, generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Return logits ``[B, N, classes]`` of images ``[B, N, C, H, W]``, or of ``[N, C, H, W]``.

        ``flat`` is what is trained, if not the networks' own tensor; ``training``, whether norms
        use and track this batch; ``dropout`` ``[B]``, the share of the last hidden layer.
        """
        values = self._values(self.flat if flat is None else flat)
        if images.dim() == 4:
            images = images.expand(self.count, *images.shape)
        # Of CNNs all networks lie side by side in the channels: a layer is one grouped convolution.
        cnn = self.spec.convolutional
        value = images.transpose(0, 1).flatten(1, 2) if cnn else images.flatten(2)
        for i, layer in enumerate(self.spec.layers):
            mapped = (self._convolved if cnn else self._mapped)(value, i, layer, values, training)
            value = self.activation(mapped + value if layer.residual else mapped)
        if cnn:
            value = value.mean(dim=(2, 3)).view(len(value), self.count, -1).transpose(0, 1)
        if dropout is not None:
            kept = torch.rand(value.shape, generator=generator) >= dropout.view(-1, 1, 1)
            value = value * kept / (1 - dropout.view(-1, 1, 1))
        bias, weight = values["head.bias"], values["head.weight"]
        return torch.baddbmm(bias.unsqueeze(1), value, weight.transpose(1, 2))

    def _mapped(
        self, value: Tensor, i: int, layer: HiddenLayer, values: Mapping[str, Tensor],
        training: bool,
    ) -> Tensor:  # fmt: skip
        weight = values[f"layers.{i}.weight"].transpose(1, 2)
        if not self.spec.norm:
            return torch.baddbmm(values[f"layers.{i}.bias"].unsqueeze(1), value, weight)
        mapped = torch.bmm(value, weight).transpose(0, 1)
        normed = self._norm(mapped.flatten(1), i, values, training)
        return normed.view(-1, self.count, layer.outputs).transpose(0, 1)

    def _convolved(
        self, value: Tensor, i: int, layer: HiddenLayer, values: Mapping[str, Tensor],
        training: bool,
    ) -> Tensor:  # fmt: skip
        bias = None if self.spec.norm else values[f"layers.{i}.bias"].flatten()
        weight = values[f"layers.{i}.weight"].flatten(0, 1)
        padding = layer.kernel // 2
        mapped = F.conv2d(value, weight, bias, layer.stride, padding, groups=self.count)
        return self._norm(mapped, i, values, training) if self.spec.norm else mapped

    def _norm(self, value: Tensor, i: int, values: Mapping[str, Tensor], training: bool) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (values[f"norms.{i}.{part}"] for part in parts)
        held = mean.flatten().clone(), var.flatten().clone()  # updated in place
        found = F.batch_norm(value, *held, weight.flatten(), bias.flatten(), training, _MOMENTUM)
        if training:
            mean.copy_(held[0].view_as(mean))
            var.copy_(held[1].view_as(var))
        return found

    def _values(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of what is trained and tracked, ``[B, *shape]`` by name."""
        found = {}
        for whole, shapes in ((flat, self.trained), (self.running, self.tracked)):
            parts = torch.split(whole, [math.prod(shape) for shape in shapes.values()], dim=1)
            for (name, shape), part in zip(shapes.items(), parts, strict=True):
                found[name] = part.view(self.count, *shape)
        return found

    def parameters(self) -> dict[str, Tensor]:
        """Return a copy of all parameters and buffers, each ``[B, *shape]``, as a module's."""
        values = self._values(self.flat)
        steps = torch.full((self.count,), self.steps, dtype=torch.int64)
        return {
            p.name: (steps if p.integer else values[p.name].detach()).clone()
            for p in self.spec.architecture().parameters
        }


@dataclass
class BatchedOptimiser:
    """SGD with momentum 0.9, Adam and RMSprop, each network with its own, as torch has them.

    Args:
        kinds: ``[B]`` indices into :data:`~nngraph.settings.OPTIMISERS`.
        rates: ``[B]`` learning rates.
        decays: ``[B]`` factors of the weights that are added to the gradient (L2 regularisation).
        size: numbers that a network has.
    """

    kinds: Tensor
    rates: Tensor
    decays: Tensor
    size: int

    def __post_init__(self) -> None:
        dtype = self.rates.dtype
        first = torch.tensor([[0.9, 1.0], [0.9, 0.1], [0.0, 1.0]], dtype=dtype)[self.kinds]
        self._keep, self._take = first[:, :1], first[:, 1:]
        self._second = torch.tensor([1.0, 0.999, 0.99], dtype=dtype)[self.kinds].unsqueeze(1)
        self._adam = (self.kinds == OPTIMISERS.index("adam")).unsqueeze(1)
        self._plain = (self.kinds == OPTIMISERS.index("sgd")).unsqueeze(1)
        self.moment = torch.zeros(len(self.kinds), self.size, dtype=dtype)
        self.square = torch.zeros(len(self.kinds), self.size, dtype=dtype)
        self.step = 0

    def change(self, flat: Tensor, grad: Tensor) -> Tensor:
        """Return what is subtracted from ``flat`` ``[B, P]`` for its gradient."""
        self.step += 1
        grad = grad + self.decays.unsqueeze(1) * flat
        self.moment.mul_(self._keep).add_(self._take * grad)
        self.square.mul_(self._second).add_((1 - self._second) * grad * grad)
        one = torch.ones((), dtype=self.rates.dtype)
        unbias = torch.where(self._adam, one - 0.9**self.step, one)
        unbias_square = torch.where(self._adam, one - 0.999**self.step, one)
        root = torch.where(self._plain, one, (self.square / unbias_square).sqrt() + 1e-8)
        return self.rates.unsqueeze(1) * self.moment / unbias / root
