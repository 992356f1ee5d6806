r"""By what each neuron of any network is multiplied where its scales and signs are moved.

The *character* :math:`\chi_i` of neuron i is the product of the powers of its scales and signs by
which its value is multiplied. A weight from neuron j to neuron i is then multiplied by
:math:`\chi_i / \chi_j`, and a bias by :math:`\chi_i`. Which scales multiply which tensors an
architecture states (:func:`nngraph.graph.scales_of`), and the characters of neurons are read off
that. A tensor that is multiplied otherwise is not read: what it tells is lost, and no symmetry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from nngraph import kernels
from nngraph.graph import Architecture, Block, Column, Topology, scale_places, scales_of

#: Power of each scale that has one, by its number in the architecture.
Powers = Mapping[int, int]
#: Kinds of hidden neurons by whether their character has a scale, and a sign.
KIND_NAMES = {
    (False, False): "free", (True, False): "homogeneous", (False, True): "odd",
    (True, True): "linear",
}  # fmt: skip
_KINDS = list(KIND_NAMES.values())


@dataclass(frozen=True, eq=False)
class Characters:
    """How networks are read so that their scales and signs leave no trace.

    Attributes:
        kind: ``[N]`` an index into the kinds of ``KIND_NAMES``; -1 at inputs and outputs.
        live: ``[K]`` whether a block is multiplied as the neurons at its ends are.
        holder: ``[N, F]`` the neuron of which a column is read that is multiplied as this one is:
            itself, or one that it leads to one by one, as to a batch norm; -1 for none.
        free: ``[N, F]`` whether a column is multiplied by nothing, and its neuron is.
        normed: ``[K]`` whether a block leads to neurons with a running variance, one by one.
        variance: ``[N, F]`` which column that is.
    """

    kind: Tensor
    live: Tensor
    holder: Tensor
    free: Tensor
    normed: Tensor
    variance: Tensor

    @property
    def own(self) -> Tensor:
        """``[N, F]`` whether a column is multiplied as its neuron is."""
        return self.holder == torch.arange(len(self.holder), device=self.holder.device)[:, None]


@lru_cache(maxsize=16)
def characters_of(topology: Topology) -> Characters:
    """Return the characters of the neurons of a batch of networks."""
    found = [_of_architecture(a) for a in topology.architectures]
    width = topology.nodes.mask.shape[-1]
    nodes = torch.tensor([0, *(a.num_nodes for a in topology.architectures)]).cumsum(0)
    edges = torch.tensor([0, *(a.num_edges for a in topology.architectures)]).cumsum(0)
    # Blocks of different networks may stand in another order.
    firsts = torch.cat([
        first + torch.tensor([block.start for block in a.blocks], dtype=torch.long)
        for a, first in zip(topology.architectures, edges, strict=False)
    ])  # fmt: skip
    order = torch.searchsorted(firsts, topology.blocks.edge.cpu())
    held = [torch.where(c.holder < 0, -1, c.holder + n) for c, n in zip(found, nodes, strict=False)]
    holders = [pad(value, (0, width - value.shape[-1]), value=-1) for value in held]
    masks = [
        torch.cat([pad(mask, (0, width - mask.shape[-1])) for mask in of_one])
        for of_one in ([c.free for c in found], [c.variance for c in found])
    ]
    device = topology.nodes.level.device
    values = (
        torch.cat([c.kind for c in found]), torch.cat([c.live for c in found])[order],
        torch.cat(holders), masks[0], torch.cat([c.normed for c in found])[order], masks[1],
    )  # fmt: skip
    return Characters(*(value.to(device) for value in values))


@lru_cache(maxsize=16)
def kinds_by_level(topology: Topology) -> tuple[list[tuple[str, Tensor]], ...]:
    """Return the kinds of the hidden neurons of each level, each with which of its neurons."""
    kind = characters_of(topology).kind.unsqueeze(-1)
    found = []
    for level in topology.levels:
        own = kernels.take(kind, level.nodes)[:, 0]
        rows = [(name, (own == i).nonzero().flatten()) for i, name in enumerate(_KINDS)]
        found.append([(name, which) for name, which in rows if len(which)])
    return tuple(found)


def kinds_of(architecture: Architecture) -> set[str]:
    """Return the kinds of the hidden neurons of an architecture, by their characters."""
    found = {*_of_architecture(architecture).kind.tolist()}
    return {name for i, name in enumerate(_KINDS) if i in found}


@lru_cache(maxsize=256)
def _of_architecture(architecture: Architecture) -> Characters:
    return _Reading(architecture).characters()


class _Reading:
    """The characters of the groups of an architecture, as its tensors say."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.scales = scales_of(architecture)
        self.signs = {i for i, scale in enumerate(self.scales) if scale.kind == "sign"}
        self.stated: dict[tuple[int, str], dict[int, int]] = {}
        for number, scale in enumerate(self.scales):
            for slab, end, power in scale.powers:
                own = self.stated.setdefault((slab, end), {})
                own[number] = own.get(number, 0) + power
        numbers = {id(slab): i for i, (_, slab) in enumerate(architecture.slabs)}
        self.numbers = numbers
        self.values = self._values()

    def powers(self, of: Block | Column, end: str) -> Powers:
        """Return what is stated of one end of a slab."""
        return self.stated.get((self.numbers.get(id(of.slab), -1), end), {})

    def total(self, *terms: tuple[Powers, int]) -> dict[int, int]:
        """Return a product of powers, each with its exponent."""
        found: dict[int, int] = {}
        for powers, times in terms:
            for number, power in powers.items():
                found[number] = found.get(number, 0) + times * power
        found = {n: p % 2 if n in self.signs else p for n, p in found.items()}
        return {n: p for n, p in found.items() if p}

    # -- characters of groups ---------------------------------------------------------------------

    def _values(self) -> list[Powers]:
        """Return by what the values of each group are multiplied."""
        architecture = self.architecture
        found: dict[int, Powers] = {
            i: {} for i, group in enumerate(architecture.groups)
            if group.role != "hidden" or group.space is None
        }
        for column in architecture.columns:
            if column.slab.column == "bias":
                found.setdefault(column.group, self.total((self.powers(column, "t"), 1)))
        dense = [block for block in architecture.blocks if "b" not in block.slab.axes]
        for block in dense:
            found.setdefault(block.target, self.total((self.powers(block, "t"), 1)))
        for block in dense:
            found.setdefault(block.source, self.total((self.powers(block, "s"), -1)))
        # Along blocks that lead one by one, both ways.
        paired = [block for block in architecture.blocks if "b" in block.slab.axes]
        changed = True
        while changed:
            changed = False
            for block in (*paired, *reversed(paired)):
                between = (self.powers(block, "t"), 1), (self.powers(block, "s"), 1)
                for here, there, sign in (
                    (block.source, block.target, 1), (block.target, block.source, -1)
                ):
                    if here in found and there not in found:
                        edges = [(powers, sign * times) for powers, times in between]
                        found[there] = self.total((found[here], 1), *edges)
                        changed = True
        return [found.get(i, {}) for i in range(len(architecture.groups))]

    # -- what is read -----------------------------------------------------------------------------

    def characters(self) -> Characters:
        """Return what is read of each tensor."""
        architecture = self.architecture
        kind = torch.full((architecture.num_nodes,), -1)
        for group, powers, start in zip(
            architecture.groups, self.values, architecture.node_starts, strict=False
        ):
            if group.role == "hidden":
                name = KIND_NAMES[bool({*powers} - self.signs), bool({*powers} & self.signs)]
                kind[start : start + group.size] = _KINDS.index(name)
        live = [self._fits(block) for block in architecture.blocks]
        into = {
            block.target: block for block, fits in zip(architecture.blocks, live, strict=True)
            if fits and block.slab.axes == "b" and not block.identity
        }
        holder, free, variance = self._columns(into)
        varied = {c.group for c in architecture.columns if bool(variance[c.start].any())}
        normed = [into.get(b.target) is b and b.target in varied for b in architecture.blocks]
        blocks = (torch.tensor(values, dtype=torch.bool) for values in (live, normed))
        return Characters(kind, next(blocks), holder, free, next(blocks), variance)

    def _columns(self, into: Mapping[int, Block]) -> tuple[Tensor, Tensor, Tensor]:
        """Return who holds each column, whether it is free, and whether a running variance."""
        starts, nodes = self.architecture.node_starts, torch.arange(self.architecture.num_nodes)
        holder = torch.full((len(nodes), len(self.architecture.column_names)), -1)
        free, variance = (torch.zeros(holder.shape, dtype=torch.bool) for _ in range(2))
        own: list[tuple[slice, slice]] = []
        for column in self.architecture.columns:
            powers, group = self.total((self.powers(column, "t"), 1)), column.group
            rows = slice(column.start, column.stop)
            places = slice(column.column, column.column + column.width)
            if powers == self.values[group]:
                own.append((rows, places))
            elif not powers:
                free[rows, places] = True
            elif group in into and self._held(into[group], powers):
                start = starts[into[group].source]
                holder[start : start + column.stop - column.start, places] = nodes[rows, None]
            variance[rows, places] = column.slab.column == "running_var" and not powers
        for rows, places in own:  # above what is held elsewhere
            holder[rows, places] = nodes[rows, None]
        return holder, free, variance

    def _held(self, block: Block, powers: Powers) -> bool:
        """Whether a column of the targets of a block is multiplied as its sources are."""
        same = powers == self.values[block.source]
        return same and all(self._same(block, number) for number in powers)

    def _fits(self, block: Block) -> bool:
        """Whether the edges of a block are multiplied as the neurons at its ends are."""
        target, source = self.values[block.target], self.values[block.source]
        stated = {end: self.powers(block, end) for end in "ts"}
        for number in {*target, *source, *stated["t"], *stated["s"]}:
            ends = [stated["t"].get(number, 0), stated["s"].get(number, 0)]
            wanted = [target.get(number, 0), -source.get(number, 0)]
            if self._same(block, number):
                ends, wanted = [sum(ends)], [sum(wanted)]
            for stated_power, power in zip(ends, wanted, strict=True):
                difference = stated_power - power
                if difference % 2 if number in self.signs else difference:
                    return False
        return True

    def _same(self, block: Block, number: int) -> bool:
        """Whether both ends of each edge of a block are one neuron of the space of a scale."""
        space = self.scales[number].space
        groups = [self.architecture.groups[g] for g in (block.target, block.source)]
        if any([f.space for f in group.factors].count(space) != 1 for group in groups):
            return False
        target, source = (
            scale_places(self.architecture, space, g).reshape(block.parts, -1)
            for g in (block.target, block.source)
        )
        part = target[:, :1]
        return bool((target == part).all()) and bool((source == part).all())
