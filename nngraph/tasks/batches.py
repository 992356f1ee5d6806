"""Which networks each step of an epoch reads, and which of them each process reads."""

from __future__ import annotations

import torch
from torch import Tensor

from nngraph.graph import NeuralGraphStack


def draw_batches(
    numbers: Tensor, kinds: Tensor, size: int, per_architecture: int, generator: torch.Generator
) -> list[Tensor]:
    """Shuffle networks and cut them into batches; every network comes exactly once.

    Networks of one architecture are shuffled one by one. Of a mixed population, those of each
    architecture are shuffled and cut into sets of ``per_architecture``, and the sets are shuffled:
    a step of 64 networks then reads some eight architectures, which is several times faster.

    Args:
        numbers, kinds: ``[n]``, of the networks, and architecture of each.
        size: networks of a batch; the last one may have fewer.
    """
    order = torch.randperm(len(numbers), generator=generator)
    if len(numbers) and not bool((kinds == kinds[0]).all()):
        order = order[kinds[order].argsort(stable=True)]
        counts = torch.unique_consecutive(kinds[order], return_counts=True)[1]
        sets = [
            part
            for of_one in torch.split(order, counts.tolist())
            for part in torch.split(of_one, per_architecture)
        ]
        order = torch.cat([sets[i] for i in torch.randperm(len(sets), generator=generator)])
    return list(torch.split(numbers[order], size))


def share_of(batch: Tensor, rank: int, world: int, parts: int) -> list[tuple[Tensor, float]]:
    """Return what one of several processes reads of a batch, in parts, each with its weight.

    The mean over processes of the weighted sum of the parts' mean losses is the mean loss over the
    batch, however unequal the shares are.
    """
    own = torch.tensor_split(batch, world)[rank]
    if not len(own):
        # All processes have to take part in a step: this one's gradient counts nothing.
        return [(batch[:1], 0.0)]
    cut = [part for part in torch.tensor_split(own, parts) if len(part)]
    return [(part, world * len(part) / len(batch)) for part in cut]


class NetworksInMemory:
    """Networks held on a device, one stack per architecture, and taken by their numbers.

    ``kinds`` ``[B]`` is the architecture of every network of the zoo.
    """

    def __init__(self, stacks: list[tuple[Tensor, NeuralGraphStack]], kinds: Tensor) -> None:
        self.numbers = torch.cat([numbers for numbers, _ in stacks])
        self.kinds = kinds[self.numbers]
        self._kinds = kinds
        self._stacks = {int(kinds[numbers[0]]): stack for numbers, stack in stacks}
        self._place = torch.full((len(kinds),), -1, dtype=torch.int64)
        for numbers, _ in stacks:
            self._place[numbers] = torch.arange(len(numbers))

    def take(self, numbers: Tensor) -> list[tuple[Tensor, NeuralGraphStack]]:
        """Return for each architecture that occurs the numbers of its networks and their stack."""
        if len(self._stacks) == 1:
            (stack,) = self._stacks.values()
            return [(numbers, self._rows(stack, numbers))]
        kinds = self._kinds[numbers]
        parts = [(kind, numbers[kinds == kind]) for kind in torch.unique(kinds).tolist()]
        return [(chosen, self._rows(self._stacks[kind], chosen)) for kind, chosen in parts]

    def _rows(self, stack: NeuralGraphStack, numbers: Tensor) -> NeuralGraphStack:
        rows: NeuralGraphStack = stack[self._place[numbers].to(stack.x.device)]
        return rows
