"""Primitives of edges, the neurons at their ends and their blocks: gather, reduce, propagate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.graph import Members, Topology
from nngraph.kernels.backends.choice import (
    REDUCTIONS,
    End,
    Reduction,
    Side,
    count_of,
    is_dense,
    kernel_of,
    known_side,
)
from nngraph.kernels.backends.reference import ends
from nngraph.kernels.modes import follows_operations
from nngraph.kernels.tiled import aggregated


def gather(topology: Topology, x: Tensor, side: Side, backend: str = "auto") -> Tensor:
    """Return for each edge the features of the neuron at that end, or of its block.

    ``[*, N, C]``, or ``[*, K, C]`` for K blocks, ``-> [*, E, C]``.
    """
    return kernel_of(topology, backend, "gather", x)(topology, x, known_side(side))


def reduce(
    topology: Topology, e: Tensor, side: Side, op: Reduction = "sum", backend: str = "auto"
) -> Tensor:
    r"""Reduce edge features to the neuron at that end, or to their block.

    ``[*, E, C] -> [*, N, C]``, or ``[*, K, C]`` for K blocks. ``op`` is ``"sum"``, ``"mean"``,
    ``"max"``, ``"min"`` or ``"std"``, the deviation :math:`\sqrt{\mathrm{mean}(e - \bar e)^2}` with
    a gradient of 0 where it is 0. A neuron with no such edge gets 0. Where several edges have the
    largest value, backends may hand its gradient to one or share it among them.
    """
    known_side(side)
    if op not in REDUCTIONS:
        raise ValueError(f"op is {op!r}; expected one of {', '.join(map(repr, REDUCTIONS))}.")
    if op in ("max", "min"):
        return kernel_of(topology, backend, "reduce_extreme", e)(topology, e, side, op)
    total = kernel_of(topology, backend, "reduce_sum", e)(topology, e, side)
    if op == "sum":
        return total
    count = count_of(topology, side).clamp(min=1).to(e.dtype).unsqueeze(-1)
    if op == "mean":
        return total / count
    apart = e - gather(topology, total / count, side, backend)
    variance = reduce(topology, apart.square(), side, "sum", backend) / count
    varies = variance > 0
    return variance.where(varies, torch.ones_like(variance)).sqrt() * varies


def aggregate(
    topology: Topology,
    e: Tensor,
    side: End,
    ops: Sequence[Reduction] = ("mean", "std", "max", "min"),
    backend: str = "auto",
) -> Tensor:
    """Return several reductions side by side: ``[*, E, C] -> [*, N, len(ops) * C]``.

    Each is that of :func:`reduce`; together they cost the backend ``"dense"`` less memory and time.
    """

    def plain(e: Tensor) -> Tensor:
        return torch.cat([reduce(topology, e, side, op, backend) for op in ops], dim=-1)

    known = {*ops} <= {*REDUCTIONS} and side in ("source", "target")
    if known and is_dense(topology, backend, e) and not follows_operations(e):
        count = count_of(topology, side).clamp(min=1).to(e.dtype).unsqueeze(-1)
        return aggregated.aggregate(plain, topology, e, side, tuple(ops), count)
    return plain(e)  # which refuses what is unknown


def softmax(topology: Topology, score: Tensor, side: Side, backend: str = "auto") -> Tensor:
    r"""Return :math:`\exp(s_{ij}) / \sum \exp(s)` over the edges that share an end or a block.

    ``[*, E, H] -> [*, E, H]``, each of the H heads on its own.
    """
    # Shifting a softmax changes nothing, so the shift has no gradient.
    peak = reduce(topology, score.detach(), side, "max", backend)
    weight = (score - gather(topology, peak, side, backend)).exp()
    total = reduce(topology, weight, side, "sum", backend)
    return weight / gather(topology, total, side, backend)


def attend(
    topology: Topology, e: Tensor, score: Tensor, side: Side, backend: str = "auto"
) -> Tensor:
    r"""Average edge features by the softmax of a score: :math:`\sum_j a_{ij} e_{ij}`.

    ``[*, E, C]`` and a score ``[*, E, H]``, one for each of H heads, which share the channels
    evenly, ``-> [*, N, C]``, 0 at neurons with no such edge; or ``[*, K, C]`` for blocks.
    """
    weight = softmax(topology, score, side, backend).unsqueeze(-1)
    values = torch.unflatten(e, -1, (score.shape[-1], -1)) * weight
    return reduce(topology, values.flatten(-2), side, "sum", backend)


def edge_affine(
    topology: Topology,
    e: Tensor | None,
    source: Tensor,
    target: Tensor,
    backend: str = "auto",
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Return :math:`\sigma(e_{ij} + s_j + t_i)` for each edge j -> i without gathered features.

    ``e`` ``[*, E, C]`` or ``None`` for 0; ``source``, ``target`` ``[*, N, C]``. With ``e``,
    ``source`` and ``target`` linear images of edge and node features this is a linear map of
    ``[x_src, x_dst, e]`` at the cost of one product per neuron instead of one per edge.
    """
    total = kernel_of(topology, backend, "edge_affine", source)(topology, e, source, target)
    return total if activation is None else activation(total)


