"""How large the networks are that a model is built for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nngraph.graph import Architecture, Topology

#: What a model is built for.
Architectures: TypeAlias = Architecture | Sequence[Architecture]


def several(architectures: Architectures) -> list[Architecture]:
    """Return one architecture or several as a list."""
    return [architectures] if isinstance(architectures, Architecture) else list(architectures)



@dataclass(frozen=True)
class SizeLimits:
    """The most of what a model meets in the networks it is built for.

    Attributes:
        inputs, outputs: neurons of the largest first group, and of all outputs.
        levels: of neurons.
        columns, taps: features of nodes and of edges.
        chains: whether all are chains of affine maps.
    """

    inputs: int
    outputs: int
    levels: int
    columns: int
    taps: int
    chains: bool

    @classmethod
    def of(cls, architectures: Sequence[Architecture]) -> SizeLimits:
        """Take the most of several architectures."""
        topologies = [Topology.of(a) for a in architectures]
        return cls(
            max(t.max_inputs for t in topologies),
            max(t.max_outputs for t in topologies),
            max(len(t.levels) for t in topologies),
            max(len(a.column_names) for a in architectures),
            max(a.num_taps for a in architectures),
            all(a.is_chain for a in architectures),
        )
