"""Splits of groups of networks: decided once, when the zoo is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nngraph.errors import InvalidGraphError
from nngraph.zoo.store.manifest import SplitPolicy


def policy_of(splits: Sequence[float], seed: int) -> SplitPolicy:
    """Return fractions of training, validation and test groups that sum to 1, checked."""
    fractions = [float(fraction) for fraction in splits]
    inside = all(0 <= fraction <= 1 for fraction in fractions)
    if len(fractions) != 3 or not inside or abs(sum(fractions) - 1) > 1e-6:
        raise InvalidGraphError(
            f"splits are {list(splits)!r}; expected fractions of train, validation and test images "
            "that sum to 1, such as (0.8, 0.1, 0.1)."
        )
    return SplitPolicy((fractions[0], fractions[1], fractions[2]), seed)


def split_of_images(count: int, splits: Sequence[float], seed: int) -> Tensor:
    """Assign each of ``count`` images to a split at random: ``[count]``, 0 train, 1 val, 2 test.

    The sizes of the splits are exact, to rounding.
    """
    fractions = policy_of(splits, seed).fractions
    first = round(count * fractions[0])
    second = round(count * (fractions[0] + fractions[1]))
    order = torch.from_numpy(np.random.default_rng([seed, count]).permutation(count))
    split = torch.zeros(count, dtype=torch.int64)
    split[order[first:second]] = 1
    split[order[second:]] = 2
    return split


def split_of_groups(groups: Tensor, policy: SplitPolicy) -> Tensor:
    """Assign groups to splits, each by its own number and the policy's seed alone: ``[B]``.

    A group's split does not depend on which others there are, so that a zoo can grow; the sizes of
    the splits are those of the fractions on average.
    """
    # SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a hash whose every bit depends on every bit.
    # The products are meant to wrap around.
    mixed = groups.to(torch.int64).numpy().astype(np.uint64)
    mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + np.uint64(policy.seed % 2**63)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    share = torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) / 2**53)
    first, second, _ = policy.fractions
    return (share >= first).to(torch.int64) + (share >= first + second).to(torch.int64)
