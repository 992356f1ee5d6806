"""A metanetwork of complete equivariant layers: what the basis gives, with functions in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, Topology
from nngraph.kernels import PermuteIO
from nngraph.nn.common.pointwise import Dropout, FeatureDropout, Pointwise, TensorNorm
from nngraph.nn.common.scales import TensorScales, fan_in
from nngraph.nn.encoders.network import EndEncoder
from nngraph.nn.features import Architectures, Features, Networks, SizeLimits, States
from nngraph.nn.layers.equivariant import EquivariantLinear, InvariantLinear
from nngraph.nn.models.base import StateNetwork, Traits
from nngraph.nn.readouts.readout import ReadoutOptions


class EquivariantNetwork(StateNetwork):
    r"""Layers that reach every equivariant linear map of one architecture; an invariant read-out.

    .. math::
        (x, e)^0 = (\hat b, \hat w), \qquad
        (x, e)^{t+1} = \mathrm{ReLU}\big(\mathrm{norm}(\Theta^t (x, e)^t + \beta^t)\big)

    with :math:`\Theta` an :class:`~nngraph.nn.EquivariantLinear`, norms per tensor, and answers by
    an :class:`InvariantReadout`. Nothing about networks is built in but the symmetry. The
    coefficients belong to the tensors of one architecture, which is the only one it reads;
    :class:`~nngraph.nn.SharedEquivariantNetwork` reads any in one batch.

    Args:
        architecture: of the networks, one; or several that differ in names and activations alone.
        channels, layers: C per parameter, and number of equivariant layers.
        permute_io: as in :class:`~nngraph.nn.EquivariantLinear`. Inputs and outputs that count as
            relabelled are told apart by learned features of their places (:class:`EndEncoder`).
        dropout: share of channels dropped after each layer, and of features in the read-out.
        hidden: width of the read-out; 0 for one affine map.

    Raises:
        ArchitectureError: if it is built for, or called on, more than one architecture, or one that
            is no chain of affine maps.

    Source:
        DWSNets (Navon et al., 2023) and NFN-HNP (Zhou et al., 2023), on complete layers.
    """

    traits = Traits(chains_only=True, many=False)

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int = 32, layers: int = 3,
        permute_io: PermuteIO = False, dropout: float = 0.1, hidden: int = 256,
    ) -> None:
        if layers < 1:
            raise ValueError(f"layers is {layers}; expected at least 1.")
        self.permute_io = permute_io
        readout = ReadoutOptions(hidden, dropout)
        super().__init__(architecture, num_outputs, channels, channels, readout)
        self._refuse_others(self.architectures)
        first = _ENCODED if permute_io else 1
        self.encoder = (
            EndEncoder(self.limits, first, first) if permute_io else ScaledEntries(self.limits)
        )
        self.linear = nn.ModuleList(
            EquivariantLinear(self.architecture, channels if i else first, channels, permute_io)
            for i in range(layers)
        )
        self.norms = nn.ModuleList(TensorNorm(self.architecture, channels) for _ in range(layers))
        # In place: a norm does not need its own result.
        self.activation = Pointwise(torch.relu_)
        self.dropout = FeatureDropout(dropout, whole_channels=True)

    def make_readout(self, options: ReadoutOptions) -> nn.Module:
        """Return the complete read-out of the architecture."""
        sizes = self.architecture, self.channels, self.num_outputs
        return InvariantReadout(*sizes, self.permute_io, options.hidden, options.dropout)

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        self._refuse_others(features.topology.architectures)
        x, edge_attr = self.encoder(features)
        for linear, norm in zip(self.linear, self.norms, strict=True):
            x, edge_attr = self.dropout(*self.activation(*norm(*linear(x, edge_attr))))
        return States(features, x, edge_attr)

    def _refuse_others(self, architectures: Sequence[Architecture]) -> None:
        own = _tensors(self.architecture)
        if other := [a for a in dict.fromkeys(architectures) if _tensors(a) != own]:
            raise ArchitectureError(
                f"EquivariantNetwork was built for {self.architecture} and reads no other; got "
                f"{other[0]}. SharedEquivariantNetwork reads networks of any architectures."
            )


class ScaledEntries(nn.Module):
    """Weights and biases in units of their tensor: ``-> [*, N, 1], [*, E, 1]``.

    What else a :class:`~nngraph.nn.NetworkEncoder` says is in the constants of a complete layer.
    """

    def __init__(self, limits: SizeLimits) -> None:
        super().__init__()
        self.scales = TensorScales(limits)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        weight, bias = self.scales(features)
        # Whatever the fan-in.
        return bias, weight.unsqueeze(-1) * fan_in(features.topology, weight.dtype)


class InvariantReadout(nn.Module):
    r"""An MLP on as many invariant linear functions of the states, or those alone.

    .. math:: y = V \sigma(\Theta [\mathrm{mean}\, A]_A + \beta) + c

    With ``hidden=0`` there is no MLP: the answers are linear in the states.

    Shape:
        x ``[*, N, C]``, edge_attr ``[*, E, C]`` -> ``[networks, num_outputs]``.
    """

    def __init__(
        self, architecture: Architecture, channels: int, num_outputs: int,
        permute_io: PermuteIO = False, hidden: int = 256, dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pool = InvariantLinear(architecture, channels, hidden or num_outputs, permute_io)
        last = [nn.SiLU(), Dropout(dropout), nn.Linear(hidden, num_outputs)] if hidden else []
        self.last = nn.Sequential(*last)

    def forward(self, topology: Topology, x: Tensor, edge_attr: Tensor) -> Tensor:
        answers: Tensor = self.last(self.pool(x, edge_attr))
        return answers.reshape(-1, answers.shape[-1])


#: Channels of entries and places where inputs or outputs count as relabelled.
_ENCODED = 8


def _tensors(architecture: Architecture) -> list[object]:
    """Return all that the layers are made for, without names and activations."""
    return [(p.shape, p.axes, p.column) for p in architecture.parameters]
