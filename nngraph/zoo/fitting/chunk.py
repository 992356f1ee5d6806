"""Some networks of one architecture, fitted to an image each by a gradient written out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nngraph.settings import FitSettings
from nngraph.zoo.fitting.inits import FittedLayer
from nngraph.zoo.fitting.render import psnr_of

#: Adam's decay rates. A second moment that forgets soon suits some hundreds of steps: by 0.999 the
#: same steps end 2 dB lower. Epsilon is small because a layer's gradient is divided by its w0.
BETAS = (0.9, 0.99)
EPSILON = 1e-10


class Chunk:
    """The buffers of a chunk of B networks, and one optimiser step on them.

    A layer's weight, times its w0, and its bias lie in one tensor ``[B, out, in + 1]``, whose last
    column meets a row of ones below the layer's inputs ``[B, in + 1, P]``. Pixels are last, so that
    activations run along contiguous memory. Networks that have reached their target leave: the
    buffers shrink, and a step costs what is left.

    ``parameters`` by name are written at the end; ``inputs`` ``[in, P]`` of the first fitted layer
    are the same for all networks, and ``targets`` are ``[B, C, P]``.
    """

    def __init__(
        self, layers: Sequence[FittedLayer], parameters: dict[str, Tensor], inputs: Tensor,
        targets: Tensor,
    ) -> None:  # fmt: skip
        self.plan = list(layers)
        self.parameters = parameters
        self.inputs = torch.cat([inputs, torch.ones_like(inputs[:1])])
        self.targets = self.all_targets = targets
        self.rows = torch.arange(len(targets), device=targets.device)
        self.steps = torch.zeros(len(targets), dtype=torch.int64)
        self.layers = self._scaled(self.rows)
        self.first = [torch.zeros_like(layer) for layer in self.layers]
        self.second = [torch.zeros_like(layer) for layer in self.layers]
        self._allocate(0)

    def _scaled(self, rows: Tensor) -> list[Tensor]:
        """Return the layers of some networks as they are computed with."""
        return [
            torch.cat(
                [self.parameters[p.weight][rows], self.parameters[p.bias][rows].unsqueeze(-1)], -1
            ).mul_(p.w0)
            for p in self.plan
        ]

    def _allocate(self, pixels: int) -> None:
        """Make buffers for this many pixels."""
        self.grads = [torch.zeros_like(layer) for layer in self.layers]
        self.scratch = [torch.zeros_like(layer) for layer in self.layers]
        self.hidden, self.slopes, self.deltas = [], [], []
        for layer in self.layers[:-1]:
            batch, units, _ = layer.shape
            self.hidden.append(layer.new_ones(batch, units + 1, pixels))
            self.slopes.append(layer.new_empty(batch, units, pixels))
            self.deltas.append(layer.new_empty(batch, units, pixels))
        self.output = layer.new_empty(*self.layers[-1].shape[:2], pixels)

    def forward(self, inputs: Tensor, slopes: bool = True) -> Tensor:
        """Return outputs ``[B, C, P]`` for inputs ``[in + 1, P]``; keep what backward needs."""
        if self.output.shape[-1] != inputs.shape[-1]:
            self._allocate(inputs.shape[-1])
        for i, layer in enumerate(self.layers[:-1]):
            pre = self.deltas[i]
            if i == 0:
                torch.mm(layer.view(-1, layer.shape[-1]), inputs, out=pre.view(-1, pre.shape[-1]))
            else:
                torch.bmm(layer, self.hidden[i - 1], out=pre)
            if self.plan[i].activation == "sine":
                torch.sin(pre, out=self.hidden[i][:, :-1])
                if slopes:
                    torch.cos(pre, out=self.slopes[i])
            else:
                torch.clamp_min(pre, 0, out=self.hidden[i][:, :-1])
                if slopes:
                    torch.gt(pre, 0, out=self.slopes[i])
        return torch.bmm(self.layers[-1], self.hidden[-1], out=self.output)

    def backward(self, inputs: Tensor, delta: Tensor) -> None:
        """Write the gradients of all layers for the outputs' gradient ``delta`` ``[B, C, P]``."""
        for i in range(len(self.layers) - 1, 0, -1):
            torch.bmm(delta, self.hidden[i - 1].transpose(1, 2), out=self.grads[i])
            below = self.deltas[i - 1]
            torch.bmm(self.layers[i][:, :, :-1].transpose(1, 2), delta, out=below)
            delta = below.mul_(self.slopes[i - 1])
        batch, units, _ = self.layers[0].shape
        rows = batch * units
        torch.mm(delta.view(rows, -1), inputs.t(), out=self.grads[0].view(rows, -1))

    def fit(self, settings: FitSettings, pixels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Run all steps, write the parameters back; return PSNR and steps taken, ``[B]`` each."""
        batches = len(pixels)
        total = self.inputs.shape[1]
        for step in range(settings.steps):
            chosen = pixels[step % batches]
            if len(chosen) == total:
                inputs, targets = self.inputs, self.targets
            else:
                inputs, targets = self.inputs[:, chosen], self.targets[:, :, chosen]
            delta = self.forward(inputs).sub_(targets).mul_(2 / targets[0].numel())
            self.backward(inputs, delta)
            self._update(step, settings)
            if settings.psnr is not None and (step + 1) % settings.check == 0:
                self._retire(self._psnr() >= settings.psnr, step + 1)
                if not len(self.rows):
                    break
        self._retire(torch.ones_like(self.rows, dtype=torch.bool), settings.steps)
        # What is written is judged, after its rounding.
        self.rows = torch.arange(len(self.steps), device=self.rows.device)
        self.layers, self.targets = self._scaled(self.rows), self.all_targets
        self._allocate(total)
        return self._psnr().cpu(), self.steps

    def _psnr(self) -> Tensor:
        error = self.forward(self.inputs, slopes=False) - self.targets
        return psnr_of(error.square_().mean(dim=(1, 2)))

    def _retire(self, done: Tensor, step: int) -> None:
        """Write the parameters of networks that are done, and go on with the others."""
        if not bool(done.any()):
            return
        rows = self.rows[done]
        for plan, layer in zip(self.plan, self.layers, strict=True):
            self.parameters[plan.weight][rows] = layer[done, :, :-1] / plan.w0
            self.parameters[plan.bias][rows] = layer[done, :, -1] / plan.w0
        self.steps[rows.cpu()] = step
        stay = ~done
        self.rows, self.targets = self.rows[stay], self.targets[stay]
        for held in (self.layers, self.first, self.second):
            held[:] = [layer[stay] for layer in held]
        self._allocate(0)

    def _update(self, step: int, settings: FitSettings) -> None:
        """Adam, with the learning rate of a layer times its w0, since its weights are, too."""
        rate = 0.5 * settings.lr * (1 + math.cos(math.pi * step / settings.steps))
        beta1, beta2 = BETAS
        unbias1, unbias2 = 1 - beta1 ** (step + 1), math.sqrt(1 - beta2 ** (step + 1))
        for i, plan in enumerate(self.plan):
            grad, root = self.grads[i], self.scratch[i]
            self.first[i].lerp_(grad, 1 - beta1)
            self.second[i].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            torch.sqrt(self.second[i], out=root).add_(EPSILON)
            self.layers[i].addcdiv_(self.first[i], root, value=-rate * plan.w0 * unbias2 / unbias1)
