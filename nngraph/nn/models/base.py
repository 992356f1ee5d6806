"""What all metanetworks share: their face, and maps that they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import nn

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture
from nngraph.nn.common.extent import Extent
from nngraph.nn.features import Features, Fitted, Networks, input_features

__all__ = ["Column", "Metanetwork"]

#: What a model may use; results of different columns are never mixed in one comparison.
Column = Literal["generic weights-only", "activation-structured weights-only", "with probes"]


class Metanetwork(nn.Module, ABC):
    """A model that reads networks and answers for each of them.

    Called on a :class:`~nngraph.graph.NeuralGraphStack` or a list of some, on a PyG ``Batch`` of
    neural graphs, or on one graph; returns ``[networks, num_outputs]``.

    Args:
        architecture: the networks it is built for, one architecture or several: sizes of inputs and
            outputs and depth. Deeper and wider networks are read too, where a model says so.
        num_outputs: length of the answer.

    Raises:
        ArchitectureError: if an architecture is no chain of affine maps and the model reads no
            others (``chains_only``).
    """

    def __init__(
        self, architecture: Architecture | Sequence[Architecture], num_outputs: int
    ) -> None:
        super().__init__()
        several = [architecture] if isinstance(architecture, Architecture) else list(architecture)
        if not several:
            raise ArchitectureError("a metanetwork was given no architecture; expected one.")
        if self.chains_only and (other := [a for a in several if not a.is_chain]):
            raise ArchitectureError(
                f"{type(self).__name__} was given the architecture {other[0]}, whose blocks "
                "are not a chain; expected an MLP."
            )
        self.architecture = several[0]
        self.extent = Extent.of(several)
        self.num_outputs = num_outputs

    def read(self, networks: Networks) -> Features:
        """Bring networks to the features that a model works on.

        Raises:
            ArchitectureError: if one is no chain of affine maps and the model reads no others.
        """
        features = input_features(networks)
        if self.chains_only and not features.topology.chains:
            other = [a for a in features.topology.architectures if not a.is_chain]
            raise ArchitectureError(
                f"{type(self).__name__} was called on a network of the architecture "
                f"{other[0]}, which is not a chain; expected MLPs. MessagePassingNetwork "
                "reads others."
            )
        return features

    #: Whether it reads chains of affine maps alone.
    chains_only: ClassVar[bool] = True
    #: Whether it can be built for several architectures at once.
    many: ClassVar[bool] = True
    #: What it respects of what leaves the function of a network unchanged, in words.
    symmetry: ClassVar[str] = "relabelling"

    #: Whether it can be given a ``runner``, by which networks that are no chains are run at probes.
    takes_runner: ClassVar[bool] = False

    #: Whether relabelling the hidden neurons of a network leaves its answer as it is.
    invariant: bool = True
    #: Whether the answer changes with the signs and phases of sine neurons, so that a canonical
    #: form of them helps.
    reads_signs: ClassVar[bool] = True

    @property
    @abstractmethod
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""

    @property
    def bears_bfloat16(self) -> bool:
        """Whether eight bits of mantissa are enough; not where phases of tens of radians count."""
        return self.reads_signs and self.column != "with probes"

    def fit_statistics(self, networks: Networks) -> None:
        """Set the scales of the input features from training networks; call once, before training.

        Statistics are per tensor, never per entry: entries of a tensor trade places when neurons
        are relabelled.
        """
        for module in self.modules():
            if isinstance(module, Fitted):
                module.fit(networks)
