"""Kinds of tensors by their place in a network: which occur, and which meet in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from nngraph.graph import Architecture, Topology

#: What a neuron hears and says: at the edges into it, at those out of it, at its own parameters.
PARTS = 3


@dataclass(frozen=True)
class TensorKinds:
    """The kinds of blocks and groups that occur in networks, by how far from both ends they are.

    A kind is a number, from the distances from the inputs and to the outputs, each up to
    ``levels`` and beyond alike; a block has that of its targets. *Slots* are the kinds of tensors
    that have parameters: those of blocks, then those of groups with biases.

    Attributes:
        levels: distances that are told apart.
        blocks, groups: kinds that occur, in order.
        parts: of each kind of group, which of the :data:`PARTS` its neurons have.
        pairs: slots ``(out, in)`` that meet in some network, in order.
        repeated: slots that a network has several tensors of.
        most: slots that one network fills, at the most.
    """

    levels: int
    blocks: tuple[int, ...]
    groups: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    repeated: tuple[int, ...]
    most: int

    def __post_init__(self) -> None:
        if self.levels < 0:
            raise ValueError(f"levels is {self.levels}; expected at least 0.")

    @staticmethod
    def every(levels: int) -> TensorKinds:
        """Return all kinds, as if any two met: for networks of any architecture."""
        kinds = tuple(range((levels + 1) ** 2))
        slots = range(2 * len(kinds))
        parts = (tuple(range(PARTS)),) * len(kinds)
        # A chain of many weights has so many.
        most = 2 * (2 * levels + 1)
        return TensorKinds(levels, kinds, kinds, parts, (*product(slots, slots),), (*slots,), most)

    @staticmethod
    def of(architectures: Sequence[Architecture], levels: int) -> TensorKinds:
        """Return those of some architectures."""
        found = [_tensors(Topology.of(a), levels) for a in dict.fromkeys(architectures)]
        blocks = sorted({kind for own, _ in found for kind in own})
        parts: dict[int, set[int]] = {}
        for kind, held in (group for _, nodes in found for group in nodes):
            parts.setdefault(kind, set()).update(held)
        groups = sorted(kind for kind, own in parts.items() if own)
        biased = [kind for kind in groups if PARTS - 1 in parts[kind]]
        pairs: set[tuple[int, int]] = set()
        repeated, most = set(), 1
        for numbers, nodes in found:
            slots = Counter(map(blocks.index, numbers))
            slots += Counter(
                len(blocks) + biased.index(kind) for kind, held in nodes if PARTS - 1 in held
            )
            pairs |= {*product(slots, slots)}
            repeated |= {slot for slot, count in slots.items() if count > 1}
            most = max(most, len(slots))
        return TensorKinds(
            levels, (*blocks,), (*groups,), tuple((*sorted(parts[kind]),) for kind in groups),
            (*sorted(pairs),), (*sorted(repeated),), most,
        )  # fmt: skip

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self.blocks) + sum(PARTS - 1 in parts for parts in self.parts)

    def nearest(self, known: Sequence[int]) -> list[int]:
        """Return for every kind the index of the nearest of those known: itself, if it is one."""
        size = self.levels + 1

        def apart(kind: int, other: int) -> int:
            return abs(kind // size - other // size) + abs(kind % size - other % size)

        return [
            min(range(len(known)), key=lambda i: apart(kind, known[i]), default=0)
            for kind in range(size**2)
        ]

    def tables(self) -> Tensor:
        """Return by kind the slot of a block, and of a group with biases, ``[2, kinds]``.

        Kinds that do not occur count as the nearest that does.
        """
        biased = [k for k, own in zip(self.groups, self.parts, strict=True) if PARTS - 1 in own]
        slots = [len(self.blocks) + i for i in self.nearest(biased)]
        return torch.tensor([self.nearest(self.blocks), slots])


def kinds_of(topology: Topology, levels: int) -> tuple[Tensor, Tensor]:
    """Return the kinds of blocks ``[K]``, those of their targets, and of groups ``[G]``."""
    level, height = topology.nodes.level, topology.nodes.depth_from_output
    node = level.clamp(max=levels) * (levels + 1) + height.clamp(max=levels)
    first_node = topology.groups.size.cumsum(0) - topology.groups.size
    return node[topology.blocks.target], node[first_node]


def _tensors(
    topology: Topology, levels: int
) -> tuple[list[int], list[tuple[int, tuple[int, ...]]]]:
    """Return the kinds of all blocks; and of all groups, each with what its neurons have."""
    blocks, groups = kinds_of(topology, levels)
    nodes = topology.nodes
    has = torch.stack([nodes.in_degree > 0, nodes.out_degree > 0, nodes.has_bias], dim=1)
    some = torch.zeros(len(groups), PARTS, dtype=torch.long)
    some = some.index_add(0, nodes.group.index, has.long())
    parts = [tuple(i for i, count in enumerate(row) if count) for row in some.tolist()]
    return blocks.tolist(), list(zip(groups.tolist(), parts, strict=True))
