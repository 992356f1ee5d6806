"""Which backend serves a primitive, and what may be asked of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, get_args

from torch import Tensor

from nngraph.graph import Topology
from nngraph.kernels.backends import dense, reference, scatter

#: Which end of an edge: the neuron it leaves, or the one it enters.
End = Literal["source", "target"]
#: What edges are reduced to: the neurons at one of their ends, or their block.
Side = Literal["source", "target", "block"]
Reduction = Literal["sum", "mean", "max", "min", "std"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
BACKENDS: dict[str, ModuleType] = {"reference": reference, "scatter": scatter, "dense": dense}
#: Numbers at the edges of a bucket from which ``"auto"`` reads buckets one by one on a GPU. With
#: fewer what counts is how many kernels are started, and index tensors need fewest: on an H200 a
#: layer took 2.2 times as long by buckets with 1.5 million numbers in each, 5.8 times with 0.2
#: million, 1.3 times with 4 million (``benchmarks/primitives.py --device cuda``), and an update of
#: edges less time with 49 million (``benchmarks/gpu.py``).
GPU_BUCKET = 2**23
#: The backend that serves ``edge_update`` and nothing else.
TRITON = "triton"


def kernel_of(
    topology: Topology, backend: str, name: str, like: Tensor | None = None
) -> Callable[..., Tensor]:
    """Return the function of a name that a backend has; ``like`` as of :func:`is_dense`."""
    if backend == "auto":
        backend = "dense" if is_dense(topology, backend, like) else _of_indices()
    refuse_triton(backend, name)
    if backend not in BACKENDS:
        raise ValueError(
            f"backend is {backend!r}; expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )
    if backend == "scatter":
        scatter.torch_scatter()  # refuse also what reads edges without that package
    kernel: Callable[..., Tensor] = getattr(BACKENDS[backend], name)
    return kernel


def refuse_triton(backend: str, name: str) -> None:
    """Refuse the backend that serves ``edge_update`` alone."""
    if backend == TRITON:
        raise ValueError(
            f"the backend {TRITON!r} was asked for {name!r}, and serves edge_update alone; "
            f"expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )


def is_dense(topology: Topology, backend: str, like: Tensor | None = None) -> bool:
    """Whether blocks are read as dense arrays.

    Args:
        like: features ``[*, n, C]`` that are read or made with as many channels at every edge,
            where ``"auto"`` may choose by their size.
    """
    if backend != "auto":
        return backend == "dense"
    if topology.buckets is None:
        return False
    if like is None or not _counts_launches(like):
        return True
    return _numbers(topology, like) >= GPU_BUCKET * len(topology.buckets)


def _counts_launches(like: Tensor) -> bool:
    """Whether starting a kernel costs more than a small kernel itself."""
    return like.is_cuda


def _numbers(topology: Topology, like: Tensor) -> int:
    """Numbers of such features at all edges of all networks."""
    return topology.num_edges * like.shape[-1] * math.prod(like.shape[:-2])


@lru_cache(maxsize=1)
def _of_indices() -> str:
    return "scatter" if find_spec("torch_scatter") is not None else "reference"


def known_side(side: Side) -> Side:
    """Return a side that there is."""
    if side not in ("source", "target", "block"):
        raise ValueError(f"side is {side!r}; expected 'source', 'target' or 'block'.")
    return side


def count_of(topology: Topology, side: str) -> Tensor:
    """Number of edges of each neuron on one side, or of each block."""
    if side == "block":
        return topology.blocks.size
    return topology.nodes.in_degree if side == "target" else topology.nodes.out_degree
