"""Weight spaces: named tensors whose axes count neurons of a space, or are free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor.

    Args:
        size: number of indices.
        space: neuron space whose relabelling moves the indices; ``None`` for a free axis.
        label: what the names of basis elements call the axis, such as ``"input side"``.
        power: by which power of a neuron's factor its entries are multiplied where neurons are
            scaled: 1, or -1 for the input side of a weight.
    """

    size: int
    space: str | None = None
    label: str = ""
    power: int = 1


@dataclass(frozen=True)
class WeightTensor:
    """A tensor of a weight space: its name and its axes; no axes make a scalar.

    Raises:
        ArchitectureError: if an axis has a size below 1, or two axes one label.
    """

    name: str
    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        for place, axis in enumerate(self.axes):
            if axis.size < 1:
                raise ArchitectureError(
                    f"tensor {self.name!r}: axis {place} has size {axis.size}; "
                    "expected at least 1."
                )
        labels = [axis.label for axis in self.axes]
        if len(set(labels)) < len(labels):
            raise ArchitectureError(
                f"tensor {self.name!r} has axes labelled {labels}; labels are unique in a tensor."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def free_axes(self) -> tuple[int, ...]:
        """Places of the axes that no relabelling moves."""
        return tuple(i for i, axis in enumerate(self.axes) if axis.space is None)

    @property
    def free_shape(self) -> tuple[int, ...]:
        """Sizes of the free axes."""
        return tuple(self.axes[i].size for i in self.free_axes)

    @property
    def free_numel(self) -> int:
        """c(A): number of free coordinates, which behave like channels."""
        return math.prod(self.free_shape)

    def at(self, free: Sequence[object] | None = None) -> str:
        """Name of the tensor at these free coordinates, such as ``"0.weight[:, 1]"``.

        ``*`` stands for all of them; tensors without free axes are named by their name alone.
        """
        if not self.free_axes:
            return self.name
        coordinates = iter(["*"] * len(self.free_axes) if free is None else free)
        inner = [":" if axis.space is not None else str(next(coordinates)) for axis in self.axes]
        return f"{self.name}[{', '.join(inner)}]"


@dataclass(frozen=True)
class WeightSpace:
    r"""The direct sum of named tensors, and the group that relabels neurons in it.

    A space h of size d brings the symmetric group S_d, which moves every axis of h at once; the
    group is the product over the spaces. A space may occur in many tensors, and several times in
    one (residual and recurrent weights). The coordinates are the entries of the tensors, tensor
    after tensor, each in C order.

    Args:
        tensors: in the order in which their entries are numbered.

    Raises:
        ArchitectureError: if two tensors have one name, or a space has two sizes.

    Example:
        >>> space = WeightSpace.of(Architecture.mlp([2, 8, 8, 1]))
        >>> space.numel
        105
    """

    tensors: tuple[WeightTensor, ...]

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) < len(names):
            raise ArchitectureError(f"a weight space has tensors {names}; names are unique.")
        common_sizes(self)

    @classmethod
    def of(cls, architecture: Architecture, permute_io: bool = False) -> WeightSpace:
        """Weight space of an architecture's parameters.

        Args:
            architecture: its groups' spaces are the spaces; groups without one are fixed, so that
                their axes are free.
            permute_io: also relabel the input and output groups, each on its own (the NP case of
                Zhou et al. 2023). Hidden groups without a space stay fixed.
        """
        used = {group.space for group in architecture.groups}
        spaces: list[str | None] = []
        for group in architecture.groups:
            space = group.space
            if isinstance(space, tuple):
                raise ArchitectureError(
                    f"group {group.name!r} is a product of neuron spaces; the analytic basis knows "
                    "axes of one space each. State the axes with WeightSpace.from_axes."
                )
            if space is None and permute_io and group.role != "hidden":
                space = group.name
                while space in used:
                    space += "'"
                used.add(space)
            spaces.append(space)
        tensors = []
        for parameter in architecture.parameters:
            if len(parameter.axes) != len(parameter.shape):
                raise ArchitectureError(
                    f"parameter {parameter.name!r} has no axes that count one neuron group each; "
                    "state the axes with WeightSpace.from_axes."
                )
            owners = (None if group is None else spaces[group] for group in parameter.axes)
            pairs = zip(parameter.shape, owners, strict=True)
            tensors.append(_tensor(parameter.name, *pairs))
        return cls(tuple(tensors))

    @classmethod
    def from_axes(
        cls, tensors: Mapping[str, Sequence[str | int]], sizes: Mapping[str, int]
    ) -> WeightSpace:
        """Weight space from names of spaces and sizes of free axes.

        Example:
            >>> WeightSpace.from_axes({"W": ("h", "h"), "b": ("h",), "V": (3, "h")}, {"h": 8})
        """
        for name, axes in tensors.items():
            for axis in axes:
                if isinstance(axis, str) and axis not in sizes:
                    raise ArchitectureError(
                        f"tensor {name!r} has an axis of space {axis!r}, whose size is not given; "
                        f"sizes are given for {sorted(sizes)}."
                    )
        pairs = {
            name: [(sizes[a], a) if isinstance(a, str) else (a, None) for a in axes]
            for name, axes in tensors.items()
        }
        return cls(tuple(_tensor(name, *own) for name, own in pairs.items()))

    @classmethod
    def free(cls, name: str, *shape: int) -> WeightSpace:
        """One tensor that nothing moves: the target of invariant maps, the source of constants."""
        return cls((_tensor(name, *((size, None) for size in shape)),))

    def with_channels(self, channels: int) -> WeightSpace:
        """The same tensors with a free last axis: ``[*shape, C]``."""
        axis = Axis(channels, None, "channel")
        return WeightSpace(tuple(WeightTensor(t.name, (*t.axes, axis)) for t in self.tensors))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Size of each neuron space that occurs, in order of occurrence."""
        return common_sizes(self)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First coordinate of each tensor, then the number of coordinates."""
        return tuple(accumulate((tensor.numel for tensor in self.tensors), initial=0))

    @property
    def numel(self) -> int:
        """Number of coordinates."""
        return self.starts[-1]

    def tensor(self, name: str) -> WeightTensor:
        """The tensor of this name."""
        return self.tensors[self.index(name)]

    def index(self, name: str) -> int:
        """Place of the tensor of this name."""
        for i, tensor in enumerate(self.tensors):
            if tensor.name == name:
                return i
        raise ArchitectureError(
            f"the weight space has no tensor {name!r}; it has "
            f"{', '.join(tensor.name for tensor in self.tensors)}."
        )

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Coordinates ``[..., n]`` of a dict of tensors ``[..., *shape]``."""
        parts = []
        for tensor in self.tensors:
            value = checked(tensor, values)
            parts.append(value.reshape((*value.shape[: value.dim() - len(tensor.axes)], -1)))
        return torch.cat(parts, dim=-1)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Dict of tensors ``[..., *shape]`` with these coordinates ``[..., n]``."""
        if vector.shape[-1] != self.numel:
            raise ArchitectureError(
                f"a vector of shape {tuple(vector.shape)} has {vector.shape[-1]} coordinates; "
                f"the weight space has {self.numel}."
            )
        parts = torch.split(vector, [tensor.numel for tensor in self.tensors], dim=-1)
        return {
            tensor.name: part.reshape((*vector.shape[:-1], *tensor.shape))
            for tensor, part in zip(self.tensors, parts, strict=True)
        }


