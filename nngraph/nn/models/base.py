"""What all metanetworks share: their face, and the traits by which they are told apart."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

from nngraph.errors import ArchitectureError
from nngraph.nn.features import (
    Architectures,
    Features,
    Fitted,
    Networks,
    SizeLimits,
    input_features,
    several,
)

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
        takes_runner: whether it can be given a ``runner``, by which networks that are no chains are
            run at probes.
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
    """A model that is called on networks: a metanetwork, or one made around it.

    Attributes:
        traits: of its class; an instance may have others, by its options.
    """

    traits: Traits = Traits()

    def fit_statistics(self, networks: Networks) -> None:
        """Set the scales of the input features from training networks; call once, before training.

        Statistics are per tensor, never per entry: entries of a tensor trade places when neurons
        are relabelled.
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
        ArchitectureError: if an architecture is no chain of affine maps and the model reads no
            others.
    """

    def __init__(self, architecture: Architectures, num_outputs: int) -> None:
        super().__init__()
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
        return features
