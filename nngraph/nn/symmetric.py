"""A metanetwork that respects the whole symmetry of every neuron's activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.graph.topology import Topology
from nngraph.nn.cells import (
    CELLS,
    FUNCTIONS,
    ByKind,
    Cell,
    Heard,
    Kinds,
    hidden_kinds,
    kind_of,
    kinds_of_level,
    put,
)
from nngraph.nn.features import Features, Networks
from nngraph.nn.levels import at_inputs, at_outputs, by_output, join_levels, level_means
from nngraph.nn.metanetwork import Column, mlp
from nngraph.nn.probes import Probes
from nngraph.nn.scales import TensorScales
from nngraph.nn.states import StateNetwork, States

__all__ = ["Level", "SymmetricNetwork"]


@dataclass
class Level:
    """What the passes have found at the n neurons of a level.

    Attributes:
        kinds: of its hidden neurons.
        z: ``[*, n, D]``, multiplied by their factor; ``free`` is multiplied by nothing.
        heard: what they heard going forward; ``None`` at the inputs.
        behind: v, ``[*, n, M]``, what they heard from behind; ``None`` without a pass back.
        ends: what its output neurons heard, with their biases, ``[*, n, D']``; ``None`` where there
            are none.
    """

    kinds: Kinds
    z: Tensor
    free: Tensor
    heard: Heard | None = None
    behind: Tensor | None = None
    ends: Tensor | None = None


class SymmetricNetwork(StateNetwork):
    r"""Message passing that is invariant to all that the networks' activations allow.

    Relabelling; positive scales of ReLU neurons; signs of tanh neurons; signs and phases of sine
    neurons; each neuron by its own activation, also several kinds in one network. A pass in the
    order of computation, with the raw weights as its matrices, and with ``bidirectional`` one back:

    .. math::
        u_j = \textstyle\sum_i w_{ji} h_i, \quad h_j = O_l\, z(u_j, b_j), \qquad
        v_i = \textstyle\sum_j w_{ji} g_j, \quad g_i = P_l\, y(u_i, b_i, v_i)

    with z and y those of the :class:`~nngraph.nn.cells.Cell` of the neuron's kind, h of an input
    neuron its place, and g of an output neuron a function of what it heard. When a neuron is moved,
    v is multiplied by the inverse of what z is, as gradients are, so that no weight need be
    inverted, and :math:`z \odot Q_l v` stays: it is what the states are made of. Nothing of edge
    size but the weights is made, and every learned map is on neurons: the cost of a forward and a
    backward pass of the networks, times channels.

    One model serves any width and depth: a layer beyond the depth it was built for takes the last
    maps. The answer is read off the output neurons, and with ``bidirectional`` off the mean state
    of each level too.

    Args:
        architecture: one or several; the activations of all of them are served, and all kinds if
            none has hidden neurons.
        channels: C_l of the cells; z has twice as many. The last number serves deeper layers too.
        messages: channels of h and g.
        functions: names in ``FUNCTIONS`` of the cells' functions, by level, for all kinds; ``None``
            takes each kind's own. With ``"sine"`` on sine neurons a layer can come to evaluate the
            networks at points that it finds by itself: :func:`~nngraph.nn.probing.probing` measures
            how far it has.
        start: ``"random"``; or ``"evaluation"``, for sine neurons alone: the functions are sines,
            and the maps are drawn so that the pass is the networks' own forward pass at random
            inputs, C in all layers, from which learning departs. Such a model is a probe at first,
            without holding inputs or calling a network.
        bidirectional: whether there is a pass back.
        state_channels: C of :meth:`states`, which a model has that passes back, or has no answer.
        carriers: K of the states' carriers, which a model has that passes back and has no answer:
            of them edits of the networks are made that move as the networks do.
        probes: number of learned inputs at which the networks are run besides; 0 reads weights
            only.
        hidden, dropout: width of the MLP of the read-out, and dropout in it.
        max_levels: sets of maps at most.

    Raises:
        ArchitectureError: if a network has hidden neurons of a kind that no architecture it was
            built for has, or is no chain.

    Shape:
        networks -> ``[networks, num_outputs]``.

    Source:
        the groups: Kalogeropoulos et al. (ScaleGMN, 2024), whose pass back needs 1/W; even and odd
        parts, and the pass back along W itself, are ours.
    """

    mean: Tensor
    deviation: Tensor
    reads_signs = False
    symmetry = "relabelling; scales, signs and phases that each neuron's activation allows"

    def __init__(
        self,
        architecture: Architecture | Sequence[Architecture],
        num_outputs: int,
        channels: Sequence[int] = (96, 128),
        messages: int = 48,
        functions: Sequence[str] | None = None,
        start: Literal["random", "evaluation"] = "random",
        bidirectional: bool = False,
        state_channels: int = 64,
        carriers: int = 32,
        probes: int = 0,
        hidden: int = 384,
        dropout: float = 0.2,
        max_levels: int = 16,
    ) -> None:
        several = [architecture] if isinstance(architecture, Architecture) else list(architecture)
        # Not the general read-out of states: this one reads more of the output neurons.
        super().__init__(several, 0, state_channels, 0)
        self.num_outputs = num_outputs
        if unknown := [name for name in functions or () if name not in FUNCTIONS]:
            raise ValueError(f"function {unknown[0]!r}; expected one of {', '.join(FUNCTIONS)}.")
        self.kinds = hidden_kinds(several) or list(CELLS)
        self.bidirectional = bidirectional
        self.outputs, self.levels = self.extent.outputs, min(self.extent.levels, max_levels)
        self.scales = TensorScales(self.extent)
        width, back = min(self.extent.inputs, messages), messages if bidirectional else 0
        self.inputs = nn.Parameter(torch.eye(self.extent.inputs, width))
        if self.extent.inputs > messages:
            nn.init.orthogonal_(self.inputs)
        # One set of maps per hidden layer, and at least two: those of the first, and of all deeper.
        depth = min(max(self.extent.levels - 2, 2), max_levels)
        sizes = [channels[min(i, len(channels) - 1)] for i in range(depth)]
        self.cells = nn.ModuleList(
            nn.ModuleDict(
                {
                    kind: _cell(kind, i, messages if i else width, size, functions, back)
                    for kind in self.kinds
                }
            )
            for i, size in enumerate(sizes)
        )
        # The last one serves deeper networks alone: outputs read the last layer whole.
        self.maps_out = self._maps([2 * size for size in sizes], messages)
        #: of what reaches an output; without hidden layers that are the inputs' places
        self.width = 1 + max(2 * max(sizes), width)
        self.probes = Probes(self.architecture, probes) if probes else None
        # The answer of a forward pass alone is read off the outputs, and needs no states.
        self.has_states = bidirectional or not num_outputs
        self.carriers = carriers if bidirectional and not num_outputs else 0
        if self.has_states:
            parts = [(4 if bidirectional else 2) * size for size in sizes]
            self.hidden_states = self._maps(parts, state_channels, bias=True)
            self.output_state = nn.Linear(self.width, state_channels)
        if bidirectional:
            self.input_state = nn.Linear(back, state_channels)
            self.start = mlp([self.width, 2 * messages, messages])
            self.output_place = nn.Parameter(torch.randn(self.outputs, messages))
            self.maps_back = self._maps([2 * size for size in sizes], messages)
            self.reads_back = nn.ModuleList(ByKind(self.kinds, back, 2 * size) for size in sizes)
        if self.carriers:
            self.incoming = self._maps([2 * size for size in sizes], carriers)
            self.outgoing = self._maps([back] * depth, carriers)
            self.output_incoming = nn.Linear(self.width, carriers)
            self.input_outgoing = nn.Linear(back, carriers)
        read = self.outputs * (self.width + probes)
        read += self.levels * state_channels if bidirectional else 0
        self.register_buffer("mean", torch.zeros(read))
        self.register_buffer("deviation", torch.ones(read))
        self.answer = mlp([read, hidden, hidden, num_outputs], dropout) if num_outputs else None
        if start == "evaluation":
            self._start_at_evaluation()
        elif start != "random":
            raise ValueError(f"start is {start!r}; expected 'random' or 'evaluation'.")

    @torch.no_grad()
    def _start_at_evaluation(self) -> None:
        r"""Draw the maps so that what the cells of all layers hear are pre-activations.

        With offsets of :math:`\pi / 4`, :math:`\sin(\beta + u) \mp \sin(\beta - u)` are
        :math:`\sqrt 2 \sin u` and :math:`\sqrt 2 \cos u`, and the two halves of z add up to
        :math:`\sqrt 2 \sin(u + b)`.
        """
        cells = [self._cell(i + 1, kind) for i in range(len(self.cells)) for kind in self.kinds]
        sizes = {cell.channels for cell in cells} | {cells[-1].heard}
        sines = self.kinds == ["sine"] and all(cell.function is torch.sin for cell in cells)
        if not sines or len(sizes) > 1 or self.extent.inputs > cells[-1].heard:
            raise ValueError(
                "start='evaluation' is for networks of sine neurons, with functions=['sine'] and "
                f"as many channels in all layers as messages; got kinds {', '.join(self.kinds)}, "
                f"and sizes {sorted(sizes)}."
            )
        for i, cell in enumerate(cells):
            read, shift = cast(nn.Linear, cell.read), cast(nn.Parameter, cell.shift)
            shift.fill_(torch.pi / 4)
            if i:
                nn.init.eye_(read.weight)
            else:
                nn.init.uniform_(read.weight, -0.9, 0.9)
            out = cast(nn.Linear, cast(ByKind, self.maps_out[i])["sine"])
            out.weight.copy_(torch.eye(cell.channels).repeat(1, 2) / 2**0.5)
        if self.answer is not None:
            # The two halves count alike at first.
            weight = cast(nn.Linear, self.answer[0]).weight
            for o in range(self.outputs):
                odd, even = weight[:, o * self.width + 1 : (o + 1) * self.width].chunk(2, dim=1)
                even.copy_(odd)

    @torch.no_grad()
    def fit_statistics(self, networks: Networks) -> None:
        """Set scales, and mean and deviation of what the read-out reads; once, before training."""
        super().fit_statistics(networks)
        if self.answer is None:
            return
        # In parts: the states of all neurons of many networks at once are gigabytes.
        parts = [networks]
        if isinstance(networks, NeuralGraphStack):
            parts = [networks[i : i + 256] for i in range(0, min(len(networks), 2048), 256)]
        read = torch.cat([self.embed(part) for part in parts])
        if len(read) > 1:
            self.mean.copy_(read.mean(0))
            self.deviation.copy_(read.std(0))
            self.deviation[self.deviation <= 1e-12] = 1.0

    def _maps(self, inputs: Sequence[int], outputs: int, bias: bool = False) -> nn.ModuleList:
        return nn.ModuleList(ByKind(self.kinds, size, outputs, bias) for size in inputs)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "with probes" if self.probes is not None else "activation-structured weights-only"

    # -- the passes -------------------------------------------------------------------------------

    def run(self, networks: Networks) -> tuple[Features, list[Level]]:
        """Pass over networks, forward and, where the model does, back."""
        features = self.read(networks)
        radians, weight, bias = self._scaled(features)
        levels = self._forward(features.topology, radians, bias)
        if self.bidirectional:
            self._backward(features.topology, weight, levels)
        return features, levels

    def _scaled(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights in radians at sine neurons, weights, and biases in radians at these.

        Else in their tensor's own scale, as all weights are that the pass back runs along.
        """
        weight, bias = self.scales(features)
        if "sine" not in self.kinds:
            return weight, weight, bias
        topology = features.topology
        frequency, sines = (value.to(bias.dtype) for value in _sines(topology))
        targets = torch.cat([frequency, sines], dim=-1)
        per_edge, hears = kernels.gather(topology, targets, "target").unbind(-1)
        radians = torch.lerp(weight, features.weight * per_edge, hears)
        return radians, weight, torch.lerp(bias, features.bias * frequency, sines)

    def _slot(self, level: int) -> int:
        """Return which maps serve the hidden layer at this level."""
        return min(level, len(self.cells)) - 1

    def _cell(self, level: int, kind: str) -> Cell:
        return cast(Cell, cast(nn.ModuleDict, self.cells[self._slot(level)])[kind])

    def _each(self, maps: nn.ModuleList, level: int, kinds: Kinds, value: Tensor) -> Tensor:
        return cast(Tensor, maps[self._slot(level)](kinds, value))

    def _forward(self, topology: Topology, weight: Tensor, bias: Tensor) -> list[Level]:
        first = at_inputs(topology, self.inputs).expand(*bias.shape[:-2], -1, -1)
        levels = [Level([], first, first)]
        for number, nodes in enumerate(topology.level_nodes[1:], start=1):
            before, own = levels[-1], kernels.take(bias, nodes)
            level = Level(self._known_kinds(topology, number), own, own)
            if number in topology.output_rows:
                sums = kernels.propagate_level(topology, number, weight, before.z)
                sums = pad(sums, (0, self.width - 1 - sums.shape[-1]))
                level.ends = torch.cat([own, sums], dim=-1)
            if level.kinds:
                message = before.z
                if number > 1:
                    message = self._each(self.maps_out, number - 1, before.kinds, message)
                sums = kernels.propagate_level(topology, number, weight, message)
                level.heard = Heard(sums, own)
                self._make(number, level)
            levels.append(level)
        return levels

    def _make(self, number: int, level: Level) -> None:
        """Let the neurons of a level make z, and what is multiplied by nothing."""
        assert level.heard is not None
        channels = 2 * self._cell(number, level.kinds[0][0]).channels
        shape = (*level.heard.bias.shape[:-1], channels)
        level.z = level.free = level.heard.bias.new_zeros(shape)
        for kind, rows in level.kinds:
            z, free = self._cell(number, kind).forwards(level.heard.at(rows))
            level.z, level.free = put(level.z, z, rows), put(level.free, free, rows)

    def _backward(self, topology: Topology, weight: Tensor, levels: list[Level]) -> None:
        places = by_output(topology, self.output_place)
        sent: Tensor | None = None
        for number in reversed(range(len(levels))):
            level = levels[number]
            if sent is None:
                level.behind = level.z.new_zeros(*level.z.shape[:-1], self.output_place.shape[-1])
            else:
                level.behind = kernels.propagate_level(topology, number + 1, weight, sent, "source")
            sent = torch.zeros_like(level.behind)
            if level.ends is not None:
                rows, nodes = topology.output_rows[number], topology.level_nodes[number]
                heard = level.ends.index_select(-2, rows)
                place = kernels.take(places, nodes).index_select(-2, rows)
                sent = put(sent, self.start(heard) + place, rows)
            if level.heard is None or not level.kinds:
                continue
            y = self._of_cells(number, level, "backwards")
            sent = sent + self._each(self.maps_back, number, level.kinds, y)

    def _of_cells(
        self, number: int, level: Level, what: Literal["backwards", "entries"]
    ) -> Tensor:
        """Return what the cells of a level make of all that its neurons heard."""
        assert level.heard is not None
        assert level.behind is not None
        made = torch.zeros_like(level.z)
        for kind, rows in level.kinds:
            behind = level.behind if rows is None else level.behind.index_select(-2, rows)
            make = getattr(self._cell(number, kind), what)
            made = put(made, make(level.heard.at(rows), behind), rows)
        return made

    def _known_kinds(self, topology: Topology, level: int) -> Kinds:
        kinds = kinds_of_level(topology, level)
        if unknown := [kind for kind, _ in kinds if kind not in self.kinds]:
            raise ArchitectureError(
                f"a network has {unknown[0]} neurons; SymmetricNetwork was built for "
                f"{', '.join(self.kinds)} ones. Build it with all architectures that it shall "
                "read."
            )
        return kinds

    def told(self, level: Level, number: int) -> Tensor:
        """Return what the cells of the next level read of each neuron of this one, ``[*, n, C]``.

        The reading is linear, so that what a neuron hears is the sum of this, times its weights.
        """
        message = self._each(self.maps_out, number, level.kinds, level.z)
        kind = level.kinds[0][0]
        read = cast(nn.Linear, self._cell(number + 1, kind).read)
        return message @ read.weight[:, : message.shape[-1]].mT

    # -- what is read off -------------------------------------------------------------------------

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
        carriers = self._carriers(topology, levels) if self.carriers else None
        return States(features, self._states(topology, levels), carriers=carriers)

    def _states(self, topology: Topology, levels: list[Level]) -> Tensor:
        states = []
        for number, level in enumerate(levels):
            free = level.free
            x = free.new_zeros(*free.shape[:-1], self.channels)
            if number == 0 and level.behind is not None:
                x = self.input_state(level.behind)
            if level.kinds:
                if level.behind is not None:
                    behind = self._each(self.reads_back, number, level.kinds, level.behind)
                    free = torch.cat([free, level.z * behind], dim=-1)
                x = self._each(self.hidden_states, number, level.kinds, free)
            if level.ends is not None:
                rows = topology.output_rows[number]
                x = put(x, self.output_state(level.ends.index_select(-2, rows)), rows)
            states.append(x)
        return join_levels(topology, states)

    def _carriers(self, topology: Topology, levels: list[Level]) -> tuple[Tensor, Tensor]:
        incoming, outgoing = [], []
        for number, level in enumerate(levels):
            assert level.behind is not None
            none = level.behind.new_zeros(*level.behind.shape[:-1], self.carriers)
            into, out = none, self.input_outgoing(level.behind) if number == 0 else none
            if level.kinds and level.heard is not None:
                entries = self._of_cells(number, level, "entries")
                into = self._each(self.incoming, number, level.kinds, entries)
                out = self._each(self.outgoing, number, level.kinds, level.behind)
            if level.ends is not None:
                rows = topology.output_rows[number]
                into = put(into, self.output_incoming(level.ends.index_select(-2, rows)), rows)
            incoming.append(into)
            outgoing.append(out)
        return join_levels(topology, incoming), join_levels(topology, outgoing)

    def embed(self, networks: Networks) -> Tensor:
        """Return what the read-out reads, ``[networks, D]``: the networks as vectors.

        What reaches the outputs, with ``bidirectional`` the mean state of each level, with probes
        the answers to them. Nothing that leaves a network's function alone moves it.
        """
        features, levels = self.run(networks)
        topology = features.topology
        ends = [(i, level.ends) for i, level in enumerate(levels) if level.ends is not None]
        parts = [at_outputs(topology, ends, self.outputs, self.width)]
        if self.probes is not None:
            parts.append(self.probes.at_outputs(topology, self.probes(features), self.outputs))
        if self.bidirectional:
            groups = kernels.pool_groups(topology, silu(self._states(topology, levels)))
            parts.append(
                level_means(
                    topology, groups, topology.group_level, self.levels, topology.group_size,
                    topology.group_graph,
                )
            )  # fmt: skip
        return torch.cat(parts, dim=-1)

    def forward(self, networks: Networks) -> Tensor:
        if self.answer is None:
            raise ValueError(
                "SymmetricNetwork was built with num_outputs=0 and has no read-out; ask for "
                "states(networks), or build it with the number of outputs."
            )
        read = (self.embed(networks) - self.mean) / self.deviation
        return cast(Tensor, self.answer(read))


def _cell(
    kind: str, layer: int, heard: int, size: int, functions: Sequence[str] | None, back: int
) -> Cell:
    make = CELLS[kind]
    chosen = functions or make.functions
    function = chosen[min(layer, len(chosen) - 1)]
    # Pre-activations w0 w x in the first layer of a trained SIREN reach some ten radians; slopes
    # and offsets of the first functions are spread over that range. With offsets near 0 they are
    # all steps at one place, and learning is several times slower.
    spread = (0.7 * heard**0.5, 6.0) if make.radians and layer == 0 else (1.0, 0.5)
    return make(heard, size, function, back, spread)


def _sines(topology: Topology) -> tuple[Tensor, Tensor]:
    """Return ``[N, 1]`` w0 of sine neurons, 1 at others, and whether a neuron is a hidden sine."""
    values = [a["w0"] if a.name == "sine" else 1.0 for a in topology.activations]
    kinds = [kind_of(activation) == "sine" for activation in topology.activations]
    device = topology.node_activation.device
    # In float64: w0 = 10.1 is not a float32, and sign flips must cancel to the last bits.
    frequency = torch.tensor(values, dtype=torch.float64, device=device)[topology.node_activation]
    sines = torch.tensor(kinds, device=device)[topology.node_activation]
    return frequency.unsqueeze(-1), (sines & (topology.node_role == 1)).unsqueeze(-1)
