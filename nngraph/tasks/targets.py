"""What may be asked about a fact of networks: which of its names, or its number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nngraph.datasets import METRICS
from nngraph.zoo import Fact


class Target(ABC):
    """A fact of networks as a model is asked for it."""

    #: The measure by which models are chosen.
    score: ClassVar[str]
    #: Length of the answer.
    num_outputs: int

    def __init__(self, fact: Fact) -> None:
        self.fact = fact

    @abstractmethod
    def loss(self, answers: Tensor, truth: Tensor) -> Tensor:
        """Return the mean loss of answers ``[n, num_outputs]``, given the fact ``[n]``."""

    @abstractmethod
    def measures(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        """Return how good the answers are, by the name of each measure."""

    @abstractmethod
    def details(self, answers: Tensor, truth: Tensor) -> dict[str, Any]:
        """Return more than single numbers about the answers, as plain data."""

    @abstractmethod
    def same(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return which answers in float64 tell the same, ``[n]`` bool."""


class Category(Target):
    r"""Which of the values that have names: softmax and cross-entropy; the score is the accuracy.

    .. math:: \mathcal{L} = -\frac{1}{n} \sum_b \log \mathrm{softmax}(f(\theta_b))_{y_b}
    """

    score = "accuracy"

    def __init__(self, fact: Fact) -> None:
        super().__init__(fact)
        self.num_outputs = len(fact.values)

    def loss(self, answers: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(answers.float(), truth)

    def measures(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        right = (answers.argmax(-1) == truth).double().mean()
        return {"loss": float(self.loss(answers, truth)), "accuracy": float(right)}

    def details(self, answers: Tensor, truth: Tensor) -> dict[str, Any]:
        """Return ``confusion``: networks of class i (row) that were taken for class j."""
        kinds = self.num_outputs
        pairs = torch.bincount(truth * kinds + answers.argmax(-1), minlength=kinds * kinds)
        names = list(self.fact.values)
        return {"confusion": pairs.view(kinds, kinds).tolist(), "class_names": names}

    def same(self, answers: Tensor, others: Tensor) -> Tensor:
        return answers.argmax(-1) == others.argmax(-1)


class Number(Target):
    r"""The number itself: least squares in units of its deviation; the score is Kendall's tau.

    .. math:: \mathcal{L} = \frac{1}{n} \sum_b \Big(\frac{f(\theta_b) - y_b}{\sigma}\Big)^2

    Besides tau there are R2, the mean squared and absolute errors, and ``slope`` and ``intercept``
    of the least-squares line of the truth over the answers: 1 and 0 where answers are calibrated.
    The deviation is that of the training networks.
    """

    score = "kendall"
    num_outputs = 1

    def __init__(self, fact: Fact, deviation: float) -> None:
        super().__init__(fact)
        self.deviation = deviation

    def loss(self, answers: Tensor, truth: Tensor) -> Tensor:
        # The difference in float32, whatever the precision of the answers.
        return ((answers.float().squeeze(-1) - truth.float()) / self.deviation).square().mean()

    def measures(self, answers: Tensor, truth: Tensor) -> dict[str, float]:
        found, true = _numbers(answers), _numbers(truth)
        slope, intercept = _line(found, true)
        return {
            "loss": float(self.loss(answers, truth)),
            **{name: METRICS[name](true, found) for name in ("kendall", "r2", "mse")},
            "mae": float(np.abs(found - true).mean()),
            "slope": slope,
            "intercept": intercept,
        }

    def details(self, answers: Tensor, truth: Tensor) -> dict[str, Any]:
        """Return ``deciles`` of the networks by answer: mean answer, truth and absolute error."""
        found, true = _numbers(answers), _numbers(truth)
        order = np.argsort(found, kind="stable")
        deciles = [
            {
                "networks": len(part),
                "answer": float(found[part].mean()),
                "truth": float(true[part].mean()),
                "absolute_error": float(np.abs(found[part] - true[part]).mean()),
            }
            for part in np.array_split(order, 10)
            if len(part)
        ]
        return {"fact": self.fact.name, "deciles": deciles}

    def same(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return which are equal but for rounding: to 1e-9 of the deviation or of the answer."""
        return torch.isclose(answers, others, rtol=1e-9, atol=1e-9 * self.deviation).squeeze(-1)


def _numbers(value: Tensor) -> np.ndarray[Any, Any]:
    return value.detach().cpu().double().flatten().numpy()


def _line(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line; NaN if all x are equal."""
    centred = x - x.mean()
    spread = float(np.square(centred).sum())
    slope = float((centred * y).sum() / spread) if spread else float("nan")
    return slope, float(y.mean() - slope * x.mean())
