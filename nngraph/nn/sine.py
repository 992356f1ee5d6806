"""A metanetwork that respects the whole symmetry of sine neurons: relabelling, sign and phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nngraph import kernels
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.graph.topology import Nodes, Topology
from nngraph.nn.features import Networks, input_features
from nngraph.nn.metanetwork import Column, Metanetwork, TensorScales, at_inputs, at_outputs, mlp
from nngraph.nn.probes import Probes

__all__ = ["FUNCTIONS", "SineNetwork", "sine_frequency"]

#: Pointwise functions that the metanetwork itself may use.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "decaying": lambda u: (1 + u) * torch.exp(-0.5 * u * u),
    "sine": torch.sin,
}


def sine_frequency(topology: Topology) -> Tensor:
    """Return ``[N, 1]``: w0 of each sine neuron, 1 at the others."""
    values = [a["w0"] if a.name == "sine" else 1.0 for a in topology.activations]
    per_kind = torch.tensor(values, device=topology.node_activation.device)
    return per_kind[topology.node_activation].unsqueeze(-1)


class SineNetwork(Metanetwork):
    r"""Message passing on SIRENs that is exactly invariant to relabelling, sign flips and phase steps.

    A pass in the order of computation, with the raw weights as its matrices. The state of a sine
    neuron i is split into odd and even parts, as :math:`\sin(u + b) = \sin u \cos b + \cos u \sin b`
    splits it, so that it carries exactly the sign that the neuron's outgoing weights carry:

    .. math::
        u_i &= A_l \sum_j w_0 w_{ij} h_j \\
        h_i &= \big[ (f_l(\beta_l + u_i) - f_l(\beta_l - u_i)) \cos w_0 b_i, \;
                     (f_l(\beta_l + u_i) + f_l(\beta_l - u_i)) \sin w_0 b_i \big]

    :math:`A_l` has no bias, :math:`f_l` is any pointwise function, :math:`h` of an input neuron is its
    unit vector, and an MLP reads the sums that reach the outputs. Nothing of edge size but the weights is
    made; every learned map is on neurons. Products: one forward pass of the networks, times channels.

    Any width and depth: a layer beyond ``architecture``'s depth takes the last map.

    Args:
        channels: number C of channels; states have twice as many, odd and even.
        functions: names of :math:`f_l` in ``FUNCTIONS``; the last one serves deeper layers too. With ``"sine"`` a layer can come to
            evaluate the networks at points it finds by itself: :meth:`probing` measures it.
        probes: number of learned inputs at which the networks are run beside; 0 reads weights only.
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
        channels: int = 128,
        functions: Sequence[str] = ("tanh", "sine"),
        probes: int = 0,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(architecture, num_outputs)
        self._check(Topology.of(architecture))
        self.functions = tuple(functions)
        if unknown := [name for name in self.functions if name not in FUNCTIONS]:
            raise ValueError(f"function {unknown[0]!r}; expected one of {', '.join(FUNCTIONS)}.")
        self.inputs, self.outputs = architecture.widths[0], architecture.widths[-1]
        self.scales = TensorScales(architecture)
        # One map per hidden layer, and at least one for the layers of deeper networks.
        depth = max(len(architecture.widths) - 2, 2)
        self.maps = nn.ModuleList(
            nn.Linear(2 * channels if i else self.inputs, channels, bias=False)
            for i in range(depth)
        )
        self.shifts = nn.ParameterList(nn.Parameter(torch.empty(channels)) for _ in range(depth))
        self.probes = Probes(architecture, probes) if probes else None
        # Without hidden layers the inputs' unit vectors are what reaches the outputs.
        self.width = max(2 * channels, self.inputs)
        self.readout = mlp(
            [self.outputs * (self.width + 1 + probes), hidden, hidden, num_outputs], dropout
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draw the maps and shifts.

        First-layer pre-activations :math:`w_0 w x` of a trained SIREN reach some ten radians, so the
        slopes and offsets of the first functions are spread over that range: with offsets near 0,
        they are all steps at the same place, and learning is several times slower.
        """
        for i, (map_, shift) in enumerate(zip(self.maps, self.shifts, strict=True)):
            assert isinstance(map_, nn.Linear)
            nn.init.normal_(map_.weight, 0, 0.7 if i == 0 else map_.in_features**-0.5)
            nn.init.normal_(shift, 0, 6.0 if i == 0 else 0.5)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return "with probes" if self.probes is not None else "activation-structured weights-only"

    def _check(self, topology: Topology) -> None:
        for architecture in dict.fromkeys(topology.architectures):
            for group in architecture.groups:
                if group.role == "hidden" and group.activation.name != "sine":
                    raise ArchitectureError(
                        f"SineNetwork reads networks of sine neurons; group {group.name!r} has "
                        f"activation {group.activation}. Use MessagePassingNetwork for others."
                    )

    def forward(self, networks: Networks) -> Tensor:
        features = input_features(networks)
        topology = features.topology
        self._check(topology)
        dtype, lead = features.x.dtype, features.x.shape[:-2]
        scaled_weight, scaled_bias = self.scales(features)
        frequency = sine_frequency(topology).to(dtype)
        is_sine = (frequency != 1) | (topology.node_role == 1).unsqueeze(-1)
        weight = torch.where(
            is_sine[topology.target, 0],
            features.weight * frequency[topology.target, 0],
            scaled_weight,
        )
        phase = features.bias * frequency
        units = torch.eye(self.inputs, dtype=dtype, device=weight.device)
        state = at_inputs(topology, units, lead)
        outputs = []
        for depth, (level, nodes) in enumerate(
            zip(topology.levels, topology.level_nodes[1:], strict=True)
        ):
            sums = kernels.take(kernels.propagate(topology, weight, state, buckets=level), nodes)
            if depth + 1 in topology.output_levels:
                bias = kernels.take(scaled_bias, nodes)
                outputs.append((nodes, torch.cat([bias, sums], dim=-1)))
            if depth + 1 < len(topology.levels):
                state = kernels.place(topology, self._split(depth, sums, phase, nodes), nodes)
        answers = [at_outputs(topology, outputs, self.outputs, 1 + self.width)]
        if self.probes is not None:
            responses = kernels.take(self.probes(features), topology.output_nodes)
            answers.append(at_outputs(topology, [(topology.output_nodes, responses)], self.outputs))
        return self.readout(torch.cat(answers, dim=-1))  # type: ignore[no-any-return]

    def _split(self, depth: int, sums: Tensor, phase: Tensor, nodes: Nodes) -> Tensor:
        """Return the odd and even parts of a layer's neurons, ``[*, n, 2 C_l]``."""
        last = len(self.maps) - 1
        u = self.maps[min(depth, last)](sums)
        shift = self.shifts[min(depth, last)]
        function = FUNCTIONS[self.functions[min(depth, len(self.functions) - 1)]]
        plus, minus = function(shift + u), function(shift - u)
        angle = kernels.take(phase, nodes)
        return torch.cat([(plus - minus) * angle.cos(), (plus + minus) * angle.sin()], dim=-1)
