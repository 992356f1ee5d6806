"""Networks to networks: a body that reads them, and an equivariant read-out that edits them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Architecture,
    NeuralGraphStack,
    forward,
    join_ensemble,
    run_ensemble,
    with_widths,
)
from nngraph.nn.features import Architectures, Networks, States, output_networks
from nngraph.nn.models.base import Access, Metanetwork, NetworkModel, StateNetwork
from nngraph.nn.models.registry import model_named
from nngraph.nn.readouts.readout import Readout, ReadoutOptions
from nngraph.nn.readouts.weights import WeightReadout


class AddedNeurons(nn.Module):
    r"""A network for each vector, whose hidden layers are learned and the same for all.

    .. math:: g_z(x) = V(z)\, a(W_{L-1} a( \cdots a(W_1 x + b_1))) + c(z)

    with linear V and c. Set beside the hidden layers of a network it adds capacity that the
    network's own neurons do not limit; run by itself, its hidden layers are evaluated once for all
    networks. V and c are 0 at the start.

    Args:
        architecture: a chain with a linear output, whose depth and activations it takes.
        context: length of z.
        width: of each hidden layer.

    Shape:
        z ``[B, context]`` -> a stack of B networks; :meth:`run` -> their outputs.

    Raises:
        ArchitectureError: if it has no hidden layers, or is no such chain.
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
            key, group = _key(parameter.name), parameter.axes[0]
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
                value = self.hidden[_key(parameter.name)]
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
            if (key := _key(parameter.name)) in self.outgoing
        }


def _key(name: str) -> str:
    return name.replace(".", "/")  # names of modules have no dots


