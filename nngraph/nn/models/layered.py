"""Models that are a stack of equal layers on states of neurons and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint as checkpointed

from nngraph import kernels
from nngraph.graph import Topology
from nngraph.nn.common.levels import join_levels
from nngraph.nn.common.mlp import after_norm, mlp
from nngraph.nn.encoders.network import EncoderOptions, NetworkEncoder
from nngraph.nn.features import Architectures, Networks, States
from nngraph.nn.models.base import StateNetwork, Traits, options_of
from nngraph.nn.probes.probes import Probes
from nngraph.nn.probes.running import Runner
from nngraph.nn.readouts.readout import ReadoutOptions


class EdgeStep(nn.Module):
    r"""Update of the state of each weight from itself and from the neurons at its ends.

    .. math:: e_{ij} \leftarrow e_{ij} + \sigma(A \hat e_{ij} + B x_j + C x_i [{}+ U u_{k(ij)}])

    with :math:`\hat e` normalised over channels, in one pass over the edges
    (:func:`nngraph.kernels.edge_update`).

    Args:
        channels, edge_channels: of the neurons' states, C and C_e.

    Shape:
        x ``[*, N, C]``, e ``[*, E, C_e]``, block ``[*, K, C_e]`` -> e and its means.
    """

    def __init__(self, channels: int, edge_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(edge_channels)
        self.own = nn.Linear(edge_channels, edge_channels)
        self.source = nn.Linear(channels, edge_channels, bias=False)
        self.target = nn.Linear(channels, edge_channels, bias=False)

    def forward(
        self, topology: Topology, x: Tensor, e: Tensor, block: Tensor | None = None
    ) -> kernels.EdgeUpdate:
        weight, bias = after_norm(self.norm, self.own)
        target = linear(x, self.target.weight, bias)
        return kernels.edge_update(topology, e, weight, self.source(x), target, block)


def columns(*maps: nn.Linear) -> list[Tensor]:
    """Weight ``[in, out]`` and bias, if any, of some maps, for functions of edges: ``e @ weight``.

    Of matrices with few inputs its gradient is several times as fast on a CPU as that of torch's.
    """
    pairs = ((one.weight.mT.contiguous(), one.bias) for one in maps)
    return [value for pair in pairs for value in pair if value is not None]


class LayeredNetwork(StateNetwork):
    """Layers of one kind on states of neurons and weights, first made by an encoder.

    Reads networks of any architecture, also in one batch, as far as it was built for them.

    Args:
        channels, edge_channels: of the states.
        layers: each takes ``(topology, x, e, *more)`` and returns ``(x, e, *more)``; the first is
            given what :meth:`first` returns.
        probes: number of learned inputs at which the networks are run, the responses being added to
            the first states; 0 reads weights only.
        runner: of the :class:`~nngraph.nn.Probes`; networks that are no chains are run by one.
        encoder: options of the :class:`~nngraph.nn.NetworkEncoder`, as such or as plain data:
            ``{"ordered": True}``: neurons start from a pass in the order of computation.
        checkpoint: keep the states before each layer for the backward pass and compute the rest
            again: less memory, for about a third more time.
        readout: of the :class:`~nngraph.nn.ReadoutOptions`, such as ``hidden`` and ``dropout``.
    """

    traits = Traits(takes_runner=True)

    def __init__(
        self, architecture: Architectures, num_outputs: int, channels: int, edge_channels: int,
        layers: Sequence[nn.Module], *, probes: int = 0, checkpoint: bool = False,
        encoder: EncoderOptions | Mapping[str, Any] | None = None, runner: Runner | None = None,
        **readout: Any,
    ) -> None:
        sizes = channels, edge_channels
        super().__init__(architecture, num_outputs, *sizes, ReadoutOptions(**readout))
        if edge_channels < 1:
            raise ValueError(
                f"edge_channels is {edge_channels}; {type(self).__name__} keeps states of weights, "
                "expected at least 1."
            )
        self.checkpoint = checkpoint
        options = options_of(EncoderOptions, encoder)
        self.encoder = NetworkEncoder(self.limits, *sizes, options=options)
        self.traits = self.traits.changed(probes, self.encoder.breaks_symmetry)
        self.layers = nn.ModuleList(layers)
        self.probes = Probes(architecture, probes, runner=runner) if probes else None
        if probes:
            self.responses = mlp([probes, channels, channels])

    def first(self, topology: Topology, x: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """Return what the first layer is given, from the states of the encoder."""
        return x, e

    def states(self, networks: Networks) -> States:
        features = self.read(networks)
        topology = features.topology
        x, e = self.encoder(features)
        assert e is not None  # for there are edge channels
        if self.probes is not None:
            x = x + self.responses(join_levels(topology, self.probes(features)))
        state = self.first(topology, x, e)
        again = self.checkpoint and torch.is_grad_enabled()
        for layer in self.layers:
            if again:
                state = checkpointed(layer, topology, *state, use_reentrant=False)
            else:
                state = layer(topology, *state)
        return States(features, state[0], state[1])
