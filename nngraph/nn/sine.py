"""A metanetwork that respects the whole symmetry of sine neurons: relabelling, sign and phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.graph.topology import Topology
from nngraph.nn.features import Features, Networks
from nngraph.nn.levels import at_inputs, at_outputs
from nngraph.nn.metanetwork import Column, Metanetwork, mlp
from nngraph.nn.probes import Probes
from nngraph.nn.scales import TensorScales

__all__ = ["FUNCTIONS", "SineNetwork", "sine_frequency"]


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


def sine_frequency(topology: Topology) -> Tensor:
    """Return ``[N, 1]``: w0 of each sine neuron, 1 at the others."""
    values = [a["w0"] if a.name == "sine" else 1.0 for a in topology.activations]
    # In float64: w0 = 10.1 is not a float32, and sign flips must cancel to the last bits.
    per_kind = torch.tensor(
        values, dtype=torch.float64, device=topology.node_activation.device
    )
    return per_kind[topology.node_activation].unsqueeze(-1)


class SineNetwork(Metanetwork):
    r"""Message passing on SIRENs, exactly invariant to relabelling, sign flips and phase steps.

    A pass in the order of computation, with the raw weights as its matrices. The state of a sine
    neuron i is split into odd and even parts, as
    :math:`\sin(u + b) = \sin u \cos b + \cos u \sin b` splits it, so that it carries exactly the
    sign that the neuron's outgoing weights carry:

    .. math::
        u_i &= A_l \sum_j w_0 w_{ij} h_j \\
        z_i &= \big[ (f_l(\beta_l + u_i) - f_l(\beta_l - u_i)) \cos w_0 b_i, \;
                     (f_l(\beta_l + u_i) + f_l(\beta_l - u_i)) \sin w_0 b_i \big] \\
        h_i &= O_l z_i

    :math:`A_l` and :math:`O_l` have no bias and :math:`f_l` is any pointwise function; h of an
    input neuron is its unit vector; an MLP reads :math:`\sum_j w_{ij} z_j` at the outputs, with
    their biases. Nothing of edge size but the weights is made, and every learned map is on neurons:
    the cost of a forward pass of the networks, times channels.

    One model serves any width and depth: a layer beyond ``architecture``'s depth takes the last
    maps.

    Args:
        channels: C_l of u; z has twice as many, odd and even. The last number serves deeper layers
            too.
        messages: channels of h.
        functions: names of :math:`f_l` in ``FUNCTIONS``; the last one serves deeper layers too.
            With ``"sine"`` a layer can come to evaluate the networks at points that it finds by
            itself: :meth:`probing` measures how far it has.
        probes: number of learned inputs at which the networks are run besides; 0 reads weights
            only.
        hidden, dropout: width of the MLP of the read-out, and dropout in it.

    Raises:
        ArchitectureError: if a hidden layer is not of sine neurons.

    Shape:
        networks -> ``[networks, num_outputs]``.
    """

    reads_signs = False

    def __init__(
        self,
        architecture: Architecture,
        num_outputs: int,
        channels: Sequence[int] = (96, 128),
        messages: int = 48,
        functions: Sequence[str] = ("tanh", "sine"),
        probes: int = 0,
        hidden: int = 384,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(architecture, num_outputs)
        _check_activations(architecture)
        if unknown := [name for name in functions if name not in FUNCTIONS]:
            raise ValueError(f"function {unknown[0]!r}; expected one of {', '.join(FUNCTIONS)}.")
        self.functions = tuple(functions)
        self.inputs, self.outputs = architecture.widths[0], architecture.widths[-1]
        self.scales = TensorScales(self.extent)
        # One set of maps per hidden layer, and at least two: those of the first, and of all deeper.
        depth = max(len(architecture.widths) - 2, 2)
        sizes = [channels[min(i, len(channels) - 1)] for i in range(depth)]
        self.maps_in = nn.ModuleList(
            nn.Linear(messages if i else self.inputs, size, bias=False)
            for i, size in enumerate(sizes)
        )
        # The last one serves deeper networks alone: outputs read the last layer whole.
        self.maps_out = nn.ModuleList(nn.Linear(2 * size, messages, bias=False) for size in sizes)
        self.shifts = nn.ParameterList(nn.Parameter(torch.empty(size)) for size in sizes)
        self.probes = Probes(architecture, probes) if probes else None
        # Without hidden layers the inputs' unit vectors are what reaches the outputs.
        self.width = 1 + max(2 * max(sizes), self.inputs)
        self.readout = mlp(
            [self.outputs * (self.width + probes), hidden, hidden, num_outputs], dropout
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draw maps and shifts.

        Pre-activations :math:`w_0 w x` in the first layer of a trained SIREN reach some ten
        radians; slopes and offsets of the first functions are spread over that range. With offsets
        near 0 they are all steps at one place, and learning is several times slower.
        """
        for i in range(len(self.shifts)):
            map_in = self.maps_in[i]
            assert isinstance(map_in, nn.Linear)
            nn.init.normal_(map_in.weight, 0, 0.7 if i == 0 else map_in.in_features**-0.5)
            nn.init.normal_(self.shifts[i], 0, 6.0 if i == 0 else 0.5)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "with probes" if self.probes is not None else "activation-structured weights-only"

    def forward(self, networks: Networks) -> Tensor:
        features = self.read(networks)
        topology = features.topology
        for architecture in dict.fromkeys(topology.architectures):
            _check_activations(architecture)
        weight, scaled_bias, phase = self._scaled(features)
        state = self._units(topology, weight)
        outputs = []
        for level, nodes in enumerate(topology.level_nodes[1:], start=1):
            if level in topology.output_rows:
                sums = kernels.propagate_level(topology, level, weight, state)
                outputs.append((level, torch.cat([kernels.take(scaled_bias, nodes), sums], dim=-1)))
            if level < len(topology.levels):
                message = state if level == 1 else self.maps_out[self._slot(level - 1)](state)
                sums = kernels.propagate_level(topology, level, weight, message)
                state = self._split(level, sums, kernels.take(phase, nodes))
        answers = [at_outputs(topology, outputs, self.outputs, self.width)]
        if self.probes is not None:
            answers.append(self.probes.at_outputs(topology, self.probes(features), self.outputs))
        return self.readout(torch.cat(answers, dim=-1))  # type: ignore[no-any-return]

    def _slot(self, level: int) -> int:
        """Return which maps serve the hidden layer at this level."""
        return min(level, len(self.shifts)) - 1

    def _scaled(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights in radians (at outputs: in their own scale), scaled biases, and phases."""
        topology = features.topology
        weight, bias = self.scales(features)
        frequency = sine_frequency(topology).to(features.x.dtype)
        to_hidden = (topology.node_role == 1).to(features.x.dtype).unsqueeze(-1)
        targets = torch.cat([frequency, to_hidden], dim=-1)
        per_edge, hidden = kernels.gather(topology, targets, "target").unbind(-1)
        radians = features.weight * per_edge
        return torch.lerp(weight, radians, hidden), bias, features.bias * frequency

    def _units(self, topology: Topology, like: Tensor) -> Tensor:
        units = torch.eye(self.inputs, dtype=like.dtype, device=like.device)
        return at_inputs(topology, units).expand(*like.shape[:-1], -1, -1)

    def _split(self, level: int, sums: Tensor, phase: Tensor) -> Tensor:
        """Return the odd and even parts of a layer's neurons, ``[*, n, 2 C_l]``."""
        slot = self._slot(level)
        function = FUNCTIONS[self.functions[min(level, len(self.functions)) - 1]]
        u, shift = self.maps_in[slot](sums), self.shifts[slot]
        plus, minus = function(shift + u), function(shift - u)
        return torch.cat([(plus - minus) * phase.cos(), (plus + minus) * phase.sin()], dim=-1)

    @torch.no_grad()
    def probing(self, networks: Networks, extent: float = 1.5, resolution: int = 61) -> Tensor:
        r"""Measure how far the second layer has come to evaluate the networks: R² per channel.

        If channel c of u in the second layer were the networks' own pre-activation at an input p,
        then what it hears of a neuron with incoming weights w and bias b, all in radians, would be
        the plane wave :math:`\alpha \sin(w \cdot p) \cos b + \gamma \cos(w \cdot p) \sin b`. For
        each channel the p of a grid and the :math:`\alpha, \gamma` that explain most are found; R²
        is the share of the variance over the neurons of ``networks`` that they explain. Near 1 the
        model probes, though it never runs a network.

        Args:
            networks: a stack of two inputs and two hidden layers or more.
            extent: the grid spans ``[-extent, extent]^2``, beyond the image's own ``[-1, 1]^2``.
            resolution: points of the grid along each axis.

        Returns:
            R² ``[C]``.

        Raises:
            ArchitectureError: if the networks have not two inputs and two hidden layers.
        """
        features = self.read(networks)
        topology = features.topology
        widths = topology.single.widths
        if widths[0] != 2 or len(widths) < 4:
            raise ArchitectureError(
                "probing is measured on networks of two inputs and two hidden layers; got "
                f"{widths}."
            )
        weight, _, phase = self._scaled(features)
        units = self._units(topology, weight)
        angle = kernels.take(phase, topology.level_nodes[1])
        sums = kernels.propagate_level(topology, 1, weight, units)
        heard = self.maps_in[1](self.maps_out[0](self._split(1, sums, angle)))
        rows, cos, sin = sums.reshape(-1, 2), angle.cos().reshape(-1), angle.sin().reshape(-1)
        heard = heard.reshape(len(rows), -1)
        axis = torch.linspace(-extent, extent, resolution, dtype=rows.dtype, device=rows.device)
        best = rows.new_zeros(heard.shape[1])
        for points in torch.split(torch.cartesian_prod(axis, axis), resolution):
            wave = rows @ points.mT
            odd, even = wave.sin() * cos[:, None], wave.cos() * sin[:, None]
            best = torch.maximum(best, _explained(odd, even, heard).amax(0))
        return best


def _explained(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    """Return R² ``[P, C]`` of least squares on two regressors ``[n, P]``, without a constant."""
    aa, bb, ab = (first * first).sum(0), (second * second).sum(0), (first * second).sum(0)
    at, bt = first.mT @ target, second.mT @ target
    determinant = (aa * bb - ab * ab).clamp(min=1e-12).unsqueeze(-1)
    aa, bb, ab = aa.unsqueeze(-1), bb.unsqueeze(-1), ab.unsqueeze(-1)
    fitted = bb * at * at - 2 * ab * at * bt + aa * bt * bt
    return fitted / determinant / (target * target).sum(0).clamp(min=1e-12)


def _check_activations(architecture: Architecture) -> None:
    for group in architecture.groups:
        if group.role == "hidden" and group.activation.name != "sine":
            raise ArchitectureError(
                f"SineNetwork reads networks of sine neurons; group {group.name!r} has activation "
                f"{group.activation}. Use MessagePassingNetwork for others."
            )
