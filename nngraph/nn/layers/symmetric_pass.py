"""Passes along the weights of networks that keep the whole symmetry of every neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Topology
from nngraph.nn.common.levels import at_inputs, by_output
from nngraph.nn.common.mlp import mlp
from nngraph.nn.common.scales import TensorScales
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.features import Features, SizeLimits
from nngraph.nn.layers.characters import characters_of, kinds_by_level
from nngraph.nn.layers.neurons import (
    FUNCTIONS,
    NEURON_LAYERS,
    ByKind,
    Kinds,
    NeuronLayer,
    PerChannel,
    Received,
    kind_of,
    kinds_of_level,
    put,
)

#: Of batch norms, as torch has it.
EPSILON = 1e-5


@dataclass
class LevelStates:
    """What the passes have found at the n neurons of a level.

    Attributes:
        kinds: of its hidden neurons.
        z: ``[*, n, 2 C]``, multiplied by their factor; ``free`` is multiplied by nothing.
        received: u and the bias of hidden neurons; ``None`` where there are none.
        backward: v, ``[*, n, M]``, what they received in the pass back, if there is one.
        ends: what its output neurons, if any, received, with their biases, ``[*, n, F + M]``.
    """

    kinds: Kinds
    z: Tensor
    free: Tensor
    received: Received | None = None
    backward: Tensor | None = None
    ends: Tensor | None = None


class SymmetricPass(nn.Module):
    r"""A pass in the order of computation, with the raw weights as its matrices, and one back.

    u, h, v and g are those of the :class:`~nngraph.nn.SymmetricNetwork`, with z and y of the
    :class:`~nngraph.nn.layers.neurons.NeuronLayer` of the neuron's kind, h of an input neuron its
    position, and g of an output neuron a function of what it received.

    In networks that are no chains the kinds are those of the neurons'
    :class:`~nngraph.nn.layers.characters.Characters`, and only tensors are read that are multiplied
    as these say. Kernels with taps pass messages by several learned sums of their taps, each for
    its share of the channels. Weights into a batch norm are divided by its deviation, as the norm
    divides.

    Args:
        kinds: of neurons that are served, keys of ``NEURON_LAYERS``.
        bidirectional: whether there is a pass back.
        channels: C_l of the layers; z has twice as many. The last number serves deeper layers too.
        messages: M, channels of h and g.
        functions: names of the functions by level ("tanh", "silu", "decaying", "sine"), for all
            kinds; ``None`` takes each kind's own. With ``"sine"`` on sine neurons a layer can come
            to evaluate the networks at points: see :func:`~nngraph.nn.plane_wave_r2`.
        max_levels: sets of maps at most.

    Attributes:
        rate: factor of the learning rate of all maps.

    Shape:
        features of any batch -> a :class:`LevelStates` for each level of neurons.
    """

    rate = 1.0

    def __init__(
        self, limits: SizeLimits, kinds: Sequence[str], bidirectional: bool = False,
        channels: Sequence[int] = (96, 128), messages: int = 96,
        functions: Sequence[str] | None = None, max_levels: int = 16,
    ) -> None:
        super().__init__()
        if unknown := [name for name in functions or () if name not in FUNCTIONS]:
            raise ValueError(f"function {unknown[0]!r}; expected one of {', '.join(FUNCTIONS)}.")
        check_sizes(messages=messages, max_levels=max_levels)
        self.kinds, self.messages, self.bidirectional = list(kinds), messages, bidirectional
        self.levels = min(limits.levels, max_levels)
        self.scales, self.chains = TensorScales(limits), limits.chains
        #: F, numbers of a neuron besides its sums
        self.columns = 1 if limits.chains else limits.columns
        width, back = min(limits.inputs, messages), messages if bidirectional else 0
        width = width if limits.chains else messages
        self.inputs = nn.Parameter(torch.eye(limits.inputs, width))
        if limits.inputs > messages:
            nn.init.orthogonal_(self.inputs)
        # One set of maps per hidden layer, and at least two: those of the first, and of all deeper.
        depth = min(max(limits.levels - 2, 2), max_levels)
        #: C of each set of maps
        self.sizes = [channels[min(i, len(channels) - 1)] for i in range(depth)]
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    kind: _layer(kind, i, messages if i else width, size, functions, back, limits)
                    for kind in self.kinds
                }
            )
            for i, size in enumerate(self.sizes)
        )
        self.maps_out = self.maps(2, messages)
        if bidirectional:
            self.start = mlp([self.columns + messages, 2 * messages, messages])
            self.output_position = nn.Parameter(torch.randn(limits.outputs, messages))
            self.maps_back = self.maps(2, messages)
        if not limits.chains:
            # Inputs of an MLP have no parameters; constants stand there elsewhere.
            self.first = nn.Linear(self.columns, messages, bias=False)
        if limits.taps > 1:
            shares = min(limits.taps, messages, 4)
            self.reads = nn.Parameter(torch.randn(limits.taps, shares))
            if bidirectional:
                self.reads_back = nn.Parameter(torch.randn(limits.taps, shares))

    def maps(self, parts: int, outputs: int, bias: bool = False) -> nn.ModuleList:
        """Return maps of ``parts`` times C_l features for each layer and kind, for :meth:`each`."""
        return nn.ModuleList(ByKind(self.kinds, parts * size, outputs, bias) for size in self.sizes)

    def each(self, maps: nn.ModuleList, level: int, kinds: Kinds, value: Tensor) -> Tensor:
        """Apply the maps of a level to the neurons of each kind."""
        return cast(Tensor, maps[self._slot(level)](kinds, value))

    def layer(self, level: int, kind: str) -> NeuronLayer:
        """Return the layer of the neurons of a kind at a level."""
        return cast(NeuronLayer, cast(nn.ModuleDict, self.layers[self._slot(level)])[kind])

    def _slot(self, level: int) -> int:
        return max(min(level, len(self.layers)) - 1, 0)

    def forward(self, features: Features) -> list[LevelStates]:
        topology = features.topology
        if self.chains and not topology.chains:
            raise ArchitectureError(
                "a network is no chain of affine maps; the model was built for chains alone. Build "
                "it with all architectures that it shall read."
            )
        if self.chains:
            radians, weight, bias = self._scaled(features)
            levels = self._forwards(topology, [radians], bias)
            if self.bidirectional:
                self._backwards(topology, [weight], levels)
            return levels
        taps, columns, free = self._read(features)
        levels = self._forwards(topology, self._weights(taps, "reads"), columns, free)
        if self.bidirectional:
            self._backwards(topology, self._weights(taps, "reads_back"), levels)
        return levels

    def _read(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights ``[*, E, taps]``, and of each neuron the columns that are multiplied as it
        is, ``[*, N, F]``, and those that are multiplied by nothing.
        """
        topology = features.topology
        characters = characters_of(topology)
        x, dtype = features.x, features.x.dtype
        live, normed = (v.to(dtype).unsqueeze(-1) for v in (characters.live, characters.normed))
        factor = kernels.gather(topology, live, "block")
        if bool(characters.normed.any()):
            variance = (x * characters.variance).sum(-1, keepdim=True)
            inverse = kernels.gather(topology, (variance.clamp(min=0) + EPSILON).rsqrt(), "target")
            of_edge = kernels.gather(topology, normed, "block")
            factor = factor * torch.lerp(torch.ones_like(inverse), inverse, of_edge)
        read = replace(features, edge_attr=features.edge_attr * factor)
        taps, columns = self.scales.all(read)
        holder, free = characters.holder, characters.free.to(dtype)
        missing = columns.shape[-1] - holder.shape[-1]
        holder, free = pad(holder, (0, missing), value=-1), pad(free, (0, missing))
        index = holder.clamp(min=0).expand(*columns.shape[:-2], -1, -1)
        return taps, columns.gather(-2, index) * (holder >= 0), columns * free

    def _weights(self, taps: Tensor, reads: str) -> list[Tensor]:
        """Return the weights of each share of the channels, ``[*, E]``."""
        if taps.shape[-1] == 1:
            return [taps[..., 0]]
        return list((taps @ getattr(self, reads)).unbind(-1))

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

    def _forwards(
        self, topology: Topology, weights: list[Tensor], columns: Tensor,
        free: Tensor | None = None,
    ) -> list[LevelStates]:  # fmt: skip
        levels: list[LevelStates] = []
        sent: list[Tensor] = []
        for number, here in enumerate(topology.levels):
            own = kernels.take(columns, here.nodes)
            level = LevelStates(self._known_kinds(topology, number), own, own)
            if number == 0:
                sums = self._positions(topology, own)
                level.z = level.free = sums
            else:
                sums = self._sums(topology, number, weights, levels, sent)
            if number in topology.output_levels:
                level.ends = torch.cat([own, pad(sums, (0, self.messages - sums.shape[-1]))], -1)
            if level.kinds:
                if number == 0:  # which nothing leads to
                    sums = torch.zeros_like(sums)
                given = None if free is None else kernels.take(free, here.nodes)
                level.received = Received(sums, own, given)
                self._make(number, level)
            levels.append(level)
            if not self.chains:
                sent.append(self._sent(number, level))
        return levels

    def _positions(self, topology: Topology, columns: Tensor) -> Tensor:
        """Return what the neurons of the first level start from."""
        positions = at_inputs(topology, self.inputs).expand(*columns.shape[:-2], -1, -1)
        if self.chains:
            return positions
        padded = pad(positions, (0, self.messages - positions.shape[-1]))
        return padded + self.first(columns)  # type: ignore[no-any-return]

    def _sent(self, number: int, level: LevelStates) -> Tensor:
        """Return h of a level of networks that are no chains."""
        if not level.kinds:
            shape = (*level.z.shape[:-1], self.messages)
            return level.z if number == 0 else level.z.new_zeros(shape)
        sent = self.each(self.maps_out, number, level.kinds, level.z)
        if number == 0:
            rows = torch.cat([rows for _, rows in level.kinds if rows is not None])
            sent = put(level.free, sent.index_select(-2, rows), rows)
        return sent

    def _sums(
        self, topology: Topology, number: int, weights: list[Tensor], levels: list[LevelStates],
        sent: list[Tensor],
    ) -> Tensor:  # fmt: skip
        """Return u of a level."""
        before = levels[-1]
        if not self.chains:
            return self._shared(topology, number, weights, sent, "target")
        (weight,) = weights
        if number == 1:
            return kernels.propagate_level(topology, 1, weight, before.z)
        sizes = [topology.levels[i].size for i in (number - 1, number)]
        if len(before.kinds) == 1 and before.kinds[0][1] is None and sizes[1] < sizes[0]:
            # One map for all: it is applied to the sums, of which there are fewer.
            sums = kernels.propagate_level(topology, number, weight, before.z)
            return self.each(self.maps_out, number - 1, before.kinds, sums)
        message = self.each(self.maps_out, number - 1, before.kinds, before.z)
        return kernels.propagate_level(topology, number, weight, message)

    @staticmethod
    def _shared(
        topology: Topology, number: int, weights: list[Tensor], sent: list[Tensor],
        to: Literal["source", "target"],
    ) -> Tensor:  # fmt: skip
        """Pass messages along the blocks of a level, each share of the channels by its weights."""
        shares = [torch.tensor_split(message, len(weights), dim=-1) for message in sent]
        sums = [
            kernels.propagate_level(topology, number, weight, [share[i] for share in shares], to)
            for i, weight in enumerate(weights)
        ]
        return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)

    def _make(self, number: int, level: LevelStates) -> None:
        """Let the neurons of a level make z, and what is multiplied by nothing."""
        assert level.received is not None
        channels = 2 * self.sizes[self._slot(number)]
        shape = (*level.received.bias.shape[:-1], channels)
        level.z = level.free = level.received.bias.new_zeros(shape)
        for kind, rows in level.kinds:
            z, free = self.layer(number, kind).forwards(level.received.at(rows))
            level.z, level.free = put(level.z, z, rows), put(level.free, free, rows)

    def _backwards(
        self, topology: Topology, weights: list[Tensor], levels: list[LevelStates]
    ) -> None:
        positions = by_output(topology, self.output_position)
        shapes = [(*level.z.shape[:-1], self.messages) for level in levels]
        backs = [level.z.new_zeros(shape) for level, shape in zip(levels, shapes, strict=True)]
        for number, level in reversed(list(enumerate(levels))):
            level.backward = backs[number]
            sent = torch.zeros_like(level.backward)
            rows = topology.levels[number].outputs
            if level.ends is not None and rows is not None:
                received = level.ends.index_select(-2, rows)
                here = kernels.take(positions, topology.levels[number].nodes)
                sent = put(sent, self.start(received) + here.index_select(-2, rows), rows)
            if level.kinds:
                y = self.of_layers(number, level, "backwards")
                sent = sent + self.each(self.maps_back, number, level.kinds, y)
            if number == 0:
                return
            # Of the level before, or of all before.
            every = [sent.new_zeros(0)] * number + [sent]
            found = self._shared(topology, number, weights, every, "source")
            first = 0 if topology.levels[number].skips else number - 1
            parts = torch.split(found, [shape[-2] for shape in shapes[first:number]], dim=-2)
            backs[first:number] = [
                back + part for back, part in zip(backs[first:number], parts, strict=True)
            ]

    def of_layers(
        self, number: int, level: LevelStates, what: Literal["backwards", "entries"]
    ) -> Tensor:
        """Return what the layers of a level make of all that its neurons received."""
        assert level.received is not None
        assert level.backward is not None
        made = torch.zeros_like(level.z)
        for kind, rows in level.kinds:
            backward = level.backward if rows is None else level.backward.index_select(-2, rows)
            make = getattr(self.layer(number, kind), what)
            made = put(made, make(level.received.at(rows), backward), rows)
        return made

    def _known_kinds(self, topology: Topology, level: int) -> Kinds:
        kinds: Kinds
        if self.chains:
            kinds = kinds_of_level(topology, level) if level else []
        else:
            kinds = [*kinds_by_level(topology)[level]]
        if unknown := [kind for kind, _ in kinds if kind not in self.kinds]:
            raise ArchitectureError(
                f"a network has {unknown[0]} neurons; the model was built for "
                f"{', '.join(self.kinds)} ones. Build it with all architectures that it shall "
                "read."
            )
        return kinds

    @staticmethod
    def is_input(topology: Topology) -> Tensor:
        """``[n, 1]`` which neurons of the first level are inputs."""
        return kernels.take(topology.nodes.role.unsqueeze(-1), topology.levels[0].nodes) == 0

    def read_by_next(self, level: LevelStates, number: int) -> Tensor:
        """Return what the next level's layers read of each neuron, linearly: ``[*, n, C]``."""
        message = self.each(self.maps_out, number, level.kinds, level.z)
        read = self.layer(number + 1, level.kinds[0][0]).read
        if isinstance(read, PerChannel):
            return cast(Tensor, read(message))
        return message @ cast(nn.Linear, read).weight[:, : message.shape[-1]].mT

    @torch.no_grad()
    def start_at_evaluation(self, points: Tensor | None = None, mix: bool = True) -> None:
        r"""Draw the maps so that u is the pre-activations of sine networks at C inputs.

        With offsets of :math:`\pi / 4`, :math:`\sin(\beta + u) \mp \sin(\beta - u)` are
        :math:`\sqrt 2 \sin u` and :math:`\sqrt 2 \cos u`, and the two halves of z add up to
        :math:`\sqrt 2 \sin(u + b)`. The inputs are ``points [C, d_0]``, by default uniform in
        ``[-0.9, 0.9]``. Without ``mix`` the maps between layers become :class:`PerChannel` ones.

        Raises:
            ValueError: if there are neurons of other kinds, other functions, or the sizes differ.
        """
        layers = [self.layer(i + 1, kind) for i in range(len(self.layers)) for kind in self.kinds]
        missing = []
        if self.kinds != ["sine"]:
            missing.append(f"networks of sine neurons alone, and these have {self.kinds}")
        if any(layer.function is not torch.sin for layer in layers):
            missing.append("functions=['sine']")
        if {*self.sizes} != {self.messages} or len(self.inputs) > self.messages:
            missing.append(
                f"as many channels in all layers as messages, from {len(self.inputs)}, such as "
                f"channels=[{self.messages}] (got {self.sizes})"
            )
        if missing:
            start = "evaluation" if points is None else "grid"
            raise ValueError(f"start={start!r} needs {'; and '.join(missing)}.")
        # Small steps, or what is received, of many radians in sums of many terms, is soon anything.
        self.rate = 0.1
        for i, layer in enumerate(layers):
            read = cast(nn.Linear, layer.read)
            layer.shift.fill_(torch.pi / 4)
            if i:
                nn.init.eye_(read.weight)
                if not mix:
                    layer.read = PerChannel(1, layer.channels)
            elif points is None:
                nn.init.uniform_(read.weight, -0.9, 0.9)
            else:
                # Of the learned positions of the inputs.
                read.weight.copy_(points @ torch.linalg.pinv(self.inputs).mT)
            maps = cast(ByKind, self.maps_out[i])
            if mix:
                out = torch.eye(layer.channels).repeat(1, 2)
            else:
                maps["sine"], out = PerChannel(2, layer.channels), torch.ones(2, layer.channels)
            cast(nn.Parameter, maps["sine"].weight).copy_(out / 2**0.5)


