"""States of neurons and weights: what models make of the networks that they read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nngraph.graph import Topology
from nngraph.nn.features import Features


@dataclass(frozen=True)
class States:
    """What a model has made of networks.

    Attributes:
        features: the networks as they were read; edges stand in the order of its topology.
        x: states of neurons ``[*, N, C]``.
        edge_attr: states of weights ``[*, E, C_e]``; ``None`` where a model keeps none.
        equivariant_vectors: of a model whose states stay as they are when a neuron is rescaled, or
            its sign or phase is changed: features ``[*, N, K]`` that are multiplied as the neuron's
            incoming weights are, and ``[*, N, K]`` as its outgoing ones. What is to be weights is
            made of these. ``None`` of models that know relabelling alone.
    """

    features: Features
    x: Tensor
    edge_attr: Tensor | None = None
    equivariant_vectors: tuple[Tensor, Tensor] | None = None

    @property
    def topology(self) -> Topology:
        """Of the networks."""
        return self.features.topology
