"""The frozen description of a network: neuron groups, parameters and where each of them lands."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation

__all__ = ["ROLES", "Architecture", "Block", "Column", "NeuronGroup", "Parameter"]

#: What a neuron group is to its network; a node's role is its index here.
ROLES = ("input", "hidden", "output")
#: More neurons or edges than this are refused when a description is read: no int64 index overflows.
MAX_SIZE = 2**40


_IDENTITY = Activation("identity")


def _refuse(message: str) -> ArchitectureError:
    return ArchitectureError(message)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class NeuronGroup:
    """An ordered set of neurons that the architecture treats alike, such as one layer's units.

    Args:
        name: unique within the architecture.
        size: number of neurons, at least 1.
        role: ``"input"``, ``"hidden"`` or ``"output"``.
        activation: what the neurons of the group apply to their pre-activation.
        space: neuron space of the group. Groups of one space are relabelled together; ``None``
            means fixed, as the inputs and outputs of a network are.
    """

    name: str
    size: int
    role: str
    activation: Activation = _IDENTITY
    space: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise _refuse(
                f"a neuron group's name is {self.name!r}; expected a string that is not empty."
            )
        if not _is_count(self.size) or not 1 <= self.size <= MAX_SIZE:
            raise _refuse(
                f"group {self.name!r} has size {self.size!r}; expected an integer of at least 1."
            )
        if self.role not in ROLES:
            raise _refuse(
                f"group {self.name!r} has role {self.role!r}; expected one of {', '.join(ROLES)}."
            )
        if not isinstance(self.activation, Activation):
            raise _refuse(
                f"group {self.name!r} has activation {self.activation!r}; expected an Activation."
            )
        if self.space is not None and (not isinstance(self.space, str) or not self.space):
            raise _refuse(
                f"group {self.name!r} has space {self.space!r}; expected a name, or None for fixed."
            )


@dataclass(frozen=True)
class Parameter:
    """One tensor of the network: its axes, and where it lands in the graph.

    Args:
        name: key in the state dict, such as ``"0.weight"``.
        shape: shape of the tensor, in torch's own order (``[out, in]`` for a weight).
        axes: for each axis the index of the neuron group that it counts; ``None`` for a free axis.
        column: ``None`` if the tensor is a block of edges; otherwise the column of node features
            that it fills at the neurons of its group, such as ``"bias"``.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int | None, ...]
    column: str | None = None

    @property
    def numel(self) -> int:
        """Number of entries of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Block:
    """All edges of one parameter between two groups: edges ``start:stop``, a dense array.

    The edges are sorted by target and then by source, so that edge ``start + i * sources + j``
    carries entry ``[i, j]`` of the parameter and runs from neuron ``j`` of group ``source`` to
    neuron ``i`` of group ``target``.
    """

    index: int
    parameter: Parameter
    source: int
    target: int
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(targets, sources)``, torch's ``[out, in]``."""
        return self.parameter.shape[0], self.parameter.shape[1]


@dataclass(frozen=True)
class Column:
    """Where a node parameter lands: rows ``start:stop`` of a column of the node features."""

    parameter: Parameter
    group: int
    column: int
    start: int
    stop: int


