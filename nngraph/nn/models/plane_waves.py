"""How far a model that reads weights has come to evaluate the networks."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.nn.features import Networks
from nngraph.nn.models.symmetric import SymmetricNetwork


@torch.no_grad()
def plane_wave_r2(
    model: SymmetricNetwork, networks: Networks, extent: float = 1.5, resolution: int = 61
) -> Tensor:
    r"""Measure how far the second layer has come to evaluate sine networks: R² per channel.

    If a channel of what a neuron of the second layer hears were the network's own pre-activation at
    an input p, then what it hears of a neuron with incoming weights w and bias b, all in radians,
    would be the plane wave :math:`\alpha \sin(w \cdot p) \cos b + \gamma \cos(w \cdot p) \sin b`.
    For each channel that the second layer reads, the p of a grid and the :math:`\alpha, \gamma`
    that explain most are found; R² is the share of the variance over the neurons of ``networks``
    that they explain. Near 1 the model probes, though it never runs a network.

    Args:
        networks: of one architecture: two inputs and two hidden layers or more, of sine neurons.
        extent: the grid spans ``[-extent, extent]^2``, beyond the image's own ``[-1, 1]^2``.
        resolution: points of the grid along each axis.

    Returns:
        R² ``[C]``.

    Raises:
        ArchitectureError: if the networks are not of that form.
    """
    topology = model.read(networks).topology
    groups = topology.single.groups
    sines = [group.activation.symmetry == "phase" for group in groups[1:3]]
    if groups[0].size != 2 or len(groups) < 4 or not all(sines):
        raise ArchitectureError(
            "plane waves are found in networks of two inputs and two hidden layers of sine "
            f"neurons; got {topology.single}."
        )
    _, levels = model.run(networks)
    first = levels[1]
    assert first.received is not None
    received = model.passes.read_by_next(first, 1)
    # Of the learned places of the two inputs back to the inputs.
    rows = (first.received.sums @ torch.linalg.pinv(model.passes.inputs)).reshape(-1, 2)
    angle = first.received.bias.reshape(-1)
    received = received.reshape(len(rows), -1)
    axis = torch.linspace(-extent, extent, resolution, dtype=rows.dtype, device=rows.device)
    best: Tensor = rows.new_zeros(received.shape[1])
    for points in torch.split(torch.cartesian_prod(axis, axis), resolution):
        wave = rows @ points.mT
        odd, even = wave.sin() * angle.cos()[:, None], wave.cos() * angle.sin()[:, None]
        best = torch.maximum(best, _explained(odd, even, received).amax(0))
    return best


def _explained(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    """Return R² ``[P, C]`` of least squares on two regressors ``[n, P]``, without a constant."""
    aa, bb, ab = (first * first).sum(0), (second * second).sum(0), (first * second).sum(0)
    at, bt = first.mT @ target, second.mT @ target
    determinant = (aa * bb - ab * ab).clamp(min=1e-12).unsqueeze(-1)
    aa, bb, ab = aa.unsqueeze(-1), bb.unsqueeze(-1), ab.unsqueeze(-1)
    fitted: Tensor = bb * at * at - 2 * ab * at * bt + aa * bt * bt
    return fitted / determinant / (target * target).sum(0).clamp(min=1e-12)
