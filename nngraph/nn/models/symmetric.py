"""A metanetwork that respects the whole symmetry of every neuron's activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Topology
from nngraph.nn.common.levels import at_outputs, join_levels, level_means
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.scales import Standardised
from nngraph.nn.features import Architectures, Features, Networks, States
from nngraph.nn.layers.neurons import NEURON_LAYERS, ByKind, hidden_kinds, put
from nngraph.nn.layers.symmetric_pass import LevelStates, SymmetricPass
from nngraph.nn.models.base import StateNetwork, Traits
from nngraph.nn.probes.grid import GridReader, grid_points, side_of
from nngraph.nn.probes.probes import Probes


class SymmetricNetwork(StateNetwork, Standardised):
    r"""Message passing that is invariant to all that the networks' neurons allow.

    Relabelling; positive scales of ReLU neurons; signs of tanh neurons; signs and phases of sine
    neurons; scales of either sign of linear neurons; each neuron by its own activation
    (:attr:`nngraph.graph.Activation.symmetry`), also several kinds in one network. In networks of
    any other architecture, CNNs with residuals, norms and depthwise parts among them, each neuron
    is invariant to the scales and signs that the architecture states, as ``converters.to_graph``
    derives them; of one that states none, to relabelling. Made of a
    :class:`~nngraph.nn.SymmetricPass`, forward and with ``bidirectional``
    back:

    .. math::
        u_j = \textstyle\sum_i w_{ji} h_i, \quad h_j = O_l\, z(u_j, b_j), \qquad
        v_i = \textstyle\sum_j w_{ji} g_j, \quad g_i = P_l\, y(u_i, b_i, v_i), \qquad
        x_i = S_l [\text{free}(u_i, b_i), z_i \odot Q_l v_i]

    When a neuron is moved, v is multiplied by the inverse of what z is, as gradients are, so that
    no weight need be inverted, and their product stays. Nothing of edge size but the weights is
    made, and every learned map is on neurons: the cost of a forward and a backward pass of the
    networks, times channels.

    One model serves any width and depth: a layer beyond the depth it was built for takes the last
    maps. The answer is read off the outputs, with ``bidirectional`` off the mean of each level too.

    Args:
        architecture: one or several; the activations of all of them are served, and all kinds if
            none has hidden neurons.
        start: ``"random"``; or ``"evaluation"``, for sine neurons alone: functions and maps start
            so that the pass is the networks' own at random inputs, C in all layers; or ``"grid"``,
            the same at a square grid of inputs of two coordinates, where what reaches the outputs
            is read as a picture, by a :class:`~nngraph.nn.probes.grid.GridReader`. Such a model is
            a probe at first, without holding inputs or calling a network.
        bidirectional: whether there is a pass back.
        state_channels: C of :meth:`states`, which a model has that passes back, or has no answer.
        equivariant_vectors: K of the states' equivariant vectors, which a model has that passes
            back and has no answer: edits made of them move as the networks do.
        probes: learned inputs at which the networks are run besides; 0 reads weights only.
        hidden, dropout: width of the MLP of the read-out, and dropout in it.
        width: channels of the GridReader's first map.
        mix: of a start other than random, whether channels may come to mix between layers; else
            each stays by itself, at a cost that is linear in their number: for fine grids.
        passes: ``channels``, ``messages``, ``functions`` and ``max_levels`` of the pass.

    Raises:
        ArchitectureError: if a network has hidden neurons of a kind that no architecture it was
            built for has, or is no chain where these all are.
        ValueError: if it cannot start so.

    Source:
        the groups: Kalogeropoulos et al. (ScaleGMN, 2024), whose pass back needs 1/W; even and odd
        parts, and the pass back along W itself, are ours.
    """

    most = 2048
    traits = Traits(
        "activation-structured weights-only",
        "relabelling; scales, signs and phases that each neuron's activation allows",
        reads_signs=False,
    )  # fmt: skip

    def __init__(
        self, architecture: Architectures, num_outputs: int,
        start: Literal["random", "evaluation", "grid"] = "random", bidirectional: bool = False,
        state_channels: int = 64, equivariant_vectors: int = 32, probes: int = 0, hidden: int = 384,
        dropout: float = 0.2, width: int = 24, mix: bool = True, **passes: Any,
    ) -> None:
        # Not the general read-out of states: this one reads what the output neurons received.
        super().__init__(architecture, num_outputs, state_channels, 0, readout=None)
        self.bidirectional = bidirectional
        # Without hidden neurons any kind will do; phases are those of chains alone.
        kinds = hidden_kinds(self.architectures) or [
            kind for kind in NEURON_LAYERS if self.limits.chains or kind != "sine"
        ]
        self.passes = SymmetricPass(self.limits, kinds, bidirectional, **passes)
        messages, outputs = self.passes.messages, self.limits.outputs
        #: numbers that an output neuron hears, its bias first
        heard = self.passes.columns + messages
        self.side = 0
        if start == "evaluation":
            self.passes.start_at_evaluation(mix=mix)
        elif start == "grid":
            if bidirectional or probes:
                raise ValueError(
                    "start='grid' reads one picture alone; it was given with "
                    f"bidirectional={bidirectional} and probes={probes}."
                )
            self.side = side_of(messages, self.limits.inputs, "messages")
            self.passes.start_at_evaluation(grid_points(self.side), mix)
        elif start != "random":
            raise ValueError(f"start is {start!r}; expected 'random', 'evaluation' or 'grid'.")
        elif not mix:
            raise ValueError("mix=False is for start='evaluation' or 'grid'; got start='random'.")
        self.probes = Probes(self.architecture, probes) if probes else None
        self.traits = self.traits.changed(probes)
        # The answer of a forward pass alone is read off the outputs, and needs no states.
        self.has_states = bidirectional or not num_outputs
        self.equivariant_vectors = equivariant_vectors if bidirectional and not num_outputs else 0
        if self.has_states:
            self.hidden_states = self.passes.maps(4 if bidirectional else 2, state_channels, True)
            self.output_state = nn.Linear(heard, state_channels)
        self.input_state = nn.Linear(messages, state_channels) if bidirectional else None
        if bidirectional:
            self.reads_back = nn.ModuleList(
                ByKind(kinds, messages, 2 * size) for size in self.passes.sizes
            )
        if self.equivariant_vectors:
            self.incoming = self.passes.maps(2, equivariant_vectors)
            self.outgoing = nn.ModuleList(
                ByKind(kinds, messages, equivariant_vectors) for _ in self.passes.sizes
            )
            self.output_incoming = nn.Linear(heard, equivariant_vectors)
            self.input_outgoing = nn.Linear(messages, equivariant_vectors)
        read = outputs * (2 * messages if self.side else heard + probes)
        read += self.passes.levels * state_channels if bidirectional else 0
        self.start_units(read)
        self.answer: nn.Module | None = None
        if num_outputs and self.side:
            self.answer = GridReader(2 * outputs, self.side, num_outputs, width, hidden, dropout)
        elif num_outputs:
            self.answer = mlp([read, hidden, hidden, num_outputs], dropout)

    def fit(self, networks: Networks) -> None:
        if self.answer is not None:
            super().fit(networks)

    def numbers(self, features: Features) -> Tensor:
        return self.embed(features)

    def moments(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each number; of a picture those of its planes as wholes."""
        if not self.side:
            return super().moments(numbers)
        # Margins, which hardly vary, are not to be made loud.
        planes = numbers.view(len(numbers), -1, self.side**2)
        of_planes = planes.mean((0, 2)), planes.std((0, 2), correction=0)
        mean, deviation = (value.repeat_interleave(self.side**2) for value in of_planes)
        return mean, deviation

    def run(self, networks: Networks) -> tuple[Features, list[LevelStates]]:
        """Return the networks as they were read, and what the passes find at each level."""
        features = self.read(networks)
        return features, self.passes(features)

    def states(self, networks: Networks) -> States:
        """Return states of neurons that nothing but relabelling moves; none of weights.

        Raises:
            ValueError: of a model that answers without them: one of a forward pass alone.
        """
        if not self.has_states:
            raise ValueError(
                "SymmetricNetwork was built to answer from a forward pass alone, and has no "
                "states; build it with bidirectional=True, or with num_outputs=0."
            )
        features, levels = self.run(networks)
        topology = features.topology
        vectors = self._vectors(topology, levels) if self.equivariant_vectors else None
        return States(features, self._states(topology, levels), equivariant_vectors=vectors)

    def _states(self, topology: Topology, levels: list[LevelStates]) -> Tensor:
        def hidden(number: int, level: LevelStates) -> Tensor:
            if level.backward is None:
                return level.free
            back = self.passes.each(self.reads_back, number, level.kinds, level.backward)
            return torch.cat([level.free, level.z * back], dim=-1)

        maps = self.hidden_states, self.input_state, self.output_state
        return self._joined(topology, levels, self.channels, hidden, *maps)

    def _vectors(self, topology: Topology, levels: list[LevelStates]) -> tuple[Tensor, Tensor]:
        def entries(number: int, level: LevelStates) -> Tensor:
            return self.passes.of_layers(number, level, "entries")

        def backward(number: int, level: LevelStates) -> Tensor:
            return cast(Tensor, level.backward)

        def vectors(*maps: Any) -> Tensor:
            return self._joined(topology, levels, self.equivariant_vectors, *maps)

        return (
            vectors(entries, self.incoming, None, self.output_incoming),
            vectors(backward, self.outgoing, self.input_outgoing, None),
        )

    def _joined(
        self, topology: Topology, levels: list[LevelStates], channels: int,
        known: Callable[[int, LevelStates], Tensor], hidden: nn.ModuleList,
        inputs: nn.Module | None, outputs: nn.Module | None,
    ) -> Tensor:  # fmt: skip
        """Map what is known of hidden neurons, and what reaches inputs and outputs, if anything."""
        found = []
        for number, level in enumerate(levels):
            x = level.free.new_zeros(*level.free.shape[:-1], channels)
            if number == 0 and inputs is not None:
                x = inputs(level.backward) * self.passes.is_input(topology).to(x)
            if level.kinds:
                own = self.passes.each(hidden, number, level.kinds, known(number, level))
                x = own if number else x + own
            rows = topology.levels[number].outputs
            if outputs is not None and level.ends is not None and rows is not None:
                x = put(x, outputs(level.ends.index_select(-2, rows)), rows)
            found.append(x)
        return join_levels(topology, found)

    def embed(self, networks: Networks) -> Tensor:
        """Return what the read-out reads, ``[networks, D]``: the networks as vectors.

        What reaches the outputs, with ``bidirectional`` the mean state of each level, with probes
        the answers to them. Nothing that leaves a network's function alone moves it.
        """
        features, levels = self.run(networks)
        topology, outputs = features.topology, self.limits.outputs
        ends = [(i, level.ends) for i, level in enumerate(levels) if level.ends is not None]
        if self.side:
            # A plane of what is received, and one of the bias, which is scaled by itself.
            planes = [
                (i, torch.cat([end[..., 1:], end[..., :1].expand_as(end[..., 1:])], dim=-1))
                for i, end in ends
            ]
            return at_outputs(topology, planes, outputs)
        parts = [at_outputs(topology, ends, outputs)]
        if self.probes is not None:
            parts.append(self.probes.at_outputs(topology, self.probes(features), outputs))
        if self.bidirectional:
            groups = kernels.pool(silu(self._states(topology, levels)), topology.nodes.group)
            parts.append(level_means(groups, topology.groups, self.passes.levels))
        return torch.cat(parts, dim=-1)

    def forward(self, networks: Networks) -> Tensor:
        answer = self.answer or self.needed_readout()
        return cast(Tensor, answer(self.standard(self.embed(networks))))


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
