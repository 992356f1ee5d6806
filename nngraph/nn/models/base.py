"""What all metanetworks share: their face, traits by which they are told apart, and states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.nn.common.sizes import check_sizes
from nngraph.nn.features import (
    Architectures,
    Features,
    Fitted,
    Networks,
    SizeLimits,
    States,
    input_features,
    several,
)
from nngraph.nn.readouts.readout import Readout, ReadoutOptions

#: What a model may use; models that may use different things are never mixed in one comparison.
Access = Literal["generic weights-only", "activation-structured weights-only", "with probes"]


@dataclass(frozen=True)
class Traits:
    """What is true of a model whatever the networks; a model made around another one has its own.

    Attributes:
        access: what it may use of the networks.
        symmetry: what it respects of what leaves the function of a network unchanged, in words.
        invariant: whether relabelling the hidden neurons of a network leaves its answer as it is.
        reads_signs: whether the answer changes with the signs and phases of sine neurons, so that a
            canonical form of them helps.
        chains_only: whether it reads chains of affine maps alone.
        many: whether it can be built for several architectures at once.
        takes_runner: whether it can be given a ``runner`` for networks that are no chains.
    """

    access: Access = "generic weights-only"
    symmetry: str = "relabelling"
    invariant: bool = True
    reads_signs: bool = True
    chains_only: bool = False
    many: bool = True
    takes_runner: bool = False

    @property
    def bears_bfloat16(self) -> bool:
        """Whether eight bits of mantissa are enough; not where phases of tens of radians count."""
        return self.reads_signs and self.access != "with probes"

    def changed(self, probes: int = 0, breaks_symmetry: bool = False) -> Traits:
        """Return those of a model that runs the networks besides, or tells their neurons apart."""
        return replace(
            self,
            access="with probes" if probes else self.access,
            invariant=self.invariant and not breaks_symmetry,
        )


class NetworkModel(nn.Module):
    """A model called on networks: a metanetwork, or one around it; options may change traits."""

    traits: Traits = Traits()

    def fit_statistics(self, networks: Networks) -> None:
        """Set the scales of the input features from training networks; call once, before training.

        Statistics are per tensor, since relabelling exchanges entries of a tensor.
        """
        # Parts before what is made of them.
        for module in reversed(list(self.modules())):
            if isinstance(module, Fitted):
                module.fit(networks)


def traits_of(model: nn.Module) -> Traits:
    """Return the traits of a model, also of one that is wrapped for several processes."""
    return cast(Traits, model.traits)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Judge a model, in evaluation mode and without gradients; its mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class Metanetwork(NetworkModel, ABC):
    """A model that reads networks and answers for each of them.

    Called on a :class:`~nngraph.graph.NeuralGraphStack` or a list of some, on a PyG ``Batch`` of
    neural graphs, or on one graph; returns ``[networks, num_outputs]``.

    Args:
        architecture: the networks it is built for, one architecture or several: sizes of inputs and
            outputs and depth. Deeper and wider networks are read too, where a model says so.
        num_outputs: length of the answer.

    Raises:
        ArchitectureError: if the model reads chains of affine maps alone, and one is none.
    """

    def __init__(self, architecture: Architectures, num_outputs: int) -> None:
        super().__init__()
        check_sizes(0, num_outputs=num_outputs)
        #: those that it was built for
        self.architectures = several(architecture)
        if not self.architectures:
            raise ArchitectureError("a metanetwork was given no architecture; expected one.")
        if self.traits.chains_only and (other := [a for a in self.architectures if not a.is_chain]):
            raise ArchitectureError(
                f"{type(self).__name__} was given the architecture {other[0]}, whose blocks "
                "are not a chain; expected an MLP."
            )
        self.architecture = self.architectures[0]
        self.limits = SizeLimits.of(self.architectures)
        self.num_outputs = num_outputs

    def read(self, networks: Networks) -> Features:
        """Bring networks to the features that a model works on, or refuse those it cannot read."""
        features = input_features(networks)
        if self.traits.chains_only and not features.topology.chains:
            other = [a for a in features.topology.architectures if not a.is_chain]
            raise ArchitectureError(
                f"{type(self).__name__} was called on a network of the architecture "
                f"{other[0]}, which is not a chain; expected MLPs. MessagePassingNetwork "
                "reads others."
            )
        x, own = features.x, next((p.dtype for p in self.parameters()), None)
        if own not in (None, x.dtype) and not torch.is_autocast_enabled(x.device.type):
            raise InvalidGraphError(
                f"{type(self).__name__} has parameters of {own}, and was called on networks of "
                f"{x.dtype}; convert one of them, for instance by networks.to({own})."
            )
        return features


_ALL = ReadoutOptions()
_Options = TypeVar("_Options")


def options_of(
    kind: type[_Options], given: _Options | Mapping[str, Any] | None, **defaults: Any
) -> _Options:
    """Return options of a part; what plain data, such as JSON, does not name has the defaults."""
    return given if isinstance(given, kind) else kind(**{**defaults, **(given or {})})  # type: ignore[dict-item]


class StateNetwork(Metanetwork):
    """A metanetwork whose answer is read off states of neurons and weights, which commute.

    Relabelling the neurons of a network relabels its states. The states alone are what editing,
    matching and read-outs of one's own take: ``num_outputs=0`` builds no read-out.

    Attributes:
        equivariant_vectors: K of the states' equivariant vectors, 0 where they have none.
        extra: numbers per network that the read-out is told besides the states.

    Args:
        channels, edge_channels: C and C_e of :meth:`states`; C_e is 0 where it gives none.
        readout: what the :class:`~nngraph.nn.Readout` reads; ``None`` where a model makes its own,
            later, from more than states.
    """

    equivariant_vectors: int = 0
    extra: int = 0

    def __init__(
        self,
        architecture: Architectures,
        num_outputs: int,
        channels: int,
        edge_channels: int,
        readout: ReadoutOptions | None = _ALL,
    ) -> None:
        super().__init__(architecture, num_outputs)
        check_sizes(channels=channels)
        check_sizes(0, edge_channels=edge_channels)
        self.channels, self.edge_channels = channels, edge_channels
        self.readout: nn.Module | None = None
        if num_outputs and readout is not None:
            self.readout = self.make_readout(readout)

    def make_readout(self, options: ReadoutOptions) -> nn.Module:
        """Return what makes answers of states, ``(topology, x, edge_attr) -> answers``."""
        sizes = self.channels, self.edge_channels, self.num_outputs
        return Readout(self.limits, *sizes, options, self.extra)

    @abstractmethod
    def states(self, networks: Networks) -> States:
        """Return the states of the networks' neurons and weights."""

    def embed(self, networks: Networks) -> Tensor:
        """Return what the MLP of the read-out reads, ``[networks, D]``: the networks as vectors.

        The same for relabelled networks, as the states commute. D is ``readout.size``. A
        ValueError if there is no read-out, or another than a :class:`~nngraph.nn.Readout`.
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