def _layer(
    kind: str, layer: int, received: int, size: int, functions: Sequence[str] | None, back: int,
    limits: SizeLimits,
) -> NeuronLayer:  # fmt: skip
    make = NEURON_LAYERS[kind]
    chosen = functions or make.functions
    function = chosen[min(layer, len(chosen) - 1)]
    # Pre-activations w0 w x in the first layer of a trained SIREN reach some ten radians; slopes
    # and offsets of the first functions are spread over that range. With offsets near 0 they are
    # all steps at one place, and learning is several times slower.
    spread = (0.7 * received**0.5, 6.0) if make.radians and layer == 0 else (1.0, 0.5)
    if limits.chains:
        return make(received, size, function, back, spread)
    columns = limits.columns
    return make(received, size, function, back, spread, columns=columns, given=columns)


def _sines(topology: Topology) -> tuple[Tensor, Tensor]:
    """Return ``[N, 1]`` w0 of sine neurons, 1 at others, and whether a neuron is a hidden sine."""
    kinds = [kind_of(activation) == "sine" for activation in topology.activations]
    values = [a["w0"] if sine else 1.0 for a, sine in zip(topology.activations, kinds, strict=True)]
    device = topology.nodes.activation.device
    # In float64: w0 = 10.1 is not a float32, and sign flips must cancel to the last bits.
    frequency = torch.tensor(values, dtype=torch.float64, device=device)[topology.nodes.activation]
    sines = torch.tensor(kinds, device=device)[topology.nodes.activation]
    return frequency.unsqueeze(-1), (sines & (topology.nodes.role == 1)).unsqueeze(-1)
