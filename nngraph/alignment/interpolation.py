r"""The straight path between two networks, and the barrier on it.

.. math:: \theta(t) = (1 - t) \theta_A + t \theta_B, \qquad
    \max_t \; L(\theta(t)) - [(1 - t) L(\theta_A) + t L(\theta_B)].

The statistics of batch norms are interpolated as parameters are, which is not what data would give
at the point between: where a network has such norms, let the loss run it over training data in
training mode first (with momentum ``None``), so that they are measured anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.alignment.terms import check_pair, terms_of
from nngraph.errors import InvalidGraphError
from nngraph.graph import NeuralGraph, NeuralGraphStack, forward

#: A loss of a network.
Loss = Callable[[NeuralGraph], Tensor]
#: Points of the path: steps of 0.05, which a barrier of one hump is read off well by.
POINTS = tuple(i / 20 for i in range(21))


def interpolate(a: NeuralGraph, b: NeuralGraph, t: float) -> NeuralGraph:
    """Return the network at ``t`` on the straight path from a (0) to b (1).

    Buffers of whole numbers are those of a. Differentiable in the parameters of both.
    """
    if a.architecture != b.architecture:
        check_pair(a, b)
    values, other = a.parameters(), b.parameters()
    for name, value in values.items():
        if value.is_floating_point():
            values[name] = torch.lerp(value, other[name].to(value), t)
    return a.with_parameters(values)


def distance(a: NeuralGraph, b: NeuralGraph) -> float:
    r"""Return :math:`\|A - B\| / \|A\|` over all parameters; statistics of norms do not count."""
    check_pair(a, b)
    terms = terms_of(a, b)
    apart = sum(float((term.a - term.b).square().sum()) for term in terms)
    size = sum(float(term.a.square().sum()) for term in terms)
    return math.sqrt(apart / size) if size else math.sqrt(apart)


@dataclass(frozen=True)
class Barrier:
    """Losses on the straight path between two networks, at places ``ts`` from 0 to 1."""

    ts: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def excess(self) -> tuple[float, ...]:
        """Loss at each place, less the straight line between the losses of the ends."""
        first, last = self.losses[0], self.losses[-1]
        return tuple(
            loss - ((1 - t) * first + t * last)
            for t, loss in zip(self.ts, self.losses, strict=True)
        )

    @property
    def height(self) -> float:
        """The barrier: the most excess; 0 where the path is nowhere above the line."""
        return max(self.excess)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return {"height": self.height, "ts": list(self.ts), "losses": list(self.losses)}


@torch.no_grad()
def barrier(a: NeuralGraph, b: NeuralGraph, loss: Loss, ts: Sequence[float] = POINTS) -> Barrier:
    """Return the losses on the straight path from network a to network b.

    Args:
        loss: of a network; :func:`data_loss` makes one of inputs and answers.
        ts: places on the path, rising from 0 to 1.

    Raises:
        ValueError: if they do not begin at 0, rise, and end at 1.
        InvalidGraphError: if the networks have not one architecture.
    """
    return path_losses(lambda t: loss(interpolate(a, b, t)), ts)


def path_losses(loss: Callable[[float], Tensor], ts: Sequence[float]) -> Barrier:
    """Return the losses at places on a path.

    Raises:
        ValueError: if the places do not begin at 0, rise, and end at 1.
    """
    ts = tuple(ts)
    if len(ts) < 2 or (ts[0], ts[-1]) != (0, 1) or any(s >= t for s, t in pairwise(ts)):
        raise ValueError(f"the path is to be seen at {ts}; expected numbers that rise from 0 to 1.")
    return Barrier(ts, tuple(float(loss(t)) for t in ts))


def run(network: NeuralGraph, inputs: Tensor, return_activations: bool = False) -> Tensor:
    """Run a chain of affine maps, by matrix products: inputs ``[P, d_0]`` -> ``[P, d_L]``."""
    values = {name: value.unsqueeze(0) for name, value in network.parameters().items()}
    stack = NeuralGraphStack.from_parameters(network.architecture, values)
    return forward(stack, inputs, return_activations=return_activations)[0]


def data_loss(inputs: Tensor, answers: Tensor) -> Loss:
    """Return the loss of chains on data: cross-entropy of classes, mean squared error of numbers.

    Args:
        inputs: ``[P, d_0]``.
        answers: classes ``[P]``, whole numbers; or numbers ``[P, d_L]``.

    Raises:
        InvalidGraphError: if there are not as many answers as inputs.
    """
    if inputs.dim() != 2 or len(inputs) != len(answers) or not len(inputs):
        raise InvalidGraphError(
            f"the inputs have shape {tuple(inputs.shape)} and the answers {tuple(answers.shape)}; "
            "expected (P, d_0), and one answer to each input."
        )

    def loss(network: NeuralGraph) -> Tensor:
        outputs = run(network, inputs)
        if answers.is_floating_point():
            return F.mse_loss(outputs, answers)
        return F.cross_entropy(outputs, answers)

    return loss