class EditingNetwork(NetworkModel):
    r"""A model that edits networks: their weights, and neurons beside them.

    .. math::
        \theta'_1, \dots, \theta'_k = \mathrm{WeightReadout}(\mathrm{body}(\theta), z), \qquad
        f' = \tfrac1k \textstyle\sum_c f_{\theta'_c} + g_z, \qquad z = \mathrm{context}(\theta)

    Relabelling the neurons of a network relabels those of its edits, whose functions stay. With k >
    1 an edit is an average of networks, and with ``added`` there are :class:`AddedNeurons` g beside
    them (output-capacity expansion, both); still one network, which :meth:`edit` returns.

    A body that reads signs sees a network of sine neurons best in canonical form
    (:class:`nngraph.datasets.CanonicaliseSines`), which is the same function; its edits are then
    those of the canonical network.

    Args:
        body: the model that gives neurons their states; its own read-out is not used.
        context: what tells every neuron of the whole network: a model, whose answer is used, or the
            length of what a :class:`Readout` of the states tells; 0 for nothing.
        added: width of each hidden layer of the added neurons; 0 for none.
        readout: keyword arguments of the :class:`WeightReadout`, such as ``copies``.

    Shape:
        a stack of B networks, inputs ``[P, d_0]`` -> outputs of the edited networks
        ``[B, P, d_L]``; a list of stacks -> a list of those.

    Raises:
        ArchitectureError: if neurons are to be added to networks that are no MLPs.
        ValueError: if neurons are to be added without a context.

    Source:
        residual edits of weights as in NFN (Zhou et al., 2023); networks averaged in function space
        as in output-capacity expansion of graph metanetworks.

    Example:
        >>> from nngraph.nn import MessagePassingNetwork
        >>> from nngraph.testing import random_stack
        >>> architecture = Architecture.mlp([2, 5, 4, 1], "tanh")
        >>> networks = random_stack(architecture, 3, 0)
        >>> body = MessagePassingNetwork(architecture, 0, channels=8)
        >>> EditingNetwork(body, copies=2, added=6).double().edit(networks)
        NeuralGraphStack(3 x 2-16-14-1 tanh, torch.float64)
    """

    def __init__(
        self, body: StateNetwork, context: Metanetwork | int = 64, added: int = 0, **readout: Any
    ) -> None:
        super().__init__()
        sizes = body.limits, body.channels, body.edge_channels
        self.body = body
        self.context: Metanetwork | Readout | None
        if isinstance(context, Metanetwork):
            self.context, length = context, context.num_outputs
        else:
            length, options = context, ReadoutOptions(dropout=0.0)
            self.context = Readout(*sizes, context, options) if context else None
        vectors = body.equivariant_vectors
        self.readout = WeightReadout(*sizes, context=length, equivariant_vectors=vectors, **readout)
        if added and not length:
            raise ValueError(
                "added neurons were asked for without a context, from which their weights follow; "
                "expected context above 0."
            )
        self.added = AddedNeurons(body.architecture, length, added) if added else None
        # It may use what either of its parts may.
        parts = [part for part in (body, context) if isinstance(part, Metanetwork)]
        access = max((part.traits.access for part in parts), key=get_args(Access).index)
        self.traits = replace(body.traits, access=access)

    @classmethod
    def of(
        cls, architecture: Architectures, model: str = "message-passing",
        options: Mapping[str, Any] | None = None, context: str | int = 64,
        context_options: Mapping[str, Any] | None = None, added: int = 0, **readout: Any,
    ) -> EditingNetwork:
        """Build one on a body and a context by their names in ``nngraph.nn.MODELS``.

        Raises:
            ValueError: if there is no such model, or it has no states of neurons.
        """
        kind = model_named(model, StateNetwork)  # type: ignore[type-abstract]
        body = kind(architecture, 0, **(options or {}))
        if isinstance(context, int):
            return cls(body, context, added, **readout)
        chosen = model_named(context, Metanetwork)
        whole = chosen(architecture, **{"num_outputs": 64, **(context_options or {})})
        return cls(body, whole, added, **readout)

    def forward(
        self, networks: NeuralGraphStack | Sequence[NeuralGraphStack], inputs: Tensor
    ) -> Any:
        stacks = [networks] if isinstance(networks, NeuralGraphStack) else list(networks)
        given = stacks[0] if len(stacks) == 1 else stacks
        copies, context = self._copies(given)
        by_stack = [copies] if len(stacks) == 1 else list(zip(*copies, strict=True))
        outputs = [run_ensemble(copies_of_one, inputs) for copies_of_one in by_stack]
        if self.added is not None and context is not None:
            parts = torch.split(context, [len(stack) for stack in stacks])
            outputs = [
                out + self.added.run(part, inputs) for out, part in zip(outputs, parts, strict=True)
            ]
        return outputs[0] if isinstance(networks, NeuralGraphStack) else outputs

    def copies(self, networks: Networks) -> list[Any]:
        """Return k networks with edited weights for each, in the form they were given in."""
        return self._copies(networks)[0]

    def edit(self, networks: NeuralGraphStack) -> NeuralGraphStack:
        """Return one edited network for each; wider, where there are copies or added neurons.

        Raises:
            ArchitectureError: if it is to be wider, and they are no MLPs with a linear output.
        """
        copies, context = self._copies(networks)
        shares = [1 / len(copies)] * len(copies)
        if self.added is not None and context is not None:
            copies, shares = [*copies, self.added(context)], [*shares, 1.0]
        return copies[0] if len(copies) == 1 else join_ensemble(copies, shares)

    def _read(self, networks: Any) -> tuple[States, Tensor | None]:
        """Return the states of networks, and z ``[networks, context]``."""
        states = self.body.states(networks)
        if isinstance(self.context, Metanetwork):
            return states, self.context(networks)
        if self.context is not None:
            return states, self.context(states.topology, states.x, states.edge_attr)
        return states, None

    def _copies(self, networks: Any) -> tuple[list[Any], Tensor | None]:
        """Return k edited networks for each, and z."""
        states, context = self._read(networks)
        edited = [output_networks(new, networks) for new in self.readout(states, context)]
        return edited, context
