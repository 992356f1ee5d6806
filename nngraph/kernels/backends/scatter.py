"""The primitives on torch-scatter's kernels over index tensors: any graph, edges in any order."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from nngraph.errors import MissingDependencyError
from nngraph.graph import Topology
from nngraph.kernels.backends import reference
from nngraph.kernels.backends.reference import ends, heard_levels


def torch_scatter() -> ModuleType:
    """Return the package, or raise a MissingDependencyError."""
    try:
        import torch_scatter as package
    except ImportError as error:
        raise MissingDependencyError(
            "the backend 'scatter' needs torch-scatter, which is not installed. Install it with "
            "`pip install --no-build-isolation torch-scatter`, or use the backend 'dense'."
        ) from error
    return package  # type: ignore[no-any-return]


def sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the sum of the rows that share an index, ``size`` rows in all."""
    total: Tensor = torch_scatter().scatter(values, index, dim=-2, dim_size=size, reduce="sum")
    return total


@torch.library.custom_op("nngraph::scatter_place", mutates_args=())
def _place(values: Tensor, index: Tensor, size: int, op: str) -> Tensor:
    """Row of the largest or smallest value of each channel among those that share an index.

    An operator of its own, since ``torch.compile`` cannot look into torch-scatter's.
    """
    kernel = getattr(torch_scatter(), f"scatter_{op}")
    place: Tensor = kernel(values, index, dim=-2, dim_size=size)[1]
    return place


@_place.register_fake
def _(values: Tensor, index: Tensor, size: int, op: str) -> Tensor:
    shape = (*values.shape[:-2], size, values.shape[-1])
    return values.new_empty(shape, dtype=torch.long)


gather, edge_affine, inner = reference.gather, reference.edge_affine, reference.inner
reduce_sum = partial(reference.reduce_sum, total=sum_by)
normalise_blocks = partial(reference.normalise_blocks, total=sum_by)
propagate = partial(reference.propagate, total=sum_by)


def reduce_extreme(topology: Topology, e: Tensor, side: str, op: str) -> Tensor:
    index, size = ends(topology, side)
    if not e.numel():
        return e.new_zeros(*e.shape[:-2], size, e.shape[-1])
    # Its place is what the kernel is asked for: reading it is differentiable to any order, which
    # the kernel is not.
    place = _place(e.detach(), index, size, op)
    reached = place < e.shape[-2]
    found = e.gather(-2, place.where(reached, torch.zeros_like(place)))
    return found.where(reached, torch.zeros_like(found))


def multiply_blocks(topology: Topology, e: Tensor, weight: Tensor) -> Tensor:
    """The edges of a block lie together."""
    parts = torch.split(e, topology.blocks.size.tolist(), dim=-2)
    products = [part @ matrix.mT for part, matrix in zip(parts, weight, strict=True)]
    return torch.cat(products, dim=-2) if products else e.new_zeros(*e.shape[:-1], weight.shape[1])


def propagate_level(topology: Topology, level: int, weight: Tensor, x: Tensor, to: str) -> Tensor:
    """``x`` is that of the levels it hears of."""
    edges = (topology.blocks.level == level)[topology.edge_block].nonzero().flatten()
    here = sum(topology.levels[before].size for before in range(level))
    received = sum(topology.levels[before].size for before in heard_levels(topology, level))
    before = topology.nodes.level_order[topology.source[edges]] - (here - received)
    after = topology.nodes.level_order[topology.target[edges]] - here
    size = topology.levels[level].size
    sending, receiving, size = (
        (before, after, size) if to == "target" else (after, before, received)
    )
    messages = weight.index_select(-1, edges).unsqueeze(-1) * x.index_select(-2, sending)
    return sum_by(messages, receiving, size)
