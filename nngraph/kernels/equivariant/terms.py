r"""What an equivariant linear layer consists of, as data derived from the architecture.

Every parameter tensor A has permuted axes (neuron groups that are relabelled) and free axes, which
behave like channels: c(A) of them. A linear map commutes with relabelling exactly when it is a sum
of *global mixing* (a table with a slot for each tensor and free coordinate), *node mixing* (for
each permuted group k such a table at every neuron, of the tensors that have index k) and *edge
mixing* (for each tensor with two permuted axes). A :class:`Terms` lists these tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture

#: Which groups that the architecture fixes are treated as relabelled too.
PermuteIO = bool | Literal["input", "output"]


@dataclass(frozen=True)
class MixedTensor:
    """One parameter tensor of C channels, as rows ``start:stop`` of the edge or node features.

    Args:
        name: of the parameter; of the group, where several columns fill its nodes.
        on_edges: whether it is a block of edges, ``[targets, sources]``, or rows of nodes.
        start, stop: its rows.
        shape: its sizes, without channels.
        groups: the neuron group of each axis.
        permuted: for each axis whether relabelling moves it.
    """

    name: str
    on_edges: bool
    start: int
    stop: int
    shape: tuple[int, ...]
    groups: tuple[int, ...]
    permuted: tuple[bool, ...]

    @property
    def free(self) -> int:
        """c(A): number of coordinates on the free axes."""
        return math.prod(n for n, p in zip(self.shape, self.permuted, strict=True) if not p)

    @property
    def permuted_axes(self) -> tuple[int, ...]:
        """Places of the permuted axes."""
        return tuple(i for i, p in enumerate(self.permuted) if p)

    @property
    def has_edge_mixing(self) -> bool:
        """Whether all axes of a block are permuted, so that each edge is mixed with itself."""
        return len(self.permuted_axes) == 2


@dataclass(frozen=True)
class Slot:
    """Slots ``start:stop`` of a table, one per free coordinate of a tensor, its index in ``Terms``.

    The tensor's ``axis`` counts the table's neurons, -1 in the global table; ``pooled`` entries are
    averaged in a slot; ``home`` is the first permuted axis, whose table the global table pools.
    """

    tensor: int
    axis: int
    start: int
    stop: int
    pooled: int
    home: bool


@dataclass(frozen=True)
class GroupTable:
    """The table of one permuted group: ``size`` neurons, ``slots`` slots of C channels."""

    group: int
    size: int
    parts: tuple[Slot, ...]

    @property
    def slots(self) -> int:
        """c_k: sum of c(A) over the tensors that have the group as an axis."""
        return self.parts[-1].stop


@dataclass(frozen=True)
class Terms:
    """Tables of an equivariant linear layer; see the module's description.

    Args:
        architecture: of the networks.
        permute_io: which fixed groups are treated as relabelled.
        tensors: every parameter tensor that carries features.
        tables: one per permuted group that is an axis of a tensor.
        slots: the global table: one :class:`~nngraph.kernels.equivariant.terms.Slot` per tensor, in
            the order of ``tensors``.

    Example:
        >>> terms = Terms.of(Architecture.mlp([2, 32, 32, 1]))
        >>> terms.num_slots, [table.slots for table in terms.tables], terms.dimension
        (7, [4, 3], 75)
    """

    architecture: Architecture
    permute_io: PermuteIO
    tensors: tuple[MixedTensor, ...]
    tables: tuple[GroupTable, ...]
    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, architecture: Architecture, permute_io: PermuteIO = False) -> Terms:
        """Derive the tables of an architecture; cached.

        Raises:
            ArchitectureError: if several groups share a neuron space, or a tensor has one group
                twice, as with residual and recurrent connections: these have further basis
                elements, which the tables do not hold.
            ValueError: if ``permute_io`` is none of False, True, "input", "output".
        """
        if not isinstance(permute_io, bool) and permute_io not in ("input", "output"):
            raise ValueError(
                f"permute_io is {permute_io!r}; expected False, True, 'input' or 'output'."
            )
        return _terms(architecture, permute_io)

    @property
    def num_slots(self) -> int:
        """S: sum of c(A) over all tensors; also the number of constants."""
        return self.slots[-1].stop if self.slots else 0

    @cached_property
    def edge_mixing(self) -> tuple[int, ...]:
        """Indices of the tensors with edge mixing."""
        return tuple(i for i, tensor in enumerate(self.tensors) if tensor.has_edge_mixing)

    @property
    def dimension(self) -> int:
        r"""N_lin = :math:`S^2 + \sum_k c_k^2 +` number of tensors with edge mixing.

        The number of weights for each pair of channels; the dimension of the space of equivariant
        maps where every permuted group has at least two neurons.
        """
        slots = [self.num_slots, *(table.slots for table in self.tables)]
        return sum(count**2 for count in slots) + len(self.edge_mixing)

    def parts_of(self, tensor: int) -> tuple[tuple[int, Slot], ...]:
        """The tables in which a tensor has slots, with its slots there."""
        return tuple(
            (k, part)
            for k, table in enumerate(self.tables)
            for part in table.parts
            if part.tensor == tensor
        )


@lru_cache(maxsize=256)
def _terms(architecture: Architecture, permute_io: PermuteIO) -> Terms:
    io = [role for role in ("input", "output") if permute_io in (True, role)]
    permuted = [group.space is not None or group.role in io for group in architecture.groups]
    _refuse_shared_spaces(architecture)
    tensors = [
        MixedTensor(
            block.parameter.name, True, block.start, block.stop, block.shape, ends,
            tuple(permuted[group] for group in ends),
        )
        for block in architecture.blocks for ends in [(block.target, block.source)]
    ]  # fmt: skip
    # One node tensor per group with parameters: columns of a group are channels of one tensor.
    for group in dict.fromkeys(column.group for column in architecture.columns):
        names = [c.parameter.name for c in architecture.columns if c.group == group]
        start, stop = architecture.node_starts[group : group + 2]
        name = names[0] if len(names) == 1 else architecture.groups[group].name
        tensors.append(
            MixedTensor(name, False, start, stop, (stop - start,), (group,), (permuted[group],))
        )
    tables = []
    for group, spec in enumerate(architecture.groups):
        parts: list[Slot] = []
        for index, tensor in enumerate(tensors):
            if permuted[group] and group in tensor.groups:
                axis = tensor.groups.index(group)
                start = parts[-1].stop if parts else 0
                pooled = math.prod(tensor.shape) // (spec.size * tensor.free)
                home = tensor.permuted_axes[0] == axis
                parts.append(Slot(index, axis, start, start + tensor.free, pooled, home))
        if parts:
            tables.append(GroupTable(group, spec.size, tuple(parts)))
    slots: list[Slot] = []
    for index, tensor in enumerate(tensors):
        start = slots[-1].stop if slots else 0
        pooled = math.prod(tensor.shape) // tensor.free
        slots.append(Slot(index, -1, start, start + tensor.free, pooled, False))
    return Terms(architecture, permute_io, tuple(tensors), tuple(tables), tuple(slots))


def _refuse_shared_spaces(architecture: Architecture) -> None:
    owner: dict[str, str] = {}
    for group in architecture.groups:
        if isinstance(group.space, tuple):
            raise ArchitectureError(
                f"group {group.name!r} is a product of neuron spaces, as attention heads make "
                "them; equivariant linear layers know groups of one space. Use a message-passing "
                "layer."
            )
        if group.space is not None and group.space in owner:
            raise ArchitectureError(
                f"groups {owner[group.space]!r} and {group.name!r} share the neuron space "
                f"{group.space!r}, as residual connections make them; equivariant linear layers "
                "know one group per space. Use nngraph.basis for the maps of such architectures, "
                "or a message-passing layer."
            )
        if group.space is not None:
            owner[group.space] = group.name
    for block in architecture.blocks:
        if block.parts > 1:
            raise ArchitectureError(
                f"parameter {block.parameter.name!r} is a grouped or diagonal block; equivariant "
                "linear layers know dense ones only. Use a message-passing layer."
            )
        if block.source == block.target:
            raise ArchitectureError(
                f"parameter {block.parameter.name!r} runs from group "
                f"{architecture.groups[block.source].name!r} to itself, as recurrent weights do; "
                "equivariant linear layers know tensors of distinct groups only."
            )


def pool_globally(terms: Terms, x: Tensor, edge_attr: Tensor) -> Tensor:
    """Average every tensor over all its permuted axes: the global table ``[B, S C]``."""
    pooled = []
    for tensor, view in zip(terms.tensors, _views(terms, x, edge_attr), strict=True):
        axes = [axis + 1 for axis in tensor.permuted_axes]
        pooled.append((view.mean(axes) if axes else view).flatten(1))
    return torch.cat(pooled, dim=-1)


def _views(terms: Terms, x: Tensor, edge_attr: Tensor) -> list[Tensor]:
    """Each tensor as ``[B, *shape, C]``, a view; split at once, so that gradients are one cat."""
    architecture = terms.architecture
    nodes = torch.split(x, list(architecture.widths), dim=1)
    edges = torch.split(edge_attr, [b.stop - b.start for b in architecture.blocks], dim=1)
    remaining = iter(edges)
    return [
        torch.unflatten(next(remaining), 1, tensor.shape) if tensor.on_edges
        else nodes[tensor.groups[0]]
        for tensor in terms.tensors
    ]  # fmt: skip