def propagate(
    topology: Topology, weight: Tensor, x: Tensor, to: End = "target", backend: str = "auto"
) -> Tensor:
    r"""Pass node features along the edges with one scalar weight each: :math:`\sum_j w_{ij} x_j`.

    ``[*, E]`` and ``[*, N, C] -> [*, N, C]``, 0 at neurons that nothing reaches. ``to="source"``
    runs backwards, :math:`\sum_i w_{ij} x_i`.
    """
    return kernel_of(topology, backend, "propagate", x)(topology, weight, x, to)


def propagate_level(
    topology: Topology,
    level: int,
    weight: Tensor,
    x: Tensor | Sequence[Tensor],
    to: End = "target",
    backend: str = "auto",
) -> Tensor:
    r"""Pass the features of earlier neurons on to those of one level: :math:`\sum_j w_{ij} x_j`.

    Args:
        level: of the targets, from 1.
        weight: ``[*, E]``, of all edges.
        x: ``[*, n, C]``, features of the neurons ``topology.levels[l].nodes`` of every level l
            before; those of the last of them alone will do where no block skips a level.
        to: ``"source"`` runs backwards, :math:`\sum_i w_{ij} x_i`, from features of the level.

    Returns:
        ``[*, m, C]`` at the neurons ``topology.levels[level].nodes``; backwards at those of the
        level before, or, where blocks skip levels, of all levels before, one after another.

    Raises:
        InvalidGraphError: if the topology has no such level, or blocks skip levels and only the
            features of one are given.
    """
    last = len(topology.levels) - 1
    if not 1 <= level <= last:
        raise InvalidGraphError(
            f"level {level} was asked of a topology with {last}; expected 1 to "
            "that. An irregular graph has none."
        )
    skips = to == "target" and topology.levels[level].skips
    if skips and (isinstance(x, Tensor) or len(x) < level):
        raise InvalidGraphError(
            f"level {level} hears of neurons of other levels than the one before, as skip "
            f"connections make it; expected the features of all {level} levels before it."
        )
    if not isinstance(x, Tensor):
        last = level if to == "source" else level - 1
        x = torch.cat(list(x[:level]), dim=-2) if skips else x[last]
    return kernel_of(topology, backend, "propagate_level")(topology, level, weight, x, to)


def inner(
    topology: Topology, source: Tensor, target: Tensor, heads: int = 1, backend: str = "auto"
) -> Tensor:
    r"""Multiply features of the neurons at both ends of each edge: :math:`\sum_c s_{jc} t_{ic}`.

    A map of low rank from neurons to edges, and the score of an edge in attention. On blocks it is
    a matrix product, and nothing of edge size but the result is made.

    Args:
        source, target: s and t, ``[*, N, C]`` -> ``[*, E, H]``.
        heads: H shares of the channels, each summed by itself.
    """
    return kernel_of(topology, backend, "inner", source)(topology, source, target, heads)


def multiply_blocks(topology: Topology, e: Tensor, weight: Tensor, backend: str = "auto") -> Tensor:
    r"""Multiply each edge's features by the matrix of its block: :math:`\Theta_{k(e)} e`.

    ``[*, E, C]`` and a matrix for each block, ``[K, C_out, C]``, ``-> [*, E, C_out]``.
    """
    return kernel_of(topology, backend, "multiply_blocks")(topology, e, weight)


def normalise_blocks(
    topology: Topology,
    e: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    r"""Standardise each block of each network over its edges and channels, then scale and shift.

    .. math:: e'_{ij} = \gamma_k \frac{e_{ij} - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta_k

    with k the edge's block, and :math:`\mu_k`, :math:`\sigma_k` the mean and deviation of all its
    numbers: e ``[*, E, C]`` and :math:`\gamma`, :math:`\beta` ``[K, C]`` ``-> [*, E, C]``.
    """
    return kernel_of(topology, backend, "normalise_blocks")(topology, e, weight, bias, eps)


def edges_at(topology: Topology, side: Side) -> Members:
    """Return which neuron at that end each edge has, or which block it is in."""
    return Members(ends(topology, known_side(side))[0], count_of(topology, side))
