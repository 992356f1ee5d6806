"""Mean and spread of each parameter tensor, over training networks alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from nngraph.datasets.transforms import ParameterTransform, Values
from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.zoo import SPLITS, Zoo

#: Count, mean and sum of squared deviations of numbers, and of how many networks they are.
_Moments = tuple[int, float, float, int]


@dataclass(frozen=True)
class TensorStatistics:
    """Mean and standard deviation over all entries of a tensor in all training networks.

    One number per tensor: statistics of single entries would break the symmetry of relabelling.
    """

    mean: float
    std: float
    networks: int


def training_statistics(zoo: Zoo) -> dict[Architecture, dict[str, TensorStatistics]]:
    """Return statistics of every parameter of every architecture, over the training split alone.

    Shard by shard and in float64: memory holds one tensor of one shard.

    Raises:
        DataFileError: if the zoo is damaged.
        InvalidGraphError: if the zoo has no training networks.
    """
    train = zoo.split == SPLITS.index("train")
    if not bool(train.any()):
        raise InvalidGraphError(f"{zoo.path} has no training networks; expected at least one.")
    moments: dict[tuple[int, str], _Moments] = {}
    start = 0
    for index, shard in enumerate(zoo.shards):
        rows = torch.nonzero(train[start : start + shard.count]).squeeze(1)
        start += shard.count
        if not len(rows):
            continue
        held = zoo.mapped(index)
        for parameter in zoo.architectures[shard.architecture].parameters:
            if parameter.integer:
                continue
            values = held[parameter.name][rows].double()
            mean = float(values.mean())
            squares = float((values - mean).square().sum())
            new = (values.numel(), mean, squares, len(rows))
            key = (shard.architecture, parameter.name)
            moments[key] = _joined(moments[key], new) if key in moments else new
    found: dict[Architecture, dict[str, TensorStatistics]] = {}
    for (kind, name), (count, mean, squares, networks) in moments.items():
        statistics = TensorStatistics(mean, (squares / count) ** 0.5, networks)
        found.setdefault(zoo.architectures[kind], {})[name] = statistics
    return found


def _joined(one: _Moments, other: _Moments) -> _Moments:
    """Join the moments of two parts (Chan et al., 1979)."""
    count = one[0] + other[0]
    apart = other[1] - one[1]
    mean = one[1] + apart * other[0] / count
    squares = one[2] + other[2] + apart**2 * one[0] * other[0] / count
    return count, mean, squares, one[3] + other[3]


class Standardise(ParameterTransform):
    r"""Standardise each parameter tensor: :math:`W \to (W - \mu) / \sigma`.

    A tensor without spread (:math:`\sigma = 0`) is only centred.

    Args:
        statistics: of :func:`training_statistics`.

    Raises:
        InvalidGraphError: if there are none for a network's architecture.
    """

    def __init__(self, statistics: Mapping[Architecture, Mapping[str, TensorStatistics]]) -> None:
        self.statistics = statistics

    def _changed(self, architecture: Architecture, values: Values) -> Values:
        if architecture not in self.statistics:
            raise InvalidGraphError(
                f"there are no statistics for networks of {architecture}; the training networks "
                "that they were computed on had none of it."
            )
        found = self.statistics[architecture]
        return {  # buffers of whole numbers stay
            name: (value - found[name].mean) / (found[name].std or 1.0) if name in found else value
            for name, value in values.items()
        }
