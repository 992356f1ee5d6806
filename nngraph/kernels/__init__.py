"""The primitives that every layer stands on, behind one door: gather, reduce, pool, broadcast.

Functions of edges take the :class:`~nngraph.graph.Topology` first, then features ``[*, N, C]`` on
nodes or ``[*, E, C]`` on edges, with any leading shape, and ``backend=``:

- ``"reference"``: plain torch over the index tensors; the definition;
- ``"scatter"``: torch-scatter's kernels over the index tensors; needs that package;
- ``"dense"``: blocks as dense arrays: views, broadcasts, sums along an axis, matrix products;
- ``"auto"``: ``"dense"`` for networks; for an irregular graph, which has no blocks, and for small
  arrays on a GPU (:data:`~nngraph.kernels.backends.choice.GPU_BUCKET`), ``"scatter"`` where
  torch-scatter is installed and ``"reference"`` where it is not;
- ``"triton"``: :func:`edge_update` alone, on a CUDA device; needs that package. ``"auto"`` does not
  pick it yet: in large batches on an H200 it took between a third and three quarters of the time of
  ``"dense"`` and a third of its memory (``benchmarks/gpu.py``); small ones were not timed.

A backend that is named is used, or refused with an error; none replaces another silently.

Functions of sets of rows, as the neurons of groups are, take features and
:class:`~nngraph.graph.Members`: :func:`pool`, :func:`broadcast`, :func:`attend_members`,
:func:`quantiles`.
"""

from __future__ import annotations

from nngraph.kernels.backends.arrays import take
from nngraph.kernels.backends.choice import BACKENDS, REDUCTIONS, End, Reduction, Side
from nngraph.kernels.edges import (
    aggregate,
    attend,
    edge_affine,
    edges_at,
    gather,
    inner,
    multiply_blocks,
    normalise_blocks,
    propagate,
    propagate_level,
    reduce,
    softmax,
)
from nngraph.kernels.equivariant.dense_mixing import DenseMixing
from nngraph.kernels.equivariant.scatter_mixing import ScatterMixing
from nngraph.kernels.equivariant.terms import MixedTensor, PermuteIO, Terms, pool_globally
from nngraph.kernels.row_column import row_column_attention
from nngraph.kernels.sets import attend_members, broadcast, pool, quantile_ranks, quantiles
from nngraph.kernels.updates import (
    EdgeUpdate,
    StreamedUpdate,
    edge_update,
    map_edges,
    streamed_edge_means,
)

__all__ = [
    "BACKENDS", "REDUCTIONS", "DenseMixing", "EdgeUpdate", "End", "MixedTensor", "PermuteIO",
    "Reduction", "ScatterMixing", "Side", "StreamedUpdate", "Terms", "aggregate", "attend",
    "attend_members", "broadcast", "edge_affine", "edge_update", "edges_at", "gather", "inner",
    "map_edges", "multiply_blocks", "normalise_blocks", "pool", "pool_globally", "propagate",
    "propagate_level", "quantile_ranks", "quantiles", "reduce", "row_column_attention", "softmax",
    "streamed_edge_means", "take",
]