@dataclass(frozen=True)
class Architecture:
    """Groups of neurons and the parameters on them; no numbers, no tensors.

    Frozen, hashable, and equal exactly when every group and parameter is equal. Nodes are ordered
    group by group, edges block by block in the order of the parameters.

    Args:
        groups: the neuron groups in the order of computation.
        parameters: every tensor of the network once, in the order of its state dict.

    Raises:
        ArchitectureError: if names repeat, an axis and its group differ in size, the groups of one
            space differ in size, or two parameters fill the same column of the same group.

    Example:
        >>> architecture = Architecture.mlp([2, 32, 32, 1], Activation("sine", w0=30))
        >>> architecture.num_nodes, architecture.num_edges
        (67, 1120)
    """

    groups: tuple[NeuronGroup, ...]
    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise _refuse("an architecture has no neuron groups; expected at least one.")
        _unique("neuron group", [group.name for group in self.groups])
        _unique("parameter", [parameter.name for parameter in self.parameters])
        sizes: dict[str, int] = {}
        for group in self.groups:
            if group.space is not None and sizes.setdefault(group.space, group.size) != group.size:
                raise _refuse(
                    f"group {group.name!r} of space {group.space!r} has {group.size} neurons where "
                    f"another group of that space has {sizes[group.space]}; "
                    "groups that are relabelled together have one size."
                )
        for parameter in self.parameters:
            self._check(parameter)
        filled = [(p.axes[0], p.column) for p in self.parameters if p.column is not None]
        if len(set(filled)) < len(filled):
            raise _refuse("two parameters fill the same column of node features of one group.")
        if max(self.num_nodes, self.num_edges) > MAX_SIZE:
            raise _refuse(
                f"the architecture has {self.num_nodes} neurons and {self.num_edges} edges; "
                f"at most {MAX_SIZE} of each are supported."
            )

    def _check(self, parameter: Parameter) -> None:
        where = f"parameter {parameter.name!r}"
        if not isinstance(parameter.name, str) or not parameter.name:
            raise _refuse(f"{where}: a parameter's name is a string that is not empty.")
        if len(parameter.shape) != len(parameter.axes):
            raise _refuse(
                f"{where} has shape {parameter.shape} but names {len(parameter.axes)} axes."
            )
        for axis, (size, group) in enumerate(zip(parameter.shape, parameter.axes, strict=True)):
            if not _is_count(size) or size < 1:
                raise _refuse(f"{where}: axis {axis} has size {size!r}; expected at least 1.")
            if group is None:
                continue
            if not _is_count(group) or not 0 <= group < len(self.groups):
                raise _refuse(
                    f"{where}: axis {axis} names group {group!r}; "
                    f"expected an index below {len(self.groups)}, or None for a free axis."
                )
            if size != self.groups[group].size:
                raise _refuse(
                    f"{where}: axis {axis} has size {size} but group "
                    f"{self.groups[group].name!r} has {self.groups[group].size} neurons."
                )
        expected = 2 if parameter.column is None else 1
        if len(parameter.axes) != expected or None in parameter.axes:
            raise _refuse(
                f"{where} has axes {parameter.axes}; a "
                + ("block of edges has the two axes (target group, source group)."
                   if expected == 2 else "column of node features has one axis, its group.")
            )

    @classmethod
    def mlp(
        cls,
        widths: Sequence[int],
        activations: Activation | str | Sequence[Activation | str] = "relu",
        bias: bool | Sequence[bool] = True,
        names: Sequence[str] | None = None,
    ) -> Architecture:
        """Describe a chain of L affine maps, ``x -> a_l(W_l x + b_l)``.

        Args:
            widths: d_0 .. d_L, inputs first; at least two.
            activations: one for all hidden layers (the last map then has none), or a sequence of
                one per hidden layer (L - 1) or one per map (L).
            bias: whether the maps have a bias, for all or for each map.
            names: prefix of each map's parameters; default ``"0"``, ``"1"``, ...

        Raises:
            ArchitectureError: if the lengths do not fit together.
        """
        depth = len(widths) - 1
        if depth < 1:
            raise _refuse(
                f"an MLP has widths {list(widths)!r}; expected inputs, hidden layers and outputs, "
                "at least two numbers."
            )
        if isinstance(activations, (Activation, str)):
            activations = [activations] * (depth - 1)
        functions = [Activation.of(activation) for activation in activations]
        if len(functions) == depth - 1:
            functions.append(Activation("identity"))
        biases = [bias] * depth if isinstance(bias, bool) else list(bias)
        prefixes = [str(i) for i in range(depth)] if names is None else list(names)
        for what, values in (("activations", functions), ("bias", biases), ("names", prefixes)):
            if len(values) != depth:
                raise _refuse(
                    f"an MLP of {depth} maps was given {len(values)} {what}; expected {depth}"
                    + (f" or {depth - 1}." if what == "activations" else ".")
                )
        groups = [NeuronGroup("input", widths[0], "input")]
        parameters = []
        for i, (width, function) in enumerate(zip(widths[1:], functions, strict=True)):
            last = i == depth - 1
            name = "output" if last else f"hidden.{i + 1}"
            groups.append(
                NeuronGroup(
                    name, width, "output" if last else "hidden", function, None if last else name
                )
            )
            prefix = f"{prefixes[i]}." if prefixes[i] else ""
            parameters.append(
                Parameter(f"{prefix}weight", (width, widths[i]), (i + 1, i))
            )
            if biases[i]:
                parameters.append(Parameter(f"{prefix}bias", (width,), (i + 1,), "bias"))
        return cls(tuple(groups), tuple(parameters))

    # -- what follows from the description ---------------------------------------------------

    @cached_property
    def node_starts(self) -> tuple[int, ...]:
        """First node of each group, then N: the nodes of group g are ``[g]:[g + 1]``."""
        return tuple(accumulate((group.size for group in self.groups), initial=0))

    @property
    def num_nodes(self) -> int:
        """N, the number of neurons of all groups."""
        return self.node_starts[-1]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of edges, in the order of their parameters."""
        blocks: list[Block] = []
        start = 0
        for parameter in self.parameters:
            if parameter.column is None:
                target, source = parameter.axes
                assert target is not None
                assert source is not None
                stop = start + parameter.numel
                blocks.append(Block(len(blocks), parameter, source, target, start, stop))
                start = stop
        return tuple(blocks)

    @property
    def num_edges(self) -> int:
        """E, the number of edges of all blocks."""
        return self.blocks[-1].stop if self.blocks else 0

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the F columns of node features; always starts with ``"bias"``."""
        names = dict.fromkeys(["bias"])
        names.update(dict.fromkeys(p.column for p in self.parameters if p.column is not None))
        return tuple(names)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Where each node parameter lands, in the order of the parameters."""
        columns = []
        for parameter in self.parameters:
            if parameter.column is not None:
                group = parameter.axes[0]
                assert group is not None
                start, stop = self.node_starts[group], self.node_starts[group + 1]
                column = self.column_names.index(parameter.column)
                columns.append(Column(parameter, group, column, start, stop))
        return tuple(columns)

    @cached_property
    def spaces(self) -> dict[str, int]:
        """Size of each neuron space, in the order of computation."""
        return {group.space: group.size for group in self.groups if group.space is not None}

    def groups_of_role(self, role: str) -> tuple[int, ...]:
        """Indices of the groups of one role."""
        return tuple(i for i, group in enumerate(self.groups) if group.role == role)

    @property
    def is_chain(self) -> bool:
        """Whether it is an MLP: one block from each group to the next, and no other."""
        return [(b.source, b.target) for b in self.blocks] == [
            (i, i + 1) for i in range(len(self.groups) - 1)
        ]

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of the groups: d_0 .. d_L of an MLP."""
        return tuple(group.size for group in self.groups)

    def __str__(self) -> str:
        hidden = dict.fromkeys(
            str(group.activation) for group in self.groups if group.role == "hidden"
        )
        return "-".join(map(str, self.widths)) + (f" {', '.join(hidden)}" if hidden else "")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Computed once: architectures are dictionary keys on hot paths.
        return hash((self.groups, self.parameters))

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached properties: string hashes differ from process to process.
        return {"groups": self.groups, "parameters": self.parameters}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(groups=state["groups"], parameters=state["parameters"])
        self.__post_init__()

    # -- JSON ---------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain lists, dicts, strings and numbers."""
        from nngraph.graph.architecture_json import to_plain

        return to_plain(self)

    @classmethod
    def from_dict(cls, data: object) -> Architecture:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArchitectureError: if the version is unknown, or anything is missing, of a wrong type,
                or inconsistent.
        """
        from nngraph.graph.architecture_json import from_plain

        return from_plain(data)

    def to_json(self, indent: int | None = None) -> str:
        """Return the description as JSON; :meth:`from_json` gives an equal object back."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Architecture:
        """Read what :meth:`to_json` wrote; raises as :meth:`from_dict` does."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _refuse(f"an architecture is not valid JSON: {error}.") from None
        return cls.from_dict(data)


def _unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _refuse(
                f"two of the architecture's {what}s are called {name!r}; names are unique."
            )
        seen.add(name)
