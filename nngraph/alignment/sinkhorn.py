r"""Matching by soft permutations: gradient descent through Sinkhorn's iteration.

Each space has logits :math:`X_s`, and the doubly stochastic matrix

.. math:: P_s = \lim_k (C R)^k \exp(X_s / \tau),

with R and C dividing rows and columns by their sums, in logarithms. The loss of :math:`P B` is
descended with Adam, and the nearest permutations are taken at the end (Pena et al., "Re-basin via
implicit Sinkhorn differentiation", CVPR 2023; unrolled here).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.alignment.factors import soft_entries, soft_inner_product
from nngraph.alignment.interpolation import Loss, interpolate
from nngraph.alignment.matching import Alignment
from nngraph.alignment.steps import assign
from nngraph.alignment.terms import Placement, check_pair, inner_product, slab_term, terms_of
from nngraph.graph import NeuralGraph, Relabelling, Symmetry, read_slab, write_slab

#: Steps from one look at the permutations to the next.
_EVERY = 10


def sinkhorn(logits: Tensor, temperature: float = 1.0, iterations: int = 20) -> Tensor:
    """Return doubly stochastic matrices of logits ``[*, d, d]``.

    The columns sum to 1 exactly, the rows the more nearly the more iterations.
    """
    log = logits / temperature
    for _ in range(iterations):
        log = log - log.logsumexp(-1, keepdim=True)
        log = log - log.logsumexp(-2, keepdim=True)
    return log.exp()


def relabel_softly(network: NeuralGraph, matrices: dict[str, Tensor]) -> NeuralGraph:
    """Return the network with neurons mixed by a matrix for each space; differentiable in both.

    Args:
        matrices: space -> ``[d, d]``, or ``[copies, d, d]`` for a space within others; spaces that
            are not named stay. A permutation matrix has a 1 in row i at the old neuron of place i.
    """
    architecture = network.architecture
    values = network.parameters()
    like = next(value for value in values.values() if value.is_floating_point())
    matrices = {space: matrix.to(like) for space, matrix in matrices.items()}
    mixed: dict[str, Tensor] = {}
    for parameter, slab in architecture.slabs:
        entries = read_slab(values[parameter.name], parameter, slab)
        term = slab_term(architecture, slab.target, slab.source, entries, entries)
        out = mixed.setdefault(parameter.name, torch.empty_like(values[parameter.name]))
        write_slab(soft_entries(term, matrices).reshape(entries.shape), out, parameter, slab)
    return network.with_parameters({**values, **mixed})


def match_sinkhorn(
    a: NeuralGraph, b: NeuralGraph, loss: Loss | None = None, *, start: Relabelling | None = None,
    steps: int = 200, learning_rate: float = 0.3, temperature: float = 1.0, iterations: int = 20,
    confidence: float = 0.5,
) -> Alignment:
    r"""Find a relabelling of network b by descent on soft permutations.

    Without a loss, :math:`-\langle A, P B \rangle` is descended: on permutations that is the
    distance of the parameters, and over soft matrices of one space it is least at a permutation,
    which :math:`\|A - P B\|^2` is not. With a loss, that of the network midway between A and P B:
    it sees which neurons may be exchanged without harm, as weights alone do not.

    Of the permutations met, every ten steps and at the end, those of the least loss are returned,
    with the start among them: the result is never worse than it. The history is of minus that loss.

    Args:
        a, b: networks of one architecture.
        loss: of a network, differentiable, on which the middle of the path is judged.
        start: relabelling to begin from, such as that of :func:`match_weights`; without one all
            pairs are equally likely at first.
        steps, learning_rate: of Adam.
        temperature, iterations: of :func:`sinkhorn`.
        confidence: share of each neuron that the pairs of the start have at first, in (0, 1).

    Raises:
        InvalidGraphError: if the networks have not one architecture.
        NonFiniteError: if a weight is NaN or infinite.
        ValueError: if the confidence or the temperature is out of range.
    """
    if not 0 < confidence < 1 or not temperature > 0:
        raise ValueError(
            f"confidence is {confidence!r} and temperature {temperature!r}; expected a number "
            "between 0 and 1, and a positive one."
        )
    architecture = check_pair(a, b)
    if not architecture.spaces:
        return Alignment(Symmetry(architecture).identity(), method="sinkhorn")
    terms = terms_of(a, b)
    scale = max(inner_product(terms_of(a, a)), torch.finfo(torch.float64).tiny)
    floating = (v for v in b.parameters().values() if v.is_floating_point())
    like = terms[0].a if loss is None else next(floating)

    def cost(matrices: dict[str, Tensor]) -> Tensor:
        if loss is None:
            return -soft_inner_product(terms, matrices) / scale
        return loss(interpolate(a, relabel_softly(b, matrices), 0.5))

    def judged(relabelling: Relabelling) -> float:
        if loss is None:
            return -inner_product(terms, Placement(relabelling.indices)) / scale
        with torch.no_grad():
            return float(loss(interpolate(a, relabelling.act_on_graph(b), 0.5)))

    logits = {
        space: torch.zeros(*index.shape, index.shape[-1], dtype=like.dtype, device=like.device)
        for space, index in Symmetry(architecture).identity().indices.items()
    }
    best, least, history = Symmetry(architecture).identity(), float("inf"), []
    if start is not None:
        best, least = start, judged(start)
        history.append(-least)
        for space, index in start.indices.items():
            size = index.shape[-1]
            logit = temperature * math.log(max(confidence * (size - 1) / (1 - confidence), 1.0))
            logits[space] += logit * F.one_hot(index, size).to(logits[space])
    optimizer = torch.optim.Adam([x.requires_grad_() for x in logits.values()], learning_rate)
    for step in range(steps):
        matrices = {s: sinkhorn(x, temperature, iterations) for s, x in logits.items()}
        optimizer.zero_grad(set_to_none=True)
        cost(matrices).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % _EVERY == _EVERY - 1 or step == steps - 1:
            hard = {s: assign(sinkhorn(x, temperature, iterations))[0] for s, x in logits.items()}
            found = Relabelling(architecture, hard)
            value = judged(found)
            if value < least:
                best, least = found, value
                history.append(-value)
    return Alignment(best, method="sinkhorn", history=tuple(history))
