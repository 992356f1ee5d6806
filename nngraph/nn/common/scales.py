"""Parameters in units of their tensor, and numbers of networks in units of their spread."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import NeuralGraphStack, Topology
from nngraph.nn.features import Features, Fitted, Networks, SizeLimits, input_features


class TensorScales(Fitted):
    r"""Weights and biases in units of their tensor's root mean square over a training set.

    .. math::
        \hat W_l = W_l / (\mathrm{rms}(W_l) \sqrt{d_{l-1}}), \qquad
        \hat b_l = b_l / \mathrm{rms}(b_l)

    One scale per layer and kind of tensor, so that relabelling neurons changes nothing; a scale and
    no shift, so that signs keep their meaning. A layer beyond the depth it was made for takes the
    last scale; a tensor that is all zero takes scale 1.

    With ``fan_in`` it is :math:`\hat W_l = W_l / \mathrm{rms}(W_l \sqrt{d_{l-1}})`, the same on
    networks of the widths of the training set. On wider ones, whose weights are smaller by the root
    of the fan-in as initialisations make them, sums over neurons then stay as large as they were.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, limits: SizeLimits, fan_in: bool = False) -> None:
        super().__init__()
        self.limits, self.fan_in = limits, fan_in
        self.register_buffer("weight", torch.ones(limits.levels))
        self.register_buffer("bias", torch.ones(limits.levels, limits.columns))

    def _slot(self, level: Tensor) -> Tensor:
        return level.clamp(max=len(self.weight) - 1)

    @torch.no_grad()
    def fit(self, networks: Networks) -> None:
        features = input_features(networks)
        topology = features.topology
        edges, nodes = self._padded(features)
        if self.fan_in:
            edges = edges * fan_in(topology, edges.dtype)
        kinds = (
            (self.weight.unsqueeze(-1), kernels.reduce(topology, edges.square(), "block", "mean"),
             topology.blocks.level),
            (self.bias, kernels.pool(nodes.square(), topology.nodes.group), topology.groups.level),
        )  # fmt: skip
        for scale, power, level in kinds:
            power = power.flatten(0, -3).mean(0) if power.dim() > 2 else power
            # Taps share one scale: they are entries of one tensor.
            power = power if scale.shape[-1] == power.shape[-1] else power.sum(-1, keepdim=True)
            total = torch.zeros_like(scale).index_add(0, self._slot(level), power.to(scale))
            count = torch.bincount(self._slot(level), minlength=len(scale)).clamp(min=1)
            rms = (total / count.unsqueeze(-1)).sqrt()
            scale.copy_(torch.where(rms > 0, rms, torch.ones_like(rms)))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return scaled weights ``[*, E]`` and biases ``[*, N, 1]`` of chains."""
        weight, columns = self.all(features)
        return weight[..., 0], columns[..., :1]

    def _padded(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return edge and node features with as many taps and columns as the model has."""

        def padded(value: Tensor, size: int, what: str) -> Tensor:
            if value.shape[-1] > size:
                raise ArchitectureError(
                    f"the networks have {value.shape[-1]} {what}; the model was built for {size}. "
                    "Build it with all architectures that it shall read."
                )
            return pad(value, (0, size - value.shape[-1]))

        return (
            padded(features.taps, self.limits.taps, "taps on edges"),
            padded(features.x, self.limits.columns, "columns on nodes"),
        )

    def all(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return scaled weights ``[*, E, taps]`` and columns ``[*, N, F]``."""
        topology = features.topology
        edges, nodes = self._padded(features)
        dtype = features.x.dtype
        per_block = self.weight[self._slot(topology.blocks.level)].to(dtype).unsqueeze(-1)
        scale = kernels.gather(topology, per_block, "block")
        if not self.fan_in:
            scale = scale * fan_in(topology, dtype)
        return edges / scale, nodes / self.bias[self._slot(topology.nodes.level)].to(dtype)


def fan_in(topology: Topology, dtype: torch.dtype) -> Tensor:
    """Return the root of the number of edges into each edge's target, ``[E, 1]``."""
    root = topology.nodes.in_degree.to(dtype).sqrt().unsqueeze(-1)
    return kernels.gather(topology, root, "target")


class Units(nn.Module):
    r"""A module that holds the mean :math:`\mu` and the deviation :math:`\sigma` of numbers."""

    mean: Tensor
    deviation: Tensor

    def start_units(self, *shape: int) -> None:
        """Hold those of numbers of a shape, 0 and 1 at first."""
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def standard(self, numbers: Tensor) -> Tensor:
        r"""Return :math:`(y - \mu) / \sigma`."""
        return (numbers - self.mean) / self.deviation

    def original(self, standard: Tensor) -> Tensor:
        r"""Return :math:`\mu + \sigma y`."""
        return standard * self.deviation + self.mean


class Standardised(Units, Fitted):
    """A part that gives numbers of each network, in units of their spread over a training set.

    Each may be of one entry of the numbers: they are of whole networks, whatever their labelling.
    """

    #: Networks of a stack whose numbers are taken at once, since the states of all neurons of many
    #: networks are gigabytes, and how many at most.
    at_once: ClassVar[int] = 256
    most: ClassVar[int | None] = None

    @abstractmethod
    def numbers(self, features: Features) -> Tensor:
        """Return the numbers as they are, ``[networks, D]``."""

    def moments(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of numbers ``[networks, D]``, of each by itself."""
        return numbers.mean(0), numbers.std(0, correction=0)

    @torch.no_grad()
    def fit(self, networks: Networks) -> None:
        """Set mean and deviation; a number that is the same for all has deviation 1."""
        parts = [networks]
        if isinstance(networks, NeuralGraphStack):
            stack = networks[: self.most]
            parts = [stack[i : i + self.at_once] for i in range(0, len(stack), self.at_once)]
        numbers = torch.cat([self.numbers(input_features(part)) for part in parts])
        mean, deviation = self.moments(numbers)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation)))
