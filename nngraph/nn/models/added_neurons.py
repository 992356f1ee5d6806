"""Hidden neurons that a model adds to the networks it edits, the same for all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack, forward, with_widths


class AddedNeurons(nn.Module):
    r"""A network for each vector, whose hidden layers are learned and the same for all.

    .. math:: g_z(x) = V(z)\, a(W_{L-1} a( \cdots a(W_1 x + b_1))) + c(z)

    with linear V and c. Set beside the hidden layers of a network it adds capacity that the
    network's own neurons do not limit; run by itself, its hidden layers are evaluated once for all
    networks. V and c are 0 at the start.

    Args:
        architecture: a chain of affine maps with a linear output, whose depth and activations it
            takes.
        context: length of z.
        width: of each hidden layer.

    Shape:
        z ``[B, context]`` -> a stack of B networks; :meth:`run` -> their outputs.

    Raises:
        ArchitectureError: if the architecture has no hidden layers, or is no such chain.
    """

    def __init__(self, architecture: Architecture, context: int, width: int) -> None:
        super().__init__()
        groups, last = architecture.groups, len(architecture.groups) - 1
        ends = groups[0].size, groups[-1].size
        wide = with_widths(architecture, [ends[0], *[width] * (last - 1), ends[1]])
        if wide is None or last < 2 or groups[-1].activation.name != "identity":
            raise ArchitectureError(
                f"neurons cannot be added to networks of {architecture}; expected a chain of "
                "affine maps with hidden layers and a linear output."
            )
        self.architecture = wide
        self.context = context
        self.hidden = nn.ParameterDict()
        self.outgoing = nn.ModuleDict()
        for parameter in wide.parameters:
            key = parameter.name.replace(".", "/")
            group = parameter.axes[0]
            assert group is not None
            if group == last:
                self.outgoing[key] = nn.Linear(context, parameter.numel)
                for value in self.outgoing[key].parameters():
                    nn.init.zeros_(value)
                continue
            # As SIRENs start: phases spread over the inputs, then pre-activations of variance 1.
            fan_in = wide.widths[group - 1]
            frequency = abs(dict(groups[group].activation.options).get("w0", 1.0)) or 1.0
            bound = 1 / fan_in if group == 1 else math.sqrt(6 / fan_in) / frequency
            self.hidden[key] = nn.Parameter(torch.empty(parameter.shape).uniform_(-bound, bound))

    def forward(self, context: Tensor) -> NeuralGraphStack:
        values = self._outgoing(context)
        for parameter in self.architecture.parameters:
            if parameter.name not in values:
                value = self.hidden[parameter.name.replace(".", "/")]
                values[parameter.name] = value.expand(len(context), *parameter.shape)
        return NeuralGraphStack.from_parameters(self.architecture, values)

    def run(self, context: Tensor, inputs: Tensor) -> Tensor:
        """Return the outputs ``[B, P, d_L]`` at inputs ``[P, d_0]``, hidden layers run once."""
        # Those of one network, whichever it is: its outputs are not used.
        one = self(context[:1])
        start, stop = self.architecture.node_starts[-3:-1]
        seen = forward(one, inputs, return_activations=True)[0, :, start:stop]
        values = self._outgoing(context)
        outputs = seen @ values.pop(self.architecture.blocks[-1].parameter.name).mT
        for bias in values.values():  # where there is one
            outputs = outputs + bias.unsqueeze(1)
        return outputs

    def _outgoing(self, context: Tensor) -> dict[str, Tensor]:
        """Return weights ``[B, d_L, width]`` and biases ``[B, d_L]`` of the outputs, by name."""
        return {
            parameter.name: self.outgoing[key](context).reshape(len(context), *parameter.shape)
            for parameter in self.architecture.parameters
            if (key := parameter.name.replace(".", "/")) in self.outgoing
        }
