"""Linear probing: how much a linear classifier reads off embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class LinearProbe:
    """A logistic regression ``[K, D]`` on standardised features; see :func:`linear_probe`."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, embeddings: Tensor) -> Tensor:
        """Return the logits ``[n, K]`` of embeddings ``[n, D]``."""
        return (embeddings.double() - self.mean) / self.deviation @ self.weight.mT + self.bias

    def accuracy(self, embeddings: Tensor, labels: Tensor) -> float:
        """Return the share of embeddings ``[n, D]`` whose class ``[n]`` is found."""
        return float((self.scores(embeddings).argmax(-1) == labels).double().mean())


def linear_probe(
    embeddings: Tensor, labels: Tensor, penalty: float = 1e-3, steps: int = 200
) -> LinearProbe:
    r"""Fit a multinomial logistic regression to embeddings whose classes are known.

    .. math:: \min_{W, b} \; -\frac1n \sum_i \log \mathrm{softmax}(W \hat x_i + b)_{y_i}
        + \frac{\lambda}{2} \lVert W \rVert^2

    on features of mean 0 and deviation 1, by L-BFGS in float64: convex, whatever the seed.

    Args:
        embeddings: ``[n, D]``.
        labels: ``[n]``, from 0.
        penalty: :math:`\lambda`.
        steps: iterations at most.

    Raises:
        ValueError: if the shapes do not fit, or there are no embeddings.
    """
    if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
        raise ValueError(
            f"embeddings have shape {tuple(embeddings.shape)} and labels {tuple(labels.shape)}; "
            "expected (n, D) and (n,), n at least 1."
        )
    x = embeddings.detach().double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    # A feature that is the same for all says nothing, whatever its rounding.
    deviation = deviation.where(deviation > 1e-9 * mean.abs().clamp(min=1e-300), torch.inf)
    x = (x - mean) / deviation
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight.mT + bias, labels)
        loss = loss + 0.5 * penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    return LinearProbe(mean, deviation, weight.detach(), bias.detach())
