"""From the record of a network's layers to its architecture: groups, blocks, columns, residuals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from torch import Tensor

from converters.placement.following import Following
from converters.placement.slabs import Piece, are_fixed, cut_taps, pieces, slab_of
from converters.symmetry.axes import Axis
from converters.symmetry.derive import Derivation, Step
from nngraph.graph import MAX_SIZE, Activation, Architecture, Factor, NeuronGroup, Parameter, Slab

_IDENTITY = Activation("identity")
#: Kinds of layers whose results count channels right after the batch.
_CHANNELS_SECOND = ("convolution", "batch_norm", "group_norm", "instance_norm")

#: So many groups of fixed neurons of one size are told apart in what comes of them.
MAX_ALIKE = 16


@dataclass
class _Group:
    name: str
    factors: tuple[Factor, ...]
    role: str = "hidden"
    activation: Activation = _IDENTITY

    @property
    def size(self) -> int:
        return math.prod(factor.size for factor in self.factors)

    @property
    def is_fixed(self) -> bool:
        return are_fixed(self.factors)

    def neurons(self) -> NeuronGroup:
        factors = self.factors
        space = None if self.is_fixed else factors[0].space if len(factors) == 1 else factors
        return NeuronGroup(self.name, self.size, self.role, self.activation, space)


@dataclass
class Builder:
    """Groups and slabs as they are found, layer by layer."""

    derivation: Derivation
    tensors: Mapping[str, Tensor]
    groups: list[_Group] = field(default_factory=list)
    #: for each layer the groups whose neurons its output holds, in order
    output_groups: list[list[int]] = field(default_factory=list)
    slabs: dict[str, list[Slab]] = field(default_factory=dict)
    residuals: list[tuple[int, int]] = field(default_factory=list)
    filled: set[tuple[int, str]] = field(default_factory=set)
    #: how often each name was wanted for a group, and the names that are taken
    wanted: Counter[str] = field(default_factory=Counter)
    taken: set[str] = field(default_factory=set)
    times: dict[int, Counter[str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.following, spec = Following(self.derivation), self.derivation.spec
        #: for each name of a tensor the one under which the spec has it
        self.known = {n: name for name in spec.parameters
                      for n in (name, *spec.aliases.get(name, ()))}

    # -- layers -----------------------------------------------------------------------------------

    def new_parameters(self, layer: Step) -> list[tuple[str, str]]:
        """The (role, name) of parameters of a layer that have no place yet; no whole numbers."""
        own = [(role, self.known[name]) for role, name in layer.parameters]
        return [
            (role, name) for role, name in own
            if name not in self.slabs and self.tensors[name].dtype.is_floating_point
        ]

    def axis_pieces(self, name: str) -> list[tuple[Piece, ...]]:
        """The pieces of each axis of a parameter."""
        return [pieces(axis) for axis in self.derivation.spec.parameters[name]]

    def input_groups(self, layer: Step) -> list[int]:
        """Groups that carry the inputs of a layer, in order, each once."""
        return list(dict.fromkeys(g for i in layer.inputs for g in self.output_groups[i]))

    def passed_on(self, layer: Step) -> list[int]:
        """Groups of the inputs that the output of a layer still counts."""
        input_groups = self.input_groups(layer)
        return self.counted(layer, input_groups) or input_groups

    def counted(self, layer: Step, groups: Sequence[int]) -> list[int]:
        """Those of some groups that the output of a layer counts.

        Where there are more of a kind than the output has parts for, as where a tensor is written
        step by step, those are kept that were made last.
        """
        times: Counter[str | None] = Counter()
        for axis in layer.output_axes:
            times |= self._times(axis)
        kept: list[int] = []
        held: Counter[tuple[Factor, ...]] = Counter()
        for group in reversed(groups):
            factors = self.groups[group].factors
            spaces = {factor.space for factor in factors if factor.space is not None}
            most = min((times[space] for space in spaces), default=0) or (
                0 if spaces else min(times[None] // self.groups[group].size, MAX_ALIKE)
            )
            held[factors] += 1
            if held[factors] <= most:
                kept.append(group)
        return kept[::-1]

    def _times(self, axis: Axis) -> Counter[str | None]:
        """How many pieces of an axis count each space, and how many indices are fixed."""
        if id(axis) not in self.times:  # the derivation holds it as long as this builder is
            times: Counter[str | None] = Counter()
            for piece in pieces(axis):
                spaces = {factor.space for factor in piece.flat if factor.space is not None}
                times.update(spaces)
                times[None] += 0 if spaces else piece.size
            self.times[id(axis)] = times
        return self.times[id(axis)]

    # -- groups -----------------------------------------------------------------------------------

    def add_group(
        self, name: str, factors: Sequence[Factor], role: str = "hidden",
        activation: Activation = _IDENTITY,
    ) -> int:
        """Add a group; a name that is taken gets a number."""
        factors = tuple(f for f in factors if f.size > 1) or (Factor(1),)
        name = unique = name or "net"
        while unique in self.taken:
            self.wanted[name] += 1
            unique = f"{name}:{self.wanted[name] + 1}"
        self.taken.add(unique)
        self.groups.append(_Group(unique, factors, role, activation))
        return len(self.groups) - 1

    def activation(self, layer: Step, piece: Piece | None = None) -> Activation:
        """The activation of the neurons of a layer, or of a piece of the axis that counts them."""
        axis = 1 if layer.kind in _CHANNELS_SECOND else -1
        window = (0, MAX_SIZE) if piece is None else piece.window
        return self.following.activation(layer.result, axis, window)

    def source(self, layer: Step, piece: Piece, used: set[int], near: Sequence[int] = ()) -> int:
        """The group whose neurons a piece counts, of some or of the inputs; or else a new one."""
        for groups in (near, self.input_groups(layer)):
            candidates = [g for g in groups if match(piece, self.groups[g].factors)]
            if candidates:
                return first_unused(candidates, used)
        others = reversed(range(len(self.groups)))
        last = next((g for g in others if match(piece, self.groups[g].factors)), None)
        if last is not None and not piece.is_fixed:
            return last
        spaced = tuple(f for f in piece.flat if f.space is not None)
        is_input = any(self.derivation.layers[i].kind == "input" for i in layer.inputs)
        group = self.add_group(
            f"{layer.module_path}.in" if layer.module_path else "in",
            spaced or piece.flat, "input" if is_input and not spaced else "hidden",
        )
        if len(layer.inputs) == 1 and is_input:
            # Other layers of this input take these neurons.
            self.output_groups[layer.inputs[0]].append(group)
        return group

    def column(self, name: str, group: int, chosen: Sequence[Piece], column: str) -> None:
        """Put one piece of each axis of a parameter on the nodes of a group."""
        while (group, column) in self.filled:
            column += "'"
        self.filled.add((group, column))
        slab = slab_of(chosen, "n" * len(chosen), target=group, column=column)
        self.slabs.setdefault(name, []).append(slab)

    def put(
        self, name: str, chosen: Sequence[Piece], letters: Sequence[str], target: int, source: int
    ) -> None:
        """Put one piece of each axis of a parameter on edges, cut where there are many taps."""
        slab = slab_of(chosen, letters, target=target, source=source)
        self.slabs.setdefault(name, []).extend(cut_taps(slab))

    # -- parameters of any kind -------------------------------------------------------------------

    def place_anywhere(self, *names: str) -> None:
        """Place parameters by their axes alone: those that move are the ends of their edges."""
        for name in names:
            self.slabs[name] = []
            for chosen in product(*self.axis_pieces(name)):
                self._place_choice(name, chosen)

    def _place_choice(self, name: str, chosen: Sequence[Piece]) -> None:
        ends: list[list[int]] = []
        for i, piece in enumerate(chosen):
            if piece.is_fixed:
                continue
            spaces, outer = self.spaces(piece)
            for end in ends:
                if any(outer & own or spaces & within
                       for own, within in (self.spaces(chosen[j]) for j in end)):
                    end.append(i)
                    break
            else:
                ends.append([i])
        fixed = [i for i, piece in enumerate(chosen) if piece.is_fixed]
        if len(ends) > 2:
            # An edge has two ends: pairs of neurons, as those of a bilinear map, are one of them.
            ends = [[i for end in ends[:-1] for i in end], ends[-1]]
        sizes = [piece.size for piece in chosen]
        if not ends and fixed:
            ends = [[fixed.pop(0)]]
        if len(ends) == 1 and math.prod(sizes[i] for i in fixed) > 1:
            ends.append([i for i in fixed if sizes[i] > 1])
            fixed = [i for i in fixed if sizes[i] == 1]
        groups = [self._end(name, [chosen[i] for i in end], at == 1) for at, end in enumerate(ends)]
        if len(groups) < 2:
            group = groups[0] if groups else self.add_group(name, [Factor(1)])
            self.column(name, group, chosen, "factor")
            return
        letter = {i: "ts"[at] for at, end in enumerate(ends) for i in end}
        letters = [letter.get(i, "f") for i in range(len(chosen))]
        self.put(name, chosen, letters, groups[0], groups[1])

    def spaces(self, piece: Piece) -> tuple[set[str], set[str]]:
        """Names of the spaces that a piece counts, and of those that they lie within."""
        own = {factor.space for factor in piece.flat if factor.space is not None}
        by_name = self.derivation.spec.by_name
        return own, {outer for name in own for outer in by_name[name].within}

    def _end(self, name: str, counted: list[Piece], is_source: bool) -> int:
        factors = tuple(f for piece in counted for f in piece.flat) or (Factor(1),)
        same = [i for i, group in enumerate(self.groups) if group.factors == factors]
        if same and not are_fixed(factors):
            return same[-1]
        return self.add_group(f"{name}.places" if is_source else name, factors)

    # -- the end ----------------------------------------------------------------------------------

    def finish(self) -> Architecture:
        """Place what no layer had, order the groups, and return the architecture."""
        spec = self.derivation.spec
        for name in spec.parameters:
            if name not in self.slabs and self.tensors[name].dtype.is_floating_point:
                self.place_anywhere(name)
        if not self.groups:
            self.add_group("net", [Factor(1)])
        order = self._order()
        place = {old: new for new, old in enumerate(order)}
        groups = tuple(self.groups[old].neurons() for old in order)
        parameters = tuple(self._parameter(name, place) for name in spec.parameters)
        todo = [f.space for group in groups for f in group.factors if f.space is not None]
        used: set[str] = set()
        while todo:
            used.add(name := todo.pop())
            todo += [outer for outer in spec.by_name[name].within if outer not in used]
        structure = tuple(s for s in spec.spaces if s.name in used and (s.within or s.fixed))
        residuals = tuple(dict.fromkeys((place[s], place[t]) for s, t in self.residuals))
        return Architecture(groups, parameters, residuals, structure)

    def _parameter(self, name: str, place: Mapping[int, int]) -> Parameter:
        tensor = self.tensors[name]
        shape = tuple(tensor.shape)
        aliases = tuple(self.derivation.spec.aliases.get(name, ()))
        if not tensor.dtype.is_floating_point:
            integer = str(tensor.dtype).removeprefix("torch.")
            return Parameter(name, shape, integer=integer, aliases=aliases)
        slabs = [
            replace(s, target=place[s.target], source=None if s.source is None else place[s.source])
            for s in self.slabs[name]
        ]
        return replace(_simple(name, shape, slabs), aliases=aliases)

    def _order(self) -> list[int]:
        """Groups in the order of computation: each after those that lead to it."""
        import networkx as nx

        slabs = [slab for slabs in self.slabs.values() for slab in slabs]
        leads = {(slab.source, slab.target) for slab in slabs if slab.source is not None}
        before = nx.DiGraph()
        before.add_nodes_from(range(len(self.groups)))
        before.add_edges_from(sorted((t, s) for s, t in leads | {*self.residuals}))
        return list(nx.dfs_postorder_nodes(before))


def first_unused(groups: Sequence[int], used: set[int]) -> int:
    """Return the first group that is not used yet, or else the first; it is used then."""
    group = next((g for g in groups if g not in used), groups[0])
    used.add(group)
    return group


def match(piece: Piece, factors: Sequence[Factor]) -> str | None:
    """Letters of a piece's factors where a group has these factors: ``s`` counts it, ``f`` not.

    ``None`` if the piece does not count the group. Fixed factors that the group lacks are features.
    """
    wanted = [factor for factor in factors if factor.size > 1]
    if piece.is_fixed and are_fixed(wanted):
        same = piece.size == math.prod(factor.size for factor in wanted)
        return "s" * len(piece.split) if same else None
    letters = ""
    for of_factor in piece.factors:
        own = [factor for factor in of_factor if factor.size > 1]
        if own and wanted[: len(own)] == own:
            letters += "s"
            wanted = wanted[len(own) :]
        elif are_fixed(own):
            letters += "f"
        else:
            return None
    return None if wanted else letters


def _simple(name: str, shape: tuple[int, ...], slabs: Iterable[Slab]) -> Parameter:
    """Return a parameter, by its axes alone where it is one slab without cuts."""
    slabs = [_without_defaults(slab, shape) for slab in slabs]
    slab = slabs[0]
    kernel = "ts" if slab.column is None else "n"
    cut = slab.window or slab.split or slab.part
    if len(slabs) == 1 and not cut and slab.axes.replace("f", "") == kernel:
        ends = iter([slab.target, slab.source])
        axes = tuple(None if letter == "f" else next(ends) for letter in slab.axes)
        return Parameter(name, shape, axes, slab.column)
    return Parameter(name, shape, slabs=tuple(slabs))


def _without_defaults(slab: Slab, shape: tuple[int, ...]) -> Slab:
    """Leave out windows, factors and parts that are all of the tensor."""
    if slab.part == tuple((0, n) for axis in slab.split for n in axis):
        slab = replace(slab, part=())
    if slab.window == tuple((0, n) for n in shape):
        slab = replace(slab, window=())
    if not slab.part and all(len(axis) == 1 for axis in slab.split):
        slab = replace(slab, split=())
    return slab