def weight_space(what: Architecture | WeightSpace, permute_io: bool = False) -> WeightSpace:
    """The weight space itself, or that of an architecture."""
    if isinstance(what, WeightSpace):
        if permute_io:
            raise ArchitectureError(
                "permute_io=True was given with a WeightSpace, whose axes already say what is "
                "relabelled; make it with WeightSpace.of(architecture, permute_io=True)."
            )
        return what
    return WeightSpace.of(what, permute_io)


def common_sizes(*spaces: WeightSpace) -> dict[str, int]:
    """Sizes of the neuron spaces of these weight spaces, on which one group acts."""
    sizes: dict[str, int] = {}
    for space in spaces:
        for tensor in space.tensors:
            for axis in tensor.axes:
                if axis.space is not None and sizes.setdefault(axis.space, axis.size) != axis.size:
                    raise ArchitectureError(
                        f"tensor {tensor.name!r} has an axis of space {axis.space!r} with size "
                        f"{axis.size}; elsewhere that space has size {sizes[axis.space]}."
                    )
    return sizes


def checked(tensor: WeightTensor, values: Mapping[str, Tensor]) -> Tensor:
    """The value of a tensor in a dict, with its shape checked; leading axes are allowed."""
    if tensor.name not in values:
        raise ArchitectureError(
            f"the values lack {tensor.name!r}; they have {', '.join(values) or 'nothing'}."
        )
    value = values[tensor.name]
    lead = value.dim() - len(tensor.axes)
    if lead < 0 or tuple(value.shape[lead:]) != tensor.shape:
        raise ArchitectureError(
            f"{tensor.name!r} has shape {tuple(value.shape)}; expected [..., "
            f"{', '.join(map(str, tensor.shape))}]."
        )
    return value


def _tensor(name: str, *axes: tuple[int, str | None]) -> WeightTensor:
    """A tensor of axes by size and space, labelled by their number."""
    labels = {1: ["neurons"], 2: ["output side", "input side"]}.get(
        len(axes), [f"axis {i}" for i in range(len(axes))]
    )
    return WeightTensor(
        name,
        tuple(
            Axis(size, space, label, -1 if label == "input side" else 1)
            for (size, space), label in zip(axes, labels, strict=True)
        ),
    )
