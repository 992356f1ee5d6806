"""Which backend serves a primitive, and what may be asked of one."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, get_args

from torch import Tensor

from nngraph.graph.topology import Topology
from nngraph.kernels import dense, reference, scatter

__all__ = [
    "BACKENDS",
    "REDUCTIONS",
    "TRITON",
    "End",
    "Reduction",
    "Side",
    "count_of",
    "is_dense",
    "kernel_of",
    "known_side",
    "refuse_triton",
]

#: Which end of an edge: the neuron it leaves, or the one it enters.
End = Literal["source", "target"]
#: What edges are reduced to: the neurons at one of their ends, or their block.
Side = Literal["source", "target", "block"]
Reduction = Literal["sum", "mean", "max", "min", "std"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "scatter": scatter,
    "dense": dense,
}
#: The backend that serves ``edge_update`` and nothing else.
TRITON = "triton"


def kernel_of(topology: Topology, backend: str, name: str) -> Any:
    """Return the function of a name that a backend has."""
    if backend == "auto":
        backend = "dense" if topology.buckets is not None else _of_irregular()
    refuse_triton(backend, name)
    if backend not in BACKENDS:
        raise ValueError(
            f"backend is {backend!r}; expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )
    return getattr(BACKENDS[backend], name)


def refuse_triton(backend: str, name: str) -> None:
    """Refuse the backend that serves ``edge_update`` alone."""
    if backend == TRITON:
        raise ValueError(
            f"the backend {TRITON!r} was asked for {name!r}, and serves edge_update alone; "
            f"expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )


def is_dense(topology: Topology, backend: str) -> bool:
    """Whether blocks are read as dense arrays."""
    return backend == "dense" or (backend == "auto" and topology.buckets is not None)


@lru_cache(maxsize=1)
def _of_irregular() -> str:
    return "scatter" if find_spec("torch_scatter") is not None else "reference"


def known_side(side: Side) -> Side:
    """Return a side that there is."""
    if side not in ("source", "target", "block"):
        raise ValueError(f"side is {side!r}; expected 'source', 'target' or 'block'.")
    return side


def count_of(topology: Topology, side: str) -> Tensor:
    """Number of edges of each neuron on one side, or of each block."""
    if side == "block":
        return topology.block_size
    return topology.in_degree if side == "target" else topology.out_degree
