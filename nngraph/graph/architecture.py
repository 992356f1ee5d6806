"""The frozen description of a network: neuron groups, parameters and where each of them lands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate, pairwise, zip_longest
from typing import Any

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture_json import Parts, from_plain, to_plain
from nngraph.graph.groups import MAX_SIZE, NeuronGroup, is_count
from nngraph.graph.layout import (
    INTEGERS,
    Block,
    Column,
    Parameter,
    Slab,
    check_cover,
    check_slab,
    slabs_of,
)
from nngraph.graph.neuron_scales import NeuronScale, check_scale
from nngraph.graph.permutations import Permutations
from nngraph.graph.spaces import Space, check_spaces, copies, leading_factors

#: Columns of node features that have one place in every architecture, up to the last that it uses:
#: what a neuron adds, statistics of a norm, a second bias, and a factor of its own.
COLUMNS = ("bias", "running_mean", "running_var", "bias_hh", "factor")


@dataclass(frozen=True)
class Architecture:
    """Groups of neurons and the parameters on them; no numbers, no tensors.

    Frozen, hashable, and equal exactly when every group and parameter is equal. Nodes are ordered
    group by group, edges block by block in the order of the parameters.

    Args:
        groups: the neuron groups in the order of computation.
        parameters: every tensor of the network once, in the order of its state dict.
        residuals: pairs ``(source, target)`` of groups of one size: the neurons of the source are
            added to those of the target, one by one.
        structure: neuron spaces that lie within others, or are fixed; the groups tell all others.
        scales: scales and signs of neurons that are known to leave its function as it is. None are
            stated of chains, of which the activations tell
            (:func:`nngraph.graph.scales_of`).

    Raises:
        ArchitectureError: if names repeat, sizes differ that are one, two parameters fill the same
            column, or a tensor is relabelled as none of its places in the graph can be.

    Example:
        >>> architecture = Architecture.mlp([2, 32, 32, 1], Activation("sine", w0=30))
        >>> architecture.num_nodes, architecture.num_edges
        (67, 1120)
    """

    groups: tuple[NeuronGroup, ...]
    parameters: tuple[Parameter, ...]
    residuals: tuple[tuple[int, int], ...] = ()
    structure: tuple[Space, ...] = ()
    scales: tuple[NeuronScale, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            raise ArchitectureError("an architecture has no neuron groups; expected at least one.")
        _unique("neuron group", [group.name for group in self.groups])
        _unique("parameter", [name for p in self.parameters for name in (p.name, *p.aliases)])
        _unique("neuron space", [space.name for space in self.structure])
        check_spaces(self.all_spaces)
        for group in self.groups:
            self._check_factors(group)
        for parameter in self.parameters:
            self._check(parameter)
        filled = [
            (slab.target, slab.column)
            for p in self.parameters for slab in slabs_of(p) if slab.column is not None
        ]
        if len(set(filled)) < len(filled):
            raise ArchitectureError(
                "two parameters fill the same column of node features of one group."
            )
        for residual in self.residuals:
            if len(residual) != 2 or not all(
                is_count(g) and 0 <= g < len(self.groups) for g in residual
            ):
                raise ArchitectureError(
                    f"a residual is {residual!r}; expected two indices of groups."
                )
        for block in self.blocks:
            self._check_parts(block)
        if max(self.num_nodes, self.num_edges) > MAX_SIZE:
            raise ArchitectureError(
                f"the architecture has {self.num_nodes} neurons and {self.num_edges} edges; "
                f"at most {MAX_SIZE} of each are supported."
            )
        for scale in self.scales:
            check_scale(scale, self.groups, self.slabs, self.all_spaces)

    def _check_factors(self, group: NeuronGroup) -> None:
        own = [factor.space for factor in group.factors]
        for factor in group.factors:
            if factor.space is None:
                continue
            space = self.all_spaces[factor.space]
            if space.size != factor.size:
                raise ArchitectureError(
                    f"group {group.name!r} of space {space.name!r} has {factor.size} neurons "
                    f"where another group of that space has {space.size}; "
                    "groups that are relabelled together have one size."
                )
            if missing := [outer for outer in space.within if outer not in own]:
                raise ArchitectureError(
                    f"group {group.name!r} has the space {space.name!r}, which lies within "
                    f"{missing[0]!r}, but no factor of that space; got {own}."
                )

    def _check_parts(self, block: Block) -> None:
        """Check that a relabelling moves the parts of a block as whole parts, at both ends."""
        if block.parts == 1:
            return
        ends = self.groups[block.target], self.groups[block.source]
        outer = [leading_factors(group.factors, block.parts) for group in ends]
        if outer[0] is None or outer[0] != outer[1]:
            raise ArchitectureError(
                f"the {block.parts} parts of {block.parameter.name!r} are, at its groups "
                f"{self.groups[block.target].name!r} and {self.groups[block.source].name!r}, not "
                f"the same leading factors ({self.groups[block.target].factors} and "
                f"{self.groups[block.source].factors}); parts are relabelled together or not at "
                "all."
            )

    def _check(self, parameter: Parameter) -> None:
        where = f"parameter {parameter.name!r}"
        if not isinstance(parameter.name, str) or not parameter.name:
            raise ArchitectureError(f"{where}: a parameter's name is a string that is not empty.")
        for axis, size in enumerate(parameter.shape):
            if not is_count(size) or size < 1:
                raise ArchitectureError(
                    f"{where}: axis {axis} has size {size!r}; expected at least 1."
                )
        if parameter.integer not in (None, *INTEGERS):
            raise ArchitectureError(
                f"{where} has whole numbers of {parameter.integer!r}; expected one of "
                f"{', '.join(INTEGERS)}."
            )
        if parameter.integer or parameter.slabs:
            if parameter.axes or parameter.column or (parameter.integer and parameter.slabs):
                raise ArchitectureError(
                    f"{where}: whole numbers and slabs come without axes and column."
                )
            for slab in parameter.slabs:
                check_slab(slab, parameter, self.widths)
            if parameter.slabs:
                check_cover(parameter)
            return
        if len(parameter.shape) != len(parameter.axes):
            raise ArchitectureError(
                f"{where} has shape {parameter.shape} but names {len(parameter.axes)} axes."
            )
        for axis, (size, group) in enumerate(zip(parameter.shape, parameter.axes, strict=True)):
            if group is None:
                continue
            if not is_count(group) or not 0 <= group < len(self.groups):
                raise ArchitectureError(
                    f"{where}: axis {axis} names group {group!r}; "
                    f"expected an index below {len(self.groups)}, or None for a free axis."
                )
            if size != self.groups[group].size:
                raise ArchitectureError(
                    f"{where}: axis {axis} has size {size} but group "
                    f"{self.groups[group].name!r} has {self.groups[group].size} neurons."
                )
        expected = 2 if parameter.column is None else 1
        if len([group for group in parameter.axes if group is not None]) != expected:
            raise ArchitectureError(
                f"{where} has axes {parameter.axes}; a "
                + ("block of edges has the two axes (target group, source group)"
                   if expected == 2 else "column of node features has one axis, its group")
                + ", and free axes."
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

        An ArchitectureError says what lengths do not fit together.
        """
        depth = len(widths) - 1
        if depth < 1:
            raise ArchitectureError(
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
                raise ArchitectureError(
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
            parameters.append(Parameter(f"{prefix}weight", (width, widths[i]), (i + 1, i)))
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
        """The blocks of edges: those of the parameters in their order, then the residuals."""
        blocks: list[Block] = []
        identities = [self._identity(*residual) for residual in self.residuals]
        for parameter in (*self.parameters, *identities):
            for slab in slabs_of(parameter):
                if slab.column is not None:
                    continue
                assert slab.source is not None
                parts, rows, columns, taps = slab.sizes(parameter.shape).values()
                start = blocks[-1].stop if blocks else 0
                blocks.append(
                    Block(
                        len(blocks), parameter, slab, slab.source, slab.target, start,
                        start + parts * rows * columns, parts, rows, columns, taps,
                        identity=parameter in identities,
                    )
                )  # fmt: skip
        return tuple(blocks)

    def _identity(self, source: int, target: int) -> Parameter:
        """Return what stands for the edges of a residual; no state dict holds it."""
        names = self.groups[source].name, self.groups[target].name
        size = self.groups[target].size
        return Parameter(" + ".join(names), (size,), slabs=(Slab("b", target, source),))

    @property
    def num_edges(self) -> int:
        """E, the number of edges of all blocks."""
        return self.blocks[-1].stop if self.blocks else 0

    @cached_property
    def num_taps(self) -> int:
        """Features of the edges: as many as the largest kernel has taps; 1 for an MLP."""
        return max((block.taps for block in self.blocks), default=1)

    @cached_property
    def _column_widths(self) -> dict[str, int]:
        widths: dict[str, int] = {}
        for parameter in self.parameters:
            for slab in slabs_of(parameter):
                if slab.column is not None:
                    width = slab.sizes(parameter.shape)["f"]
                    widths[slab.column] = max(widths.get(slab.column, 1), width)
        last = max((COLUMNS.index(name) for name in widths if name in COLUMNS), default=0)
        return {**{name: widths.get(name, 1) for name in COLUMNS[: last + 1]}, **widths}

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the F columns of node features: those of ``COLUMNS`` at their place, others."""
        return tuple(
            name if width == 1 else f"{name}.{i}"
            for name, width in self._column_widths.items() for i in range(width)
        )

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Where each slab on nodes lands, in the order of the parameters."""
        columns = []
        starts = accumulate(self._column_widths.values(), initial=0)
        first = dict(zip(self._column_widths, starts, strict=False))
        for parameter in self.parameters:
            for slab in slabs_of(parameter):
                if slab.column is not None:
                    start, stop = self.node_starts[slab.target], self.node_starts[slab.target + 1]
                    width = slab.sizes(parameter.shape)["f"]
                    columns.append(
                        Column(parameter, slab, slab.target, first[slab.column], width, start, stop)
                    )
        return tuple(columns)

    @cached_property
    def slabs(self) -> tuple[tuple[Parameter, Slab], ...]:
        """Each slab after its parameter: those on edges in the order of the blocks, then others."""
        on_edges = [(b.parameter, b.slab) for b in self.blocks if not b.identity]
        return (*on_edges, *((c.parameter, c.slab) for c in self.columns))

    @cached_property
    def integers(self) -> tuple[Parameter, ...]:
        """The buffers of whole numbers, which are carried beside the features."""
        return tuple(parameter for parameter in self.parameters if parameter.integer is not None)

    @cached_property
    def all_spaces(self) -> dict[str, Space]:
        """Every neuron space by its name, in the order of computation; also the fixed ones."""
        stated = {space.name: space for space in self.structure}
        found: dict[str, Space] = {}
        for group in self.groups:
            for factor in group.factors:
                if factor.space is not None and factor.space not in found:
                    plain = Space(factor.space, factor.size)
                    found[factor.space] = stated.get(factor.space, plain)
        return {**found, **{name: s for name, s in stated.items() if name not in found}}

    @cached_property
    def spaces(self) -> dict[str, int]:
        """Size of each neuron space that is relabelled, in the order of computation."""
        return {name: space.size for name, space in self.all_spaces.items() if not space.fixed}

    @cached_property
    def permutations(self) -> Permutations:
        """The group of permutations of the spaces."""
        return Permutations(self.all_spaces)

    def copies(self, space: str) -> int:
        """Number of permutations that a relabelling has of a space: 1 unless within others."""
        return copies(self.all_spaces, space)

    @cached_property
    def chain_fault(self) -> str | None:
        """What keeps it from being a chain of affine maps, in words; ``None`` if it is one."""
        wanted = [(i, i + 1, (n, m)) for i, (m, n) in enumerate(pairwise(self.widths))]
        found = [(b.source, b.target, b.parameter.shape) for b in self.blocks]
        for place, (own, other) in enumerate(zip_longest(found, wanted)):
            if own is None:
                return f"no weight leads to the group {self.groups[other[1]].name!r}"
            if own != other:
                source, target = (self.groups[g].name for g in own[:2])
                name = self.blocks[place].parameter.name
                return f"{name!r} of shape {own[2]} leads from {source!r} to {target!r}"
        for p in self.parameters:
            if p.column is not None and (p.column, len(p.axes), 0 in p.axes) != ("bias", 1, False):
                return f"{p.name!r} is neither the weight nor the bias of a layer"
            if not p.axes:
                return f"{p.name!r} is no whole weight or bias"
        return "some of its neurons lie within others, or are fixed" if self.structure else None

    @property
    def is_chain(self) -> bool:
        """Whether it is an MLP: one weight from each group to the next, biases, and no more."""
        return self.chain_fault is None

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of the groups: d_0 .. d_L of an MLP."""
        return tuple(group.size for group in self.groups)

    def __str__(self) -> str:
        hidden = dict.fromkeys(
            str(group.activation) for group in self.groups if group.role == "hidden"
        )
        return "-".join(map(str, self.widths)) + (f" {', '.join(hidden)}" if hidden else "")

    @property
    def _parts(self) -> Parts:
        return self.groups, self.parameters, self.residuals, self.structure, self.scales

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Computed once: architectures are dictionary keys on hot paths.
        return hash(self._parts)

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached properties: string hashes differ from process to process.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    # -- JSON ---------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain lists, dicts, strings and numbers."""
        return to_plain(self._parts)

    @classmethod
    def from_dict(cls, data: object) -> Architecture:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArchitectureError: if the version is unknown, or anything is missing or malformed.
        """
        return cls(*from_plain(data))

    def to_json(self, indent: int | None = None) -> str:
        """Return the description as JSON; :meth:`from_json` gives an equal object back."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Architecture:
        """Read what :meth:`to_json` wrote; raises as :meth:`from_dict` does."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArchitectureError(f"an architecture is not valid JSON: {error}.") from None
        return cls.from_dict(data)


def _unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ArchitectureError(
                f"two of the architecture's {what}s are called {name!r}; names are unique."
            )
        seen.add(name)
