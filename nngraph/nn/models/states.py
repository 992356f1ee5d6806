"""Models that give a state to every neuron and every weight, and read their answers off these."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from nngraph.nn.features import Architectures, Networks, States
from nngraph.nn.models.base import Metanetwork
from nngraph.nn.readouts.readout import Readout, ReadoutOptions

_ALL = ReadoutOptions()
_Options = TypeVar("_Options")


def options_of(
    kind: type[_Options], given: _Options | Mapping[str, Any] | None, **defaults: Any
) -> _Options:
    """Return options of a part; what plain data, such as JSON, does not name has the defaults.

    Raises:
        TypeError: if the plain data names an option that there is not.
    """
    return given if isinstance(given, kind) else kind(**{**defaults, **(given or {})})  # type: ignore[dict-item]


class StateNetwork(Metanetwork):
    """A metanetwork whose answer is read off states of neurons and weights, which commute.

    Relabelling the neurons of a network relabels its states. The states alone are what editing,
    matching and read-outs of one's own take: ``num_outputs=0`` builds no read-out.

    Attributes:
        equivariant_vectors: K of the states' equivariant vectors, 0 where they have none.

    Args:
        channels, edge_channels: C and C_e of the states that :meth:`states` returns; C_e is 0 where
            it returns none.
        readout: what the :class:`~nngraph.nn.Readout` reads; ``None`` where a model makes its own,
            later, from more than states.
    """

    equivariant_vectors: int = 0

    def __init__(
        self,
        architecture: Architectures,
        num_outputs: int,
        channels: int,
        edge_channels: int,
        readout: ReadoutOptions | None = _ALL,
    ) -> None:
        super().__init__(architecture, num_outputs)
        self.channels, self.edge_channels = channels, edge_channels
        self.readout: nn.Module | None = None
        if num_outputs and readout is not None:
            self.readout = self.make_readout(readout)

    def make_readout(self, options: ReadoutOptions) -> nn.Module:
        """Return what makes answers of states, ``(topology, x, edge_attr) -> answers``."""
        sizes = self.channels, self.edge_channels, self.num_outputs
        return Readout(self.limits, *sizes, options)

    @abstractmethod
    def states(self, networks: Networks) -> States:
        """Return the states of the networks' neurons and weights."""

    def embed(self, networks: Networks) -> Tensor:
        """Return what the MLP of the read-out reads, ``[networks, D]``: the networks as vectors.

        The same for relabelled networks, as the states commute. D is ``readout.size``.

        Raises:
            ValueError: if the model has no read-out, or another than a
                :class:`~nngraph.nn.Readout`.
        """
        readout, states = self.pooling_readout(), self.states(networks)
        return readout.pooled(states.topology, states.x, states.edge_attr)

    def forward(self, networks: Networks) -> Tensor:
        readout, states = self.needed_readout(), self.states(networks)
        return readout(states.topology, states.x, states.edge_attr)  # type: ignore[no-any-return]

    def needed_readout(self) -> nn.Module:
        """Return the read-out, or refuse where the model was built without one."""
        if self.readout is None:
            raise ValueError(
                f"{type(self).__name__} was built with num_outputs=0 and has no read-out; ask for "
                "states(networks), or build it with the number of outputs."
            )
        return self.readout

    def pooling_readout(self) -> Readout:
        """Return the read-out that pools states to one vector per network, or refuse."""
        readout = self.needed_readout()
        if not isinstance(readout, Readout):
            raise ValueError(
                f"the read-out of {type(self).__name__} is a {type(readout).__name__}, which makes "
                "no vectors of networks; pool its states(networks)."
            )
        return readout
