"""Parameters in units of their tensor: what makes those of different layers comparable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Topology
from nngraph.nn.common.size_limits import SizeLimits
from nngraph.nn.features import Features, Fitted, Networks, input_features


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

    Args:
        limits: of the networks to read.
        fan_in: whether the fan-in counts as part of the scale.
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
        """Set the scales from networks."""
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
        sizes = self.limits.taps, self.limits.columns
        for what, value, size in zip(
            ("taps on edges", "columns on nodes"), (features.taps, features.x), sizes, strict=True
        ):
            if value.shape[-1] > size:
                raise ArchitectureError(
                    f"the networks have {value.shape[-1]} {what}; the model was built for {size}. "
                    "Build it with all architectures that it shall read."
                )
        edges, nodes = (
            pad(value, (0, size - value.shape[-1]))
            for value, size in zip((features.taps, features.x), sizes, strict=True)
        )
        return edges, nodes

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
