r"""What one neuron makes of its messages, by the symmetry of its activation.

Besides being relabelled, a hidden neuron can be moved by a group of its own that leaves the
network's function alone: incoming weights and bias are multiplied by a factor :math:`\chi`, and
outgoing weights by a factor :math:`\omega^{-1}`:

- *homogeneous* (ReLU, leaky ReLU): :math:`\chi = \omega = q > 0`;
- *linear* (identity): :math:`\chi = \omega = q \neq 0`;
- *odd* (tanh): :math:`\chi = \omega = \pm 1`;
- *sine*: a sign s and k phase steps: :math:`\chi = s`, :math:`\omega = s (-1)^k`, and the phase
  itself goes to :math:`s \varphi + k \pi`;
- *free* (all others): :math:`\chi = \omega = 1`.

A pass that runs along the raw weights keeps the books: if what neurons send forward is multiplied
by their :math:`\omega`, then what a neuron hears, :math:`u_j = \sum_i w_{ji} h_i`, is multiplied by
its :math:`\chi`; if what they send backward is multiplied by :math:`\chi^{-1}`, then what a neuron
hears in the pass back, :math:`v_i = \sum_j w_{ji} g_j`, is multiplied by :math:`\omega^{-1}`, as
gradients are. So a backward pass needs no inverse of a weight. A layer has to make, of u, the bias
and v, things that are multiplied by :math:`\omega` (:meth:`NeuronLayer.forwards`), by
:math:`\chi^{-1}` (:meth:`NeuronLayer.backwards`), by :math:`\chi` (:meth:`NeuronLayer.entries`),
and by nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from nngraph.graph import Activation, Architecture, NeuronSymmetry, Topology
from nngraph.nn.layers.characters import kinds_of

#: Kinds of the hidden neurons of a level, each with which of its neurons; ``None`` for all.
Kinds = list[tuple[str, Tensor | None]]


def _decaying(u: Tensor) -> Tensor:
    # Beyond 8 the exponential is cut off: denormal numbers make products several times slower.
    return (1 + u) * torch.exp(-0.5 * (u * u).clamp(max=64))


#: Pointwise functions that the metanetwork itself may use.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "decaying": _decaying,
    "sine": torch.sin,
}


class Received(NamedTuple):
    r"""What neurons know going forward: sums u ``[*, n, M]``, multiplied by :math:`\chi`.

    The bias is in radians at sine neurons, in its tensor's scale at others. Where networks are no
    chains it is all that is multiplied so, ``[*, n, F]``, and ``free`` what is not at all.
    """

    sums: Tensor
    bias: Tensor
    free: Tensor | None = None

    def at(self, rows: Tensor | None) -> Received:
        """Return what some of the neurons know."""
        if rows is None:
            return self
        found = [None if value is None else value.index_select(-2, rows) for value in self]
        return Received(*found)  # type: ignore[arg-type]

    @property
    def known(self) -> Tensor:
        """All that is multiplied by the character, ``[*, n, M + F]``."""
        return torch.cat([self.sums, self.bias], dim=-1)


class NeuronLayer(nn.Module, ABC):
    """The maps of the neurons of one kind in one layer.

    Args:
        received: M, channels of u.
        channels: C; states have 2 C.
        function: name in ``FUNCTIONS``.
        back: M', channels of v; 0 where there is no backward pass.
        spread: of the slopes and offsets of the functions at the start.
        columns: F, numbers that are multiplied as the bias is; 1 for chains.
        given: numbers that are multiplied by nothing, by which functions are shifted; 0 for chains.

    Shape:
        u ``[*, n, M]``, bias ``[*, n, F]``, v ``[*, n, M']`` -> ``[*, n, 2 C]`` each.
    """

    #: Functions of the first and of deeper layers, where none are named.
    functions: ClassVar[tuple[str, str]]
    #: Whether slopes and offsets start over tens of radians in the first layer.
    radians: ClassVar[bool] = False
    #: Whether u and the bias are multiplied by the same, and read side by side.
    joint: ClassVar[bool] = True
    #: Whether there is a sign: functions are then taken at both, as odd and even parts.
    signed: ClassVar[bool] = False
    read: nn.Module

    def __init__(
        self, received: int, channels: int, function: str, back: int, spread: tuple[float, float],
        columns: int = 1, given: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.function = FUNCTIONS[function]
        self.channels, self.back, self.spread = channels, back, spread
        inputs = received + self.joint * columns
        self.read, self.shift = self._affine(inputs, channels * (1 + self.joint))
        if back:
            self.read_back, self.shift_back = self._affine(inputs + back, 2 * channels)
        if given:
            self.given = nn.Linear(given, channels * (1 + self.joint), bias=False)
            self.given_back = nn.Linear(given, 2 * channels, bias=False) if back else None

    def _affine(self, inputs: int, outputs: int) -> tuple[nn.Linear, nn.Parameter]:
        """Return a map without bias, and offsets to add and to subtract."""
        slope, offset = self.spread
        linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(linear.weight, 0, slope / inputs**0.5)
        return linear, nn.Parameter(torch.randn(outputs) * offset)

    def _shift(self, received: Received) -> Tensor:
        """Return the offsets of the functions going forward, with what neurons are given."""
        free = received.free
        return self.shift if free is None else self.shift + cast(Tensor, self.given(free))

    def _shift_back(self, received: Received) -> Tensor:
        """Return those of the pass back."""
        free, given = received.free, self.shift_back
        if free is None:
            return given
        return given + cast(Tensor, cast(nn.Linear, self.given_back)(free))

    def _parts(self, shift: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is multiplied as u is, by the sign at the most, and what by nothing."""
        plus = self.function(shift + u)
        if not self.signed:
            return plus, plus
        minus = self.function(shift - u)
        return plus - minus, plus + minus

    @abstractmethod
    def forwards(self, received: Received) -> tuple[Tensor, Tensor]:
        r"""Return what is multiplied by :math:`\omega`, and what by nothing."""

    @abstractmethod
    def backwards(self, received: Received, backward: Tensor) -> Tensor:
        r"""Return what is multiplied by :math:`\chi^{-1}`."""

    @abstractmethod
    def entries(self, received: Received, backward: Tensor) -> Tensor:
        r"""Return what is multiplied by :math:`\chi`, as incoming weights and biases are."""


class FreeNeurons(NeuronLayer):
    r"""A neuron of which nothing but relabelling is known: :math:`f(\beta + A [u, b])`."""

    functions = ("silu", "silu")

    def forwards(self, received: Received) -> tuple[Tensor, Tensor]:
        return self._parts(self._shift(received), self.read(received.known))

    def backwards(self, received: Received, backward: Tensor) -> Tensor:
        known = torch.cat([received.known, backward], dim=-1)
        return self._parts(self._shift_back(received), self.read_back(known))[0]

    entries = backwards


class OddNeurons(FreeNeurons):
    r"""A neuron with a sign: :math:`f(\beta + A [u, b]) - f(\beta - A [u, b])`.

    Nothing is multiplied by it in the sum of the two, the even part.
    """

    functions = ("tanh", "tanh")
    signed = True


class SineNeurons(NeuronLayer):
    r"""A neuron with a sign and a phase.

    Its states are split as :math:`\sin(u + b) = \sin u \cos b + \cos u \sin b` splits them:

    .. math::
        p, m = f(\beta \pm A u), \qquad z = [(p - m) \cos \varphi, (p + m) \sin \varphi]

    and nothing is multiplied in :math:`[(p - m) \sin 2 \varphi, p + m]`. In the pass back,
    :math:`v \cos \varphi` has the sign s alone, and :math:`v \sin \varphi` none.
    """

    functions = ("tanh", "sine")
    radians = True
    joint = False
    signed = True

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        if self.back:
            self.even_back = nn.Linear(self.back, 2 * self.channels, bias=False)

    def forwards(self, received: Received) -> tuple[Tensor, Tensor]:
        odd, even = self._parts(self.shift, self.read(received.sums))
        cos, sin = received.bias.cos(), received.bias.sin()
        return (
            torch.cat([odd * cos, even * sin], dim=-1),
            torch.cat([odd * (2 * sin * cos), even], dim=-1),
        )

    def backwards(self, received: Received, backward: Tensor) -> Tensor:
        signed = torch.cat([received.sums, backward * received.bias.cos()], dim=-1)
        shift = self.shift_back + self.even_back(backward * received.bias.sin())
        return self._parts(shift, self.read_back(signed))[0]

    entries = backwards


class HomogeneousNeurons(NeuronLayer):
    r"""A neuron with a positive scale.

    With r the root mean square of u and the bias,

    .. math::
        z = r f(\beta + A [u, b] / r), \qquad
        g = (B v) \odot f(\beta' + A' [u, b] / r + B' r v)

    Nothing is divided but by r, in what is of order 1, and nothing is multiplied in :math:`z / r`.
    """

    functions = ("silu", "silu")

    def __init__(self, *sizes: Any, **columns: Any) -> None:
        super().__init__(*sizes, **columns)
        if self.back:
            self.linear_back = nn.Linear(self.back, 2 * self.channels, bias=False)

    @staticmethod
    def _scale(received: Received) -> tuple[Tensor, Tensor]:
        """Return r, and u and the bias over it; both 0 for a neuron that hears nothing."""
        known = received.known
        power = known.square().mean(-1, keepdim=True)
        # The root of 0 has no gradient, and 0 / 0 no value.
        some = power > 0
        size = power.where(some, torch.ones_like(power)).sqrt()
        return size * some, known / size

    def forwards(self, received: Received) -> tuple[Tensor, Tensor]:
        size, direction = self._scale(received)
        own, free = self._parts(self._shift(received), self.read(direction))
        return size * own, free

    def _back(self, received: Received, backward: Tensor) -> tuple[Tensor, Tensor]:
        size, direction = self._scale(received)
        known = self.read_back(torch.cat([direction, size * backward], dim=-1))
        own, free = self._parts(self._shift_back(received), known)
        return size * own, free

    def backwards(self, received: Received, backward: Tensor) -> Tensor:
        return self.linear_back(backward) * self._back(received, backward)[1]  # type: ignore[no-any-return]

    def entries(self, received: Received, backward: Tensor) -> Tensor:
        return self._back(received, backward)[0]


class LinearNeurons(HomogeneousNeurons):
    r"""A neuron with a scale of either sign.

    As :class:`HomogeneousNeurons`, whose direction :math:`d = [u, b] / r` now has the sign of the
    scale, and so has r v:

    .. math::
        p, m = f(\beta \pm A d), \quad z = r (p - m), \qquad
        p', m' = f(\beta' \pm (A' d + B' r v)), \quad g = (B v) \odot (p' + m')

    Nothing is multiplied in the even parts.
    """

    signed = True


#: Kind of neuron -> what its neurons make of their messages.
NEURON_LAYERS: dict[str, type[NeuronLayer]] = {
    "free": FreeNeurons,
    "homogeneous": HomogeneousNeurons,
    "odd": OddNeurons,
    "sine": SineNeurons,
    "linear": LinearNeurons,
}
#: Kind of the neurons of each symmetry.
_KINDS: dict[NeuronSymmetry, str] = {
    "none": "free",
    "positive_scale": "homogeneous",
    "sign": "odd",
    "phase": "sine",
    "any_scale": "linear",
}


def kind_of(activation: Activation) -> str:
    """Return the kind of neurons with an activation."""
    return _KINDS[activation.symmetry]


def hidden_kinds(architectures: Sequence[Architecture]) -> list[str]:
    """Return the kinds of hidden neurons in architectures, in the order of ``NEURON_LAYERS``.

    Of chains alone they are those of activations; with others beside, those of characters.
    """
    if all(architecture.is_chain for architecture in architectures):
        found = {
            kind_of(group.activation)
            for architecture in architectures
            for group in architecture.groups
            if group.role == "hidden"
        }
    else:
        found = {kind for architecture in architectures for kind in kinds_of(architecture)}
    return [kind for kind in NEURON_LAYERS if kind in found]


def kinds_of_level(topology: Topology, level: int) -> Kinds:
    """Return the kinds of a level's hidden neurons; none where all are outputs."""
    here = topology.levels[level]
    activations, outputs, size = here.activations, here.outputs, here.size
    if outputs is not None and len(outputs) == size:
        return []
    kinds = list(dict.fromkeys(kind_of(activation) for activation, _ in activations))
    if len(kinds) == 1 and outputs is None:
        return [(kinds[0], None)]
    own = torch.zeros(size, dtype=torch.long, device=topology.nodes.role.device)
    for activation, rows in activations:
        number = kinds.index(kind_of(activation))
        own = own.fill_(number) if rows is None else own.index_fill_(0, rows, number)
    if outputs is not None:
        own.index_fill_(0, outputs, -1)
    found = [(kind, (own == i).nonzero().flatten()) for i, kind in enumerate(kinds)]
    return [(kind, rows) for kind, rows in found if len(rows)]


def put(out: Tensor, value: Tensor, rows: Tensor | None) -> Tensor:
    """Return ``out`` with some rows replaced; ``None`` stands for all of them."""
    return value if rows is None else out.index_copy(-2, rows, value.to(out.dtype))


class ByKind(nn.ModuleDict):
    """A linear map for each kind of neurons, 0 at those of none; without a bias unless asked."""

    def __init__(self, kinds: Sequence[str], inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__({kind: nn.Linear(inputs, outputs, bias) for kind in kinds})
        self.outputs = outputs

    def forward(self, kinds: Kinds, value: Tensor) -> Tensor:
        out = value.new_zeros(())
        if not kinds or kinds[0][1] is not None:
            out = value.new_zeros(*value.shape[:-1], self.outputs)
        for kind, rows in kinds:
            own = value if rows is None else value.index_select(-2, rows)
            out = put(out, cast(Tensor, self[kind](own)), rows)
        return out


class PerChannel(nn.Module):
    r"""A map by which no channel hears of another: :math:`y_c = \sum_p w_{pc} x_{pc}`.

    Shape:
        ``[*, P * C]``, part by part -> ``[*, C]``.
    """

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(parts, channels))

    def forward(self, value: Tensor) -> Tensor:
        parts = value.chunk(len(self.weight), dim=-1)
        out = parts[0] * self.weight[0]
        for part, weight in zip(parts[1:], self.weight[1:], strict=True):
            out = torch.addcmul(out, part, weight)
        return out
