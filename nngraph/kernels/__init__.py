"""The primitives that every layer stands on, behind one door: gather, reduce, pool, broadcast.

Every function takes the :class:`~nngraph.graph.topology.Topology` first, then features
``[*, N, C]`` on nodes or ``[*, E, C]`` on edges, with any leading shape, and ``backend=``:

- ``"reference"``: plain torch over the index tensors; the definition;
- ``"scatter"``: torch-scatter's kernels over the index tensors; needs that package;
- ``"dense"``: blocks as dense arrays: views, broadcasts, sums along an axis, matrix products;
- ``"auto"``: ``"dense"`` for networks; for an irregular graph, which has no blocks, ``"scatter"``
  where torch-scatter is installed and ``"reference"`` where it is not;
- ``"triton"``: :func:`edge_update` alone, on a CUDA device; needs that package. ``"auto"`` does not
  pick it: it has not been timed on a GPU.

A backend that is named is used, or refused with an error; none replaces another silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from nngraph.errors import InvalidGraphError
from nngraph.graph.topology import Nodes, Topology
from nngraph.kernels import (
    aggregated,
    crossing,
    dense,
    fused,
    mapped,
    reference,
    scatter,
    sets,
    streamed,
    triton_edges,
)
from nngraph.kernels.mapped import EdgeFunction, To
from nngraph.kernels.modes import follows_operations
from nngraph.kernels.streamed import StreamedUpdate

__all__ = [
    "BACKENDS",
    "REDUCTIONS",
    "EdgeUpdate",
    "End",
    "Side",
    "StreamedUpdate",
    "aggregate",
    "attend",
    "attend_crossing",
    "attend_graphs",
    "edge_affine",
    "edge_update",
    "gather",
    "inner",
    "map_edges",
    "multiply_blocks",
    "normalise_blocks",
    "pool_blocks",
    "pool_graphs",
    "pool_groups",
    "propagate",
    "propagate_level",
    "quantiles",
    "quantiles_of_groups",
    "reduce",
    "softmax",
    "spread_blocks",
    "spread_graphs",
    "spread_groups",
    "streamed_edge_means",
    "take",
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
#: The backend that serves :func:`edge_update` and nothing else.
_TRITON = "triton"


class EdgeUpdate(NamedTuple):
    """What :func:`edge_update` returns.

    Attributes:
        edges: e', ``[*, E, C]``.
        incoming, outgoing: its means over the edges into and out of each neuron, ``[*, N, C]``; 0
            at neurons without such an edge.
        blocks: its means over each block, ``[*, K, C]``.
    """

    edges: Tensor
    incoming: Tensor
    outgoing: Tensor
    blocks: Tensor


def _kernel(topology: Topology, backend: str, name: str) -> Any:
    if backend == "auto":
        backend = "dense" if topology.buckets is not None else _of_irregular()
    _refuse_triton(backend, name)
    if backend not in BACKENDS:
        raise ValueError(
            f"backend is {backend!r}; expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )
    return getattr(BACKENDS[backend], name)


def _refuse_triton(backend: str, name: str) -> None:
    if backend == _TRITON:
        raise ValueError(
            f"the backend {_TRITON!r} was asked for {name!r}, and serves edge_update alone; "
            f"expected one of 'auto', {', '.join(map(repr, BACKENDS))}."
        )


def _is_dense(topology: Topology, backend: str) -> bool:
    return backend == "dense" or (backend == "auto" and topology.buckets is not None)


@lru_cache(maxsize=1)
def _of_irregular() -> str:
    return "scatter" if find_spec("torch_scatter") is not None else "reference"


def gather(topology: Topology, x: Tensor, side: Side, backend: str = "auto") -> Tensor:
    """Return for each edge the features of the neuron at that end, or of its block.

    ``[*, N, C]``, or ``[*, K, C]`` for K blocks, ``-> [*, E, C]``.
    """
    return cast(Tensor, _kernel(topology, backend, "gather")(topology, x, _known(side)))


def reduce(
    topology: Topology, e: Tensor, side: Side, op: Reduction = "sum", backend: str = "auto"
) -> Tensor:
    r"""Reduce edge features to the neuron at that end, or to their block.

    ``[*, E, C] -> [*, N, C]``, or ``[*, K, C]`` for K blocks. ``op`` is ``"sum"``, ``"mean"``,
    ``"max"``, ``"min"`` or ``"std"``, the deviation :math:`\sqrt{\mathrm{mean}(e - \bar e)^2}` with
    a gradient of 0 where it is 0. A neuron with no such edge gets 0. Where several edges have the
    largest value, backends may hand its gradient to one or share it among them.
    """
    _known(side)
    if op not in REDUCTIONS:
        raise ValueError(f"op is {op!r}; expected one of {', '.join(map(repr, REDUCTIONS))}.")
    side = _known(side)
    if op in ("max", "min"):
        return cast(Tensor, _kernel(topology, backend, "reduce_extreme")(topology, e, side, op))
    total = cast(Tensor, _kernel(topology, backend, "reduce_sum")(topology, e, side))
    if op == "sum":
        return total
    count = _count(topology, side).clamp(min=1).to(e.dtype).unsqueeze(-1)
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

    if _is_dense(topology, backend) and not follows_operations(e):
        known = [op for op in ops if op in REDUCTIONS]
        if len(known) == len(ops) and side in ("source", "target"):
            count = _count(topology, side).clamp(min=1).to(e.dtype).unsqueeze(-1)
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

    Args:
        e: ``[*, E, C]``.
        score: ``[*, E, H]``, one for each of H heads, which share the channels evenly.

    Returns:
        ``[*, N, C]``, or ``[*, K, C]`` for blocks; 0 at neurons with no such edge.
    """
    weight = softmax(topology, score, side, backend).unsqueeze(-1)
    values = torch.unflatten(e, -1, (score.shape[-1], -1)) * weight
    return reduce(topology, values.flatten(-2), side, "sum", backend)


