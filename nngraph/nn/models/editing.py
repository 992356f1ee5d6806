"""Networks to networks: a body that reads them, and an equivariant read-out that edits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from nngraph.graph import NeuralGraphStack, join_ensemble, run_ensemble
from nngraph.nn.features import Architectures, Networks, States, output_networks
from nngraph.nn.models.added_neurons import AddedNeurons
from nngraph.nn.models.base import Access, Metanetwork, NetworkModel
from nngraph.nn.models.registry import model_named
from nngraph.nn.models.states import StateNetwork
from nngraph.nn.readouts.readout import Readout, ReadoutOptions
from nngraph.nn.readouts.weights import WeightReadout


class EditingNetwork(NetworkModel):
    r"""A model that edits networks: their weights, and neurons beside them.

    .. math::
        \theta'_1, \dots, \theta'_k = \mathrm{WeightReadout}(\mathrm{body}(\theta), z), \qquad
        f' = \tfrac1k \textstyle\sum_c f_{\theta'_c} + g_z, \qquad z = \mathrm{context}(\theta)

    Relabelling the neurons of a network relabels those of its edits, and leaves their functions as
    they are. With k > 1 an edit is an average of networks, and with ``added`` there are
    :class:`AddedNeurons` g beside them (output-capacity expansion, both); it is still one network,
    with wider hidden layers, and :meth:`edit` returns that.

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
        self.readout = WeightReadout(
            *sizes, context=length, equivariant_vectors=vectors, **readout
        )
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
        cls,
        architecture: Architectures,
        model: str = "message-passing",
        options: Mapping[str, Any] | None = None,
        context: str | int = 64,
        context_options: Mapping[str, Any] | None = None,
        added: int = 0,
        **readout: Any,
    ) -> EditingNetwork:
        """Build one on models by their names in ``nngraph.nn.MODELS``.

        Args:
            architecture: of the networks.
            model, options: the body.
            context, context_options: the model of the context, or its length.
            added: as above.
            readout: keyword arguments of the :class:`WeightReadout`.

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
        states, context = self._read(given)
        copies = self._copies(given, states, context)
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
        return self._copies(networks, *self._read(networks))

    def edit(self, networks: NeuralGraphStack) -> NeuralGraphStack:
        """Return one edited network for each; wider, where there are copies or added neurons.

        Raises:
            ArchitectureError: if it is to be wider, and the networks are no MLPs with a linear
                output.
        """
        states, context = self._read(networks)
        copies = self._copies(networks, states, context)
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

    def _copies(self, networks: Any, states: States, context: Tensor | None) -> list[Any]:
        return [output_networks(new, networks) for new in self.readout(states, context)]
