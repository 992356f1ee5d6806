"""Numbers in units of their spread over training networks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from nngraph.graph import NeuralGraphStack
from nngraph.nn.features import Features, Fitted, Networks, input_features


class Units(nn.Module):
    r"""A module that holds the mean :math:`\mu` and the deviation :math:`\sigma` of numbers."""

    mean: Tensor
    deviation: Tensor

    def start_units(self, *shape: int) -> None:
        """Hold those of numbers of a shape, 0 and 1 at first."""
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def standard(self, numbers: Tensor) -> Tensor:
        r"""Return :math:`(y - \mu) / \sigma`."""
        return (numbers - self.mean) / self.deviation

    def original(self, standard: Tensor) -> Tensor:
        r"""Return :math:`\mu + \sigma y`."""
        return standard * self.deviation + self.mean


class Standardised(Units, Fitted):
    """A part that gives numbers of each network, in units of their spread over a training set.

    Each may be of one entry of the numbers: they are of whole networks, whatever their labelling.
    """

    #: Networks of a stack whose numbers are taken at once, since the states of all neurons of many
    #: networks are gigabytes, and how many at most.
    at_once: ClassVar[int] = 256
    most: ClassVar[int | None] = None

    @abstractmethod
    def numbers(self, features: Features) -> Tensor:
        """Return the numbers as they are, ``[networks, D]``."""

    def moments(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of numbers ``[networks, D]``, of each by itself."""
        return numbers.mean(0), numbers.std(0, correction=0)

    @torch.no_grad()
    def fit(self, networks: Networks) -> None:
        """Set mean and deviation; a number that is the same for all has deviation 1."""
        parts = [networks]
        if isinstance(networks, NeuralGraphStack):
            stack = networks[: self.most]
            parts = [stack[i : i + self.at_once] for i in range(0, len(stack), self.at_once)]
        numbers = torch.cat([self.numbers(input_features(part)) for part in parts])
        mean, deviation = self.moments(numbers)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation)))