def attend_crossing(
    topology: Topology,
    edges: Tensor,
    nodes: Tensor,
    keys: int,
    heads: int = 1,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attend among the rows and columns of weights, and biases, that meet at a group of neurons.

    At a group of d neurons, the tokens are the columns of the weights into it, the rows of the
    weights out of it, and its own features: each has a vector at every neuron n of the group. With
    queries and keys of c channels and values, for each head,

    .. math::
        a_{ts} = \mathrm{softmax}_s \Big(\tfrac{1}{\sqrt{d c}} \sum_n q_{tn} \cdot k_{sn}\Big),
        \qquad y_{tn} = \sum_s a_{ts} v_{sn}

    The parts of a grouped block meet others at their own share of a group.

    Args:
        edges, nodes: q, k and v of weights, ``[*, E, 2 D + C]``, and of neurons, ``[*, N, 2 D +
            C]``. Each of the three is split evenly among heads.
        keys: D, channels of the queries, and of the keys. Few will do: a key has them at each of
            d neurons.
        backend: ``"dense"``, ``"reference"`` or ``"auto"``, which is the first.

    Returns:
        y of each weight as part of a column (at its target's group), ``[*, E, C]``; as part of a
        row (at its source's); and of each neuron, ``[*, N, C]``.

    Raises:
        InvalidGraphError: if the graph is irregular.
        ValueError: if heads do not divide C and D, or the backend is another.
    """
    kernel = {"auto": crossing.dense, "dense": crossing.dense, "reference": crossing.reference}
    if backend not in kernel:
        raise ValueError(
            f"the backend {backend!r} was asked for 'attend_crossing'; expected 'auto', 'dense' or "
            "'reference'."
        )
    channels = edges.shape[-1] - 2 * keys
    fits = channels > 0 and keys > 0 and edges.shape[-1] == nodes.shape[-1]
    if heads < 1 or not fits or keys % heads or channels % heads:
        raise ValueError(
            f"edges and nodes have {edges.shape[-1]} and {nodes.shape[-1]} channels; expected "
            f"2 * {keys} of queries and keys and some of values, shared evenly by {heads} heads."
        )
    return kernel[backend](topology, edges, nodes, keys, heads)


def _known(side: Side) -> Side:
    if side not in ("source", "target", "block"):
        raise ValueError(f"side is {side!r}; expected 'source', 'target' or 'block'.")
    return side


def _count(topology: Topology, side: str) -> Tensor:
    """Number of edges of each neuron on one side, or of each block."""
    if side == "block":
        return topology.block_size
    return topology.in_degree if side == "target" else topology.out_degree


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
    kernel = _kernel(topology, backend, "edge_affine")
    total = cast(Tensor, kernel(topology, e, source, target))
    return total if activation is None else activation(total)


def edge_update(
    topology: Topology,
    e: Tensor,
    weight: Tensor,
    source: Tensor,
    target: Tensor,
    block: Tensor | None = None,
    normalise: bool = True,
    recompute: bool = False,
    backend: str = "auto",
) -> EdgeUpdate:
    r"""Update edge features from what they and the neurons at their ends say, and average them.

    .. math::
        e'_{ij} = e_{ij} + \mathrm{silu}(\hat e_{ij} A^T + s_j + t_i + b_{k(ij)})

    with :math:`\hat e` normalised to mean 0 and variance 1 over channels, and k the edge's block.
    The backends ``"dense"`` and ``"triton"`` do it in one pass over the edges in each direction;
    the others step by step. Both take plain operations on blocks under ``torch.compile``, autocast
    and the transforms of ``torch.func``, and for second derivatives.

    Args:
        e: ``[*, E, C]``.
        weight: A, ``[C, C]``.
        source, target: s and t, ``[*, N, C]``.
        block: b, ``[*, K, C]``, or ``None`` for 0.
        normalise: whether there is a norm; without, :math:`\hat e = e`.
        recompute: keep for the backward pass only what is given, not what follows from it: at its
            peak less than half of the memory, for one more product (dense backend; ``"triton"``
            always does).

    Raises:
        MissingDependencyError, InvalidGraphError: as
            :func:`nngraph.kernels.triton_edges.edge_update` does, for that backend.
    """
    steps = "dense" if backend == _TRITON else backend

    def plain(
        e: Tensor, weight: Tensor, source: Tensor, target: Tensor, block: Tensor | None
    ) -> EdgeUpdate:
        own = layer_norm(e, e.shape[-1:], eps=fused.EPS) if normalise else e
        own = linear(own, weight)
        if block is not None:
            own = own + spread_blocks(topology, block, steps)
        e = e + edge_affine(topology, own, source, target, steps, silu)
        return EdgeUpdate(
            e,
            reduce(topology, e, "target", "mean", steps),
            reduce(topology, e, "source", "mean", steps),
            pool_blocks(topology, e, steps),
        )

    if backend == _TRITON or _is_dense(topology, backend):
        given = fused.Given(plain, topology, normalise, recompute)
        kernel = triton_edges if backend == _TRITON else fused
        return EdgeUpdate(*kernel.edge_update(given, e, weight, source, target, block))
    return plain(e, weight, source, target, block)


def map_edges(
    topology: Topology,
    function: EdgeFunction,
    e: Tensor,
    source: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor] = (),
    to: Sequence[To] = ("edge",),
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    r"""Apply a function to each edge and its two ends: what a layer of one's own needs.

    .. math:: (m^1_{ij}, m^2_{ij}, \dots) = f(e_{ij}, s_j, t_i; \theta)

    Each of these either stays on the edges or is summed at the neurons at one end. The backend
    ``"dense"`` visits the edges tile by tile and keeps nothing that the function makes on its way,
    but makes it again in the backward pass: neither the features gathered to the edges nor the
    inside of an MLP are ever as long as the edges. The others store all of it.

    Args:
        function: ``(e, s, t, *parameters) -> (m, ...)``, one tensor for each of ``to``. It acts on
            the last axis alone, its arguments broadcast against one another, and it draws no random
            numbers.
        e, source, target: e ``[*, E, C]``; s, t ``[*, N, S]``, ``[*, N, T]``.
        parameters: tensors that the function reads and that shall have gradients.
        to: ``"edge"``, ``"source"`` or ``"target"``, where each of what it returns goes.

    Returns:
        for each of ``to`` ``[*, E, C']`` or ``[*, N, C']``; 0 at neurons without such an edge.
    """
    if unknown := [place for place in to if place not in ("edge", "source", "target")]:
        raise ValueError(f"to has {unknown[0]!r}; expected 'edge', 'source' or 'target'.")

    def plain(e: Tensor, source: Tensor, target: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        sources = gather(topology, source, "source", backend)
        targets = gather(topology, target, "target", backend)
        made = function(e, sources, targets, *parameters)
        return tuple(
            value if place == "edge" else reduce(topology, value, place, "sum", backend)
            for value, place in zip(made, to, strict=True)
        )

    if _is_dense(topology, backend) and not follows_operations(e):
        given = mapped.Given(plain, topology, function, tuple(to))
        return mapped.map_edges(given, e, source, target, parameters)
    return plain(e, source, target, *parameters)


def streamed_edge_means(
    topology: Topology,
    taps: Tensor,
    encoder: Tensor,
    place: Tensor,
    updates: Sequence[StreamedUpdate],
    normalise: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the means of edge states that are made of the weights, and never stored.

    .. math::
        e^0_{ij} = E w_{ij} + p_{k(ij)}, \qquad e^m = e^{m-1}
        + \mathrm{silu}(\hat e^{m-1} A_m^T + s^m_j + t^m_i + b^m_{k(ij)})

    The states after all updates are those that as many calls of :func:`edge_update` give. The
    backend ``"dense"`` makes them tile by tile, forward and again backward, so that memory is that
    of the neurons; the others store them. Differentiable once on ``"dense"``.

    Args:
        taps: w, ``[*, E, T]``.
        encoder: E, ``[C, T]``.
        place: p, ``[K, C]``.
        updates: A, s, t and b of each update.
        normalise: whether there is a norm; without, :math:`\hat e = e`.

    Returns:
        means over the edges into and out of each neuron, ``[*, N, C]``, and over blocks,
        ``[*, K, C]``.
    """
    _refuse_triton(backend, "streamed_edge_means")
    if _is_dense(topology, backend):
        return streamed.edge_means(topology, taps, encoder, place, updates, normalise)
    e = linear(taps, encoder) + spread_blocks(topology, place, backend)
    for weight, source, target, block in updates:
        e = edge_update(
            topology, e, weight, source, target, block, normalise, backend=backend
        ).edges
    return (
        reduce(topology, e, "target", "mean", backend),
        reduce(topology, e, "source", "mean", backend),
        pool_blocks(topology, e, backend),
    )


def propagate(
    topology: Topology, weight: Tensor, x: Tensor, to: End = "target", backend: str = "auto"
) -> Tensor:
    r"""Pass node features along the edges with one scalar weight each: :math:`\sum_j w_{ij} x_j`.

    Args:
        weight: ``[*, E]``.
        x: ``[*, N, C]``.
        to: ``"target"`` runs forwards; ``"source"`` runs backwards, :math:`\sum_i w_{ij} x_i`.

    Returns:
        ``[*, N, C]``; 0 at neurons that nothing reaches.
    """
    return cast(Tensor, _kernel(topology, backend, "propagate")(topology, weight, x, to))


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
        x: ``[*, n, C]``, features of the neurons ``topology.level_nodes[l]`` of every level l
            before; those of the last of them alone will do where no block skips a level.
        to: ``"source"`` runs backwards, :math:`\sum_i w_{ij} x_i`, from features of the level.

    Returns:
        ``[*, m, C]`` at the neurons ``topology.level_nodes[level]``; backwards at those of the
        level before, or, where blocks skip levels, of all levels before, one after another.

    Raises:
        InvalidGraphError: if the topology has no such level, or blocks skip levels and only the
            features of one are given.
    """
    if not 1 <= level <= len(topology.levels):
        raise InvalidGraphError(
            f"level {level} was asked of a topology with {len(topology.levels)}; expected 1 to "
            "that. An irregular graph has none."
        )
    if to == "source":
        heard = x if isinstance(x, Tensor) else x[level]
    elif topology.level_skips[level - 1]:
        if isinstance(x, Tensor) or len(x) < level:
            raise InvalidGraphError(
                f"level {level} hears of neurons of other levels than the one before, as skip "
                f"connections make it; expected the features of all {level} levels before it."
            )
        heard = torch.cat(list(x[:level]), dim=-2)
    else:
        heard = x if isinstance(x, Tensor) else x[level - 1]
    return cast(
        Tensor, _kernel(topology, backend, "propagate_level")(topology, level, weight, heard, to)
    )


def inner(
    topology: Topology, source: Tensor, target: Tensor, heads: int = 1, backend: str = "auto"
) -> Tensor:
    r"""Multiply features of the neurons at both ends of each edge: :math:`\sum_c s_{jc} t_{ic}`.

    A map of low rank from neurons to edges, and the score of an edge in attention. On blocks it is
    a matrix product, and nothing of edge size but the result is made.

    Args:
        source, target: s and t, ``[*, N, C]``.
        heads: H shares of the channels, each summed by itself.

    Returns:
        ``[*, E, H]`` for each edge j -> i.
    """
    return cast(Tensor, _kernel(topology, backend, "inner")(topology, source, target, heads))


def multiply_blocks(
    topology: Topology, e: Tensor, weight: Tensor, backend: str = "auto"
) -> Tensor:
    r"""Multiply each edge's features by the matrix of its block: :math:`\Theta_{k(e)} e`.

    Args:
        e: ``[*, E, C]``.
        weight: ``[K, C_out, C]``, one matrix for each block.

    Returns:
        ``[*, E, C_out]``.
    """
    return cast(Tensor, _kernel(topology, backend, "multiply_blocks")(topology, e, weight))


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
    numbers.

    Args:
        e: ``[*, E, C]``.
        weight, bias: :math:`\gamma` and :math:`\beta`, ``[K, C]``.

    Returns:
        ``[*, E, C]``.
    """
    kernel = _kernel(topology, backend, "normalise_blocks")
    return cast(Tensor, kernel(topology, e, weight, bias, eps))


def pool_blocks(topology: Topology, e: Tensor, backend: str = "auto") -> Tensor:
    """Return the mean over each block's edges: ``[*, E, C] -> [*, K, C]`` for K blocks."""
    return reduce(topology, e, "block", "mean", backend)


def spread_blocks(topology: Topology, blocks: Tensor, backend: str = "auto") -> Tensor:
    """Return each block's features at each of its edges: ``[*, K, C] -> [*, E, C]``."""
    return gather(topology, blocks, "block", backend)


def pool_groups(topology: Topology, x: Tensor) -> Tensor:
    """Return the mean over each group's neurons: ``[*, N, C] -> [*, G, C]`` for G groups."""
    return reference.mean_by(x, topology.node_group, topology.group_size)


def spread_groups(topology: Topology, groups: Tensor) -> Tensor:
    """Return each group's features at each of its neurons: ``[*, G, C] -> [*, N, C]``."""
    return groups.index_select(-2, topology.node_group)


def pool_graphs(topology: Topology, values: Tensor, of: Tensor) -> Tensor:
    """Return the mean over what belongs to each network: ``[*, K, C] -> [*, networks, C]``.

    Args:
        of: ``[K]``, network of each row: the topology's ``node_graph``, ``group_graph`` or
            ``block_graph``.
    """
    return reference.mean_by(values, of, torch.bincount(of, minlength=topology.num_graphs))


def attend_graphs(topology: Topology, values: Tensor, score: Tensor, of: Tensor) -> Tensor:
    r"""Average what belongs to each network by the softmax of a score: :math:`\sum_k a_k v_k`.

    Args:
        values: ``[*, K, C]``.
        score: ``[*, K, H]``, one for each of H heads, which share the channels evenly.
        of: as of :func:`pool_graphs`.

    Returns:
        ``[*, networks, C]``; 0 for networks that have none.
    """
    return sets.attend_by(values, score, of, topology.num_graphs)


def quantiles(topology: Topology, e: Tensor, side: Side, shares: Sequence[float]) -> Tensor:
    """Return quantiles of the edges that share an end or a block: ``[*, E, C] -> [*, N, Q, C]``.

    ``[*, K, Q, C]`` for K blocks; 0 at neurons with no such edge. Linear between two values; two
    sorts of all edges.
    """
    index, _ = reference.ends(topology, _known(side))
    return sets.quantiles_by(e, index, _count(topology, side), shares)


def quantiles_of_groups(topology: Topology, x: Tensor, shares: Sequence[float]) -> Tensor:
    """Return quantiles of the neurons of each group: ``[*, N, C] -> [*, G, Q, C]``."""
    return sets.quantiles_by(x, topology.node_group, topology.group_size, shares)


def spread_graphs(graphs: Tensor, of: Tensor) -> Tensor:
    """Return each network's features at what belongs to it: ``[*, networks, C] -> [*, K, C]``."""
    return graphs.index_select(-2, of)


def take(x: Tensor, nodes: Nodes) -> Tensor:
    """Return the features of some neurons: ``[*, N, C] -> [*, n, C]``; a view where contiguous."""
    if nodes.index is None:
        return x[..., nodes.start : nodes.stop, :]
    return x.index_select(-2, nodes.index)
