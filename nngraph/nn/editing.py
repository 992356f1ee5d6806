"""Networks to networks: a body that reads them, and an equivariant read-out that edits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nngraph.graph import Architecture, NeuralGraphStack, join_copies
from nngraph.nn.features import Features, Networks, output_networks
from nngraph.nn.metanetwork import Column
from nngraph.nn.states import StateNetwork
from nngraph.nn.weight_readout import WeightReadout

__all__ = ["EditingNetwork"]


class EditingNetwork(nn.Module):
    r"""A model that returns networks: k of the same architecture for each one that it reads.

    .. math:: \theta'_1, \dots, \theta'_k = \theta + \mathrm{WeightReadout}(\mathrm{body}(\theta))

    Relabelling the neurons of a network relabels those of its edits. With k > 1 the edit is the
    average :math:`\frac1k \sum_c f_{\theta'_c}` (output-capacity expansion), which is itself one
    network, k times as wide: :meth:`edit` returns that.

    A body that reads signs sees a network of sine neurons best in canonical form
    (:class:`nngraph.datasets.CanonicaliseSines`), which is the same function; its edits are then
    those of the canonical network.

    Args:
        body: the model that reads; its own read-out is not used.
        readout: keyword arguments of the :class:`WeightReadout`, such as ``copies``.

    Shape:
        a stack, a PyG batch, a graph or :class:`Features` -> k of the same kind.

    Source:
        residual edits of weights as in NFN (Zhou et al., 2023); several networks averaged in
        function space as in output-capacity expansion of graph metanetworks.

    Example:
        >>> from nngraph.nn import MessagePassingNetwork
        >>> from nngraph.testing import random_stack
        >>> architecture = Architecture.mlp([2, 5, 4, 1], "tanh")
        >>> networks = random_stack(architecture, 3, 0)
        >>> body = MessagePassingNetwork(architecture, 0, channels=8)
        >>> EditingNetwork(body.double(), copies=2).double().edit(networks)
        NeuralGraphStack(3 x 2-10-8-1 tanh, torch.float64)
    """

    def __init__(self, body: StateNetwork, **readout: Any) -> None:
        super().__init__()
        self.body = body
        self.readout = WeightReadout(body.extent, body.channels, body.edge_channels, **readout)

    @classmethod
    def of(
        cls,
        architecture: Architecture | Sequence[Architecture],
        model: str = "message-passing",
        options: Mapping[str, Any] | None = None,
        **readout: Any,
    ) -> EditingNetwork:
        """Build one on a model by its name in ``nngraph.nn.MODELS``.

        Args:
            architecture, options: of the model.
            readout: keyword arguments of the :class:`WeightReadout`.

        Raises:
            ValueError: if there is no such model, or it has no states of neurons.
        """
        from nngraph.nn import MODELS

        built = MODELS.get(model)
        if built is None or not issubclass(built, StateNetwork):
            known = [name for name, kind in MODELS.items() if issubclass(kind, StateNetwork)]
            raise ValueError(
                f"model {model!r} gives no states of neurons to read weights off; expected one of "
                f"{', '.join(map(repr, known))}."
            )
        return cls(built(architecture, 0, **(options or {})), **readout)

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return self.body.column

    @property
    def reads_signs(self) -> bool:
        """Whether the edits change with the signs and phases of sine neurons."""
        return self.body.reads_signs

    def fit_statistics(self, networks: Networks) -> None:
        """Set the scales of inputs and edits from training networks; call once, before training."""
        self.body.fit_statistics(networks)
        self.readout.scales.fit(networks)

    def forward(self, networks: Networks) -> list[Any]:
        edited: list[Features] = self.readout(self.body.states(networks))
        return [output_networks(features, networks) for features in edited]

    def edit(self, networks: NeuralGraphStack) -> NeuralGraphStack:
        """Return one edited network for each: where there are copies, the one that averages them.

        Raises:
            ArchitectureError: if there are copies, and the networks are no MLPs with a linear
                output.
        """
        return join_copies(self(networks))
