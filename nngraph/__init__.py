"""nngraph: neural networks as graphs, and models that read their weights.

The names below are imported when they are first used, so that ``import nngraph`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters import to_graph, to_module, to_state_dict
    from nngraph.datasets import NeuralGraphDataset
    from nngraph.graph import (
        Activation,
        Architecture,
        NeuralGraph,
        NeuralGraphStack,
        Symmetry,
        forward,
    )

__version__ = "0.1.0"

__all__ = [
    "Activation", "Architecture", "NeuralGraph", "NeuralGraphDataset", "NeuralGraphStack",
    "Symmetry", "forward", "to_graph", "to_module", "to_state_dict",
]

_HOME = {
    **dict.fromkeys(__all__, "nngraph.graph"),
    **dict.fromkeys(("to_graph", "to_module", "to_state_dict"), "converters"),
    "NeuralGraphDataset": "nngraph.datasets",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nngraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
