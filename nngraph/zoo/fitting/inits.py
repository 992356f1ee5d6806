"""Networks of image coordinates that can be fitted: their layers, and their first weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Activation, Architecture, chain_layers


@dataclass(frozen=True)
class FittedLayer:
    """An affine map and its activation: names of its parameters, "sine", "relu" or "identity"."""

    weight: str
    bias: str
    activation: str
    w0: float
    inputs: int
    first: bool


def fitted_layers(
    architecture: Architecture, fixed: Mapping[str, Tensor] | None = None
) -> list[FittedLayer]:
    """Return the layers of a network of 2 coordinates that are not ``fixed``, checked."""
    what = f"the architecture {architecture} is not a network of image coordinates"
    chain = chain_layers(architecture, "Images are chains of layers on 2 inputs.")
    if architecture.widths[0] != 2:
        raise ArchitectureError(f"{what}: expected 2 inputs.")
    layers = []
    last = len(chain) - 1
    for i, layer in enumerate(chain):
        name = layer.activation.name
        w0 = layer.activation["w0"] if name == "sine" else 1.0
        if layer.bias is None:
            raise ArchitectureError(f"{what}: expected a bias in every layer.")
        if i < last and (name not in ("sine", "relu") or not w0 > 0):
            raise ArchitectureError(
                f"{what}: group {architecture.groups[i + 1].name!r} has the activation "
                f"{layer.activation}; expected sine with w0 above 0, or relu. Make one with "
                "siren_architecture."
            )
        if i == last and (not i or name != "identity"):
            raise ArchitectureError(
                f"{what}: expected at least one sine layer or ReLU layer and a linear output; the "
                f"output has {layer.activation}."
            )
        layers.append(
            FittedLayer(layer.weight, layer.bias, name, w0, architecture.widths[i], i == 0)
        )
    if not fixed:
        return layers
    shapes = {p.name: p.shape for p in architecture.parameters}
    wanted = {name: shapes[name] for name in (layers[0].weight, layers[0].bias)}
    if {name: tuple(value.shape) for name, value in fixed.items()} != wanted or last < 2:
        raise InvalidGraphError(
            f"the fixed parameters are {sorted(fixed)}; expected those of the first of at least "
            f"three layers, {wanted}."
        )
    return layers[1:]


def siren_architecture(widths: Sequence[int], w0: float = 30.0) -> Architecture:
    """Describe a SIREN of these widths, coordinates first: sine hidden layers, a linear output."""
    return Architecture.mlp(widths, Activation("sine", w0=w0))


def fourier_architecture(widths: Sequence[int], features: int) -> Architecture:
    r"""Describe a ReLU network on Fourier features (Tancik et al., NeurIPS 2020).

    The features :math:`\sin(W x)` and :math:`\cos(W x)` are the first layer of the network, a sine
    layer of ``2 * features`` neurons that is the same in every network and is not fitted; then
    come ReLU layers and a linear output.

    Args:
        widths: as of the network without its features: 2, the ReLU layers, the channels.
        features: number of frequencies, each with a sine and a cosine.

    Raises:
        ArchitectureError: if there is no ReLU layer, or no frequency.
    """
    if len(widths) < 3 or features < 1:
        raise ArchitectureError(
            f"a network on Fourier features has widths {list(widths)!r} and {features} features; "
            "expected 2, at least one ReLU layer, the channels, and at least one frequency."
        )
    relus = [Activation("relu")] * (len(widths) - 2)
    return Architecture.mlp(
        [widths[0], 2 * features, *widths[1:]], [Activation("sine", w0=1.0), *relus]
    )


def fourier_features(architecture: Architecture, scale: float, seed: int) -> dict[str, Tensor]:
    r"""Draw the first layer of :func:`fourier_architecture`, the same for all networks.

    Frequencies are normal with standard deviation :math:`\pi` times ``scale``: ``scale`` is in
    periods over the image's width of 2. The cosines are sines with a bias of :math:`\pi/2`.
    """
    weight, bias = architecture.parameters[0], architecture.parameters[1]
    count = weight.shape[0] // 2
    drawn = np.random.default_rng([seed, count, 0xF0]).normal(size=(count, 2)) * math.pi * scale
    rows = torch.from_numpy(drawn).to(torch.float32)
    phases = torch.tensor([0.0, math.pi / 2]).repeat_interleave(count)
    return {weight.name: torch.cat([rows, rows]), bias.name: phases}


def layer_inputs(
    architecture: Architecture, coordinates: Tensor, fixed: Mapping[str, Tensor] | None
) -> Tensor:
    """Return what the first fitted layer sees at each coordinate, ``[in, P]``."""
    if not fixed:
        return coordinates.t().contiguous()
    weight, bias = fixed.values()
    activation = architecture.groups[1].activation
    return activation(weight.to(coordinates) @ coordinates.t() + bias.to(coordinates).unsqueeze(1))


def initial_parameters(
    architecture: Architecture, count: int, generator: torch.Generator,
    fixed: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    r"""Draw ``count`` independent networks: parameters by name, float32 ``[count, *shape]``.

    Weights of a SIREN as Sitzmann et al. draw them: of the first layer uniform in
    :math:`\pm 1/d`, of the others in :math:`\pm\sqrt{6/d}/w_0` with d the layer's inputs. Weights
    of ReLU layers, and of the output after one, uniform in :math:`\pm\sqrt{6/d}` (He et al.).
    Biases in :math:`\pm 1/\sqrt{d}`.

    Args:
        fixed: parameters of the first layer that all networks have.
    """
    layers = fitted_layers(architecture, fixed)
    shapes = {p.name: p.shape for p in architecture.parameters}
    parameters = {
        name: value.to(torch.float32).expand(count, *value.shape).clone()
        for name, value in (fixed or {}).items()
    }
    for i, layer in enumerate(layers):
        # The output is drawn for the layer before it, whose scale its inputs have.
        like = layer if layer.activation != "identity" else layers[i - 1]
        bound = math.sqrt(6 / layer.inputs) / (like.w0 if like.activation == "sine" else 1)
        if layer.first and layer.activation == "sine":
            bound = 1 / layer.inputs
        for name, limit in ((layer.weight, bound), (layer.bias, 1 / math.sqrt(layer.inputs))):
            value = torch.rand((count, *shapes[name]), generator=generator, dtype=torch.float32)
            parameters[name] = value.mul_(2 * limit).sub_(limit)
    return {p.name: parameters[p.name] for p in architecture.parameters}
