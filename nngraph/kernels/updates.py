"""Primitives that make new features of edges, and what they are summed to, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from nngraph.graph import Topology
from nngraph.kernels.backends.choice import TRITON, Side, count_of, is_dense, refuse_triton
from nngraph.kernels.edges import edge_affine, gather, reduce
from nngraph.kernels.modes import follows_operations
from nngraph.kernels.tiled import fused, mapped
from nngraph.kernels.tiled.mapped import EdgeFunction
from nngraph.kernels.tiled.tiles import EPS
from nngraph.kernels.triton import edges as triton_edges

#: Where what a function makes of an edge goes: it stays there, or is summed at a neuron.
To = Literal["edge", "source", "target"]
_SIDES: tuple[Side, ...] = ("target", "source", "block")


class EdgeUpdate(NamedTuple):
    """Edges e', and their means at each neuron, ``[*, N, C]`` (0 without any), and over blocks."""

    edges: Tensor
    incoming: Tensor
    outgoing: Tensor
    blocks: Tensor


class StreamedUpdate(NamedTuple):
    """One update: ``A [C, C]``, ``s`` and ``t`` ``[*, N, C]``, and ``b [*, K, C]`` or ``None``."""

    weight: Tensor
    source: Tensor
    target: Tensor
    block: Tensor | None


def edge_update(
    topology: Topology, e: Tensor, weight: Tensor, source: Tensor, target: Tensor,
    block: Tensor | None = None, normalise: bool = True, recompute: bool = False,
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
            :func:`nngraph.kernels.triton.edges.edge_update` does, for that backend.
    """
    steps = "dense" if backend == TRITON else backend
    inputs = e, weight, source, target, block

    def plain(
        e: Tensor, weight: Tensor, source: Tensor, target: Tensor, block: Tensor | None
    ) -> EdgeUpdate:
        own = layer_norm(e, e.shape[-1:], eps=EPS) if normalise else e
        own = linear(own, weight)
        if block is not None:
            own = own + gather(topology, block, "block", steps)
        e = e + edge_affine(topology, own, source, target, steps, silu)
        return EdgeUpdate(e, *(reduce(topology, e, side, "mean", steps) for side in _SIDES))

    if backend == TRITON or is_dense(topology, backend, e):
        given = fused.UpdateGiven(plain, topology, normalise, recompute)
        kernel = triton_edges if backend == TRITON else fused
        return EdgeUpdate(*kernel.edge_update(given, *inputs))
    return plain(*inputs)


def map_edges(
    topology: Topology, function: EdgeFunction, e: Tensor, source: Tensor, target: Tensor,
    parameters: Sequence[Tensor] = (), to: Sequence[To] = ("edge",), backend: str = "auto",
) -> tuple[Tensor, ...]:
    r"""Apply a function to each edge and its two ends: what a layer of one's own needs.

    .. math:: (m^1_{ij}, m^2_{ij}, \dots) = f(e_{ij}, s_j, t_i; \theta)

    Each of these either stays on the edges or is summed at the neurons at one end. The backend
    ``"dense"`` visits the edges tile by tile and keeps nothing that the function makes on its way,
    but makes it again in the backward pass: neither the features gathered to the edges nor the
    inside of an MLP are ever as long as the edges. The others store all of it.

    Args:
        function: ``(e, s, t, *parameters) -> (m, ...)``, one tensor for each of ``to``. It acts on
            the last axis alone, its arguments broadcast against one another, and nothing is random.
        e, source, target: e ``[*, E, C]``; s, t ``[*, N, S]``, ``[*, N, T]``.
        parameters: tensors that the function reads and that shall have gradients.
        to: ``"edge"``, ``"source"`` or ``"target"``, where each of what it returns goes.

    Returns:
        for each of ``to`` ``[*, E, C']`` or ``[*, N, C']``; 0 at neurons without such an edge.
    """
    if unknown := [place for place in to if place not in ("edge", "source", "target")]:
        raise ValueError(f"to has {unknown[0]!r}; expected 'edge', 'source' or 'target'.")
    features = [("edge", e), ("source", source), ("target", target)]
    return _mapped(topology, function, features, parameters, to, backend)


def _mapped(
    topology: Topology, function: EdgeFunction, features: Sequence[tuple[str, Tensor]],
    parameters: Sequence[Tensor], to: Sequence[str], backend: str, channels: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Apply a function of edges, their ends and their blocks; see :class:`mapped.MapGiven`."""
    read, values = zip(*features, strict=True)

    def plain(*inputs: Tensor) -> tuple[Tensor, ...]:
        at_edges = [
            value if place == "edge" else gather(topology, value, place, backend)
            for place, value in zip(read, inputs, strict=False)
        ]
        return tuple(
            value if place == "edge" else reduce(topology, value, place, "sum", backend)  # type: ignore[arg-type]
            for value, place in zip(function(*at_edges, *inputs[len(read) :]), to, strict=True)
        )

    like = None if channels else values[0]
    if is_dense(topology, backend, like) and not follows_operations(values[0]):
        given = mapped.MapGiven(plain, topology, function, read, tuple(to), channels)
        return mapped.map_edges(given, *values, *parameters)
    return plain(*values, *parameters)


def streamed_edge_means(
    topology: Topology, taps: Tensor, encoder: Tensor, place: Tensor,
    updates: Sequence[StreamedUpdate], normalise: bool = True, backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the means of edge states that are made of the weights, and never stored.

    .. math::
        e^0_{ij} = E w_{ij} + p_{k(ij)}, \qquad e^m = e^{m-1}
        + \mathrm{silu}(\hat e^{m-1} A_m^T + s^m_j + t^m_i + b^m_{k(ij)})

    The states after all updates are those that as many calls of :func:`edge_update` give. The
    backend ``"dense"`` makes them tile by tile, forward and again backward, so that memory is that
    of the neurons; the others store them. L rounds cost L (L + 1) / 2 updates of each edge.

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
    refuse_triton(backend, "streamed_edge_means")
    count, channels = len(updates), len(encoder)

    def states(taps: Tensor, place: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        ends, (encoder, *weights) = given[: 3 * count], given[3 * count :]
        one = taps.shape[-1] == 1 and not torch.is_grad_enabled()
        e = torch.addcmul(place, taps, encoder[:, 0]) if one else taps @ encoder.mT + place
        for i, weight in enumerate(weights):
            source, target, block = ends[3 * i : 3 * i + 3]
            total = target + block + source
            if torch.is_grad_enabled():
                normal = layer_norm(e, e.shape[-1:], eps=EPS) if normalise else e
                e = e + silu(normal @ weight.mT + total)
            else:  # in two arrays of this size
                normal = fused.normalised(e)[0] if normalise else e
                total.view(-1, channels).addmm_(normal.view(-1, channels), weight.mT)
                e += silu(total, inplace=True)
        return e, e, e

    features = [("edge", taps), ("block", place)]
    for update in updates:
        block = torch.zeros_like(place) if update.block is None else update.block
        features += [("source", update.source), ("target", update.target), ("block", block)]
    parameters = [encoder, *(update.weight for update in updates)]
    sides = ("target", "block", "source")
    totals = _mapped(topology, states, features, parameters, sides, backend, channels)
    incoming, blocks, outgoing = (
        total / count_of(topology, side).clamp(min=1).to(total.dtype).unsqueeze(-1)
        for total, side in zip(totals, sides, strict=True)
    )
    return incoming, outgoing, blocks
