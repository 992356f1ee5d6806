"""How each kind of layer lands in a graph: one entry of a table per kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from converters.placement.builder import Builder, first_unused, match
from converters.placement.slabs import Piece, pieces
from converters.symmetry.derive import Step
from nngraph.graph import Factor

#: Columns of node features by the role of a parameter.
_COLUMNS = {
    "bias": "bias", "running_mean": "running_mean", "running_var": "running_var",
    "mean": "running_mean", "var": "running_var", "weight": "factor",
}


def _output(builder: Builder, layer: Step) -> list[int]:
    input_groups = builder.input_groups(layer)
    led_to = {s.target for slabs in builder.slabs.values() for s in slabs if s.source is not None}
    led_to |= {target for _, target in builder.residuals}
    for group in input_groups:
        if builder.groups[group].is_fixed and group in led_to:
            builder.groups[group].role = "output"
    return input_groups


def _matrix(builder: Builder, layer: Step) -> list[int]:
    """Place the weight of a linear map, a convolution or an embedding, and its bias."""
    own = builder.new_parameters(layer)
    weight = next(
        (name for role, name in own if builder.tensors[name].dim() >= 2 and role != "bias"), None
    )
    others = [(role, name) for role, name in own if name != weight]
    if weight is None:
        return _shared(builder, layer, others)
    ends = _ends_of_weight(builder, layer, weight)
    groups = int(dict(layer.arguments).get("groups", 1))
    axes = builder.axis_pieces(weight)
    # The first axis of a convolution's weight: outputs, or inputs where it is transposed.
    whole = _in_groups(axes[0], groups)
    # An axis whose space lies within one of another axis counts no neurons of a group by itself;
    # but for that of the groups of a convolution, which both ends share.
    spaces = [builder.spaces(piece) for axis in axes for piece in axis]
    alone = groups > 1 or all(outer <= own for own, outer in spaces)
    if ends is None or whole is None or not alone:
        builder.place_anywhere(weight)
        targets = [slab.target for slab in builder.slabs[weight]]
    else:
        targets = _connect(builder, layer, weight, [whole, *axes[1:]], ends, groups)
    _biases(builder, others, targets)
    return list(dict.fromkeys(targets))


def _in_groups(own: tuple[Piece, ...], groups: int) -> tuple[Piece, ...] | None:
    """Cut the pieces of an axis so that the groups of a convolution are their leading factors.

    ``None`` if a group lies in two pieces, or the factors are none of the groups.
    """
    if groups == 1:
        return own
    if any(groups * piece.size % sum(p.size for p in own) for piece in own):
        return None
    cut = tuple(p for piece in own if (p := piece.cut(_share(piece, own, groups))) is not None)
    return cut if len(cut) == len(own) else None


def _share(piece: Piece, all_pieces: Sequence[Piece], groups: int) -> int:
    """How many of the groups of a convolution lie in one piece of a concatenation."""
    return groups * piece.size // sum(other.size for other in all_pieces)


def _ends_of_weight(builder: Builder, layer: Step, weight: str) -> tuple[int, int] | None:
    """Axes of a weight that count its outputs and its inputs; ``None`` where it has others."""
    dims = builder.tensors[weight].dim()
    if layer.kind == "embedding":
        return 1, 0
    if layer.kind == "convolution":
        return (1, 0) if dict(layer.arguments).get("transposed", False) else (0, 1)
    if layer.op in ("aten.linear", "aten.bilinear") and dims == 2:
        return 0, 1
    if dims != 2:
        return None
    axes = builder.derivation.spec.parameters[weight]
    made = layer.output_axes
    # A product in either order: the axis of the weight that the result still has is its output.
    return (0, 1) if axes[0] in made and axes[1] not in made else (1, 0)


def _connect(
    builder: Builder, layer: Step, weight: str, axes: Sequence[Sequence[Piece]],
    ends: tuple[int, int], groups: int,
) -> list[int]:  # fmt: skip
    """Make the groups of a layer's outputs and the blocks that lead to them."""
    target_axis, source_axis = ends
    rows, columns = axes[target_axis], axes[source_axis]
    used: set[int] = set()
    leads = [_leading(outer, _share(outer, axes[0], groups)) for outer in axes[0]]
    if groups > 1 and target_axis == 0:
        # Each part of the outputs takes its part of the inputs: (parts, inputs of a part).
        sources = [
            [(builder.source(layer, _whole((*lead, *c.factors)), used), "s") for c in columns]
            for lead in leads
        ]
    else:
        found = [(builder.source(layer, piece, used), piece) for piece in columns]
        same = [(group, match(p, builder.groups[group].factors) or "s") for group, p in found]
        sources = [same] * len(rows)
    targets = []
    for i, row in enumerate(rows):
        factors, window = row.flat, row if target_axis == 0 else None
        if groups > 1 and source_axis == 0:
            factors = (*(f for own in leads[0] for f in own), *factors)
        name, activation = layer.module_path or weight, builder.activation(layer, window)
        targets.append(builder.add_group(name, factors, activation=activation))
        for j, (column, (source, own)) in enumerate(zip(columns, sources[i], strict=True)):
            chosen, letters = [pieces[0] for pieces in axes], ["f"] * len(axes)
            chosen[target_axis], chosen[source_axis] = row, column
            letters[target_axis], letters[source_axis] = "t", own
            if groups > 1:
                lead, letter = len(leads[i if target_axis == 0 else j]), letters[0]
                whole = letter * len(chosen[0].split) if len(letter) == 1 else letter
                letters[0] = "b" * lead + whole[lead:]
            builder.put(weight, chosen, letters, targets[-1], source)
    return targets


def _leading(piece: Piece, count: int) -> Sequence[tuple[Factor, ...]]:
    """The outermost factors that count to ``count``."""
    total, at = 1, 0
    while total < count:
        total *= math.prod(factor.size for factor in piece.factors[at])
        at += 1
    return piece.factors[:at]


def _whole(factors: Sequence[tuple[Factor, ...]], start: int = 0) -> Piece:
    """The piece that counts a product of these factors, from an index of its axis on."""
    split = tuple(math.prod(f.size for f in of) for of in factors)
    window = (start, start + math.prod(split))
    return Piece(window, split, tuple((0, n) for n in split), tuple(factors))


def _biases(builder: Builder, others: Sequence[tuple[str, str]], targets: Sequence[int]) -> None:
    """Put parameters of one axis on the groups of a layer."""
    for role, name in others:
        axes = builder.axis_pieces(name)
        if len(axes) == 1 and _matches(builder, axes[0], targets):
            _columns(builder, name, axes[0], targets, role)
        else:
            builder.place_anywhere(name)


def _columns(
    builder: Builder, name: str, own: Sequence[Piece], groups: Sequence[int], role: str
) -> None:
    for piece, group in zip(own, groups, strict=True):
        builder.column(name, group, [piece], _COLUMNS.get(role, "factor"))


def _shared(builder: Builder, layer: Step, others: Sequence[tuple[str, str]]) -> list[int]:
    """A layer whose weight stands in the graph already: its output is at one of its ends."""
    counted = {piece.counts for axis in layer.output_axes for piece in pieces(axis)}
    for _, name in layer.parameters:
        slabs = builder.slabs.get(builder.known[name], [])
        ends = (end for slab in slabs for end in (slab.target, slab.source) if end is not None)
        made = [end for end in ends if builder.groups[end].factors in counted]
        if made:
            _biases(builder, others, made[:1])
            return made[:1]
    builder.place_anywhere(*(name for _, name in others))
    return builder.passed_on(layer)


def _norm(builder: Builder, layer: Step) -> list[int]:
    """A norm: a new group after the old one, with the scales on the edges between them."""
    own = builder.new_parameters(layer)
    one_axis = [(role, name) for role, name in own if builder.tensors[name].dim() == 1]
    if not one_axis or len(one_axis) < len(own):
        builder.place_anywhere(*(name for _, name in own))
        return builder.passed_on(layer)
    kept = builder.axis_pieces(one_axis[0][1])[0]
    # For each piece the group of the inputs that it counts, if any, and a new one after it.
    used: set[int] = set()
    pairs: list[tuple[int | None, int]] = []
    for piece in kept:
        groups = builder.input_groups(layer)
        before = [g for g in groups if builder.groups[g].factors == piece.counts]
        activation = builder.activation(layer, piece)
        new = builder.add_group(layer.module_path, piece.flat, activation=activation)
        pairs.append((first_unused(before, used) if before else None, new))
    targets = [target for _, target in pairs]
    for role, name in one_axis:
        own_pieces = builder.axis_pieces(name)[0]
        if [p.flat for p in own_pieces] != [p.flat for p in kept]:
            builder.place_anywhere(name)
        elif role == "weight":
            _broadcast(builder, name, [own_pieces], 0, pairs)
        else:
            _columns(builder, name, own_pieces, targets, role)
    if all(role != "weight" for role, _ in one_axis):
        builder.residuals += [(s, t) for s, t in pairs if s is not None]
    return targets


def _pointwise(builder: Builder, layer: Step) -> list[int]:
    """A sum or product: the neurons of every operand lead, one by one, to new neurons."""
    own = builder.new_parameters(layer)
    operands = [builder.output_groups[i] for i in layer.inputs]
    factors = {tuple(builder.groups[g].factors for g in operand) for operand in operands}
    if not own and (len(operands) < 2 or len(factors) > 1):
        return builder.passed_on(layer)
    shapes = [kept for operand in operands if (kept := builder.counted(layer, operand))]
    if not shapes:
        builder.place_anywhere(*(name for _, name in own))
        return builder.input_groups(layer)
    activation, name = builder.activation(layer), layer.module_path or layer.kind
    targets = [
        builder.add_group(name, builder.groups[g].factors, activation=activation)
        for g in shapes[0]
    ]
    diagonal = False
    for _, name in own:
        axes = builder.axis_pieces(name)
        moving = [i for i, axis in enumerate(axes) if sum(p.size for p in axis) > 1]
        if len(moving) == 1 and _matches(builder, axes[moving[0]], targets):
            if layer.kind == "multiply" and not diagonal:
                pairs = list(zip(shapes[0], targets, strict=True))
                _broadcast(builder, name, axes, moving[0], pairs)
                diagonal = True
                continue
            if not any((target, "bias") in builder.filled for target in targets):
                for piece, target in zip(axes[moving[0]], targets, strict=True):
                    builder.column(name, target, _choice(axes, moving[0], piece), "bias")
                continue
        _beside(builder, layer, name, axes, targets)
    for operand in shapes:
        if not (diagonal and operand is shapes[0]):
            builder.residuals += [
                (source, target) for source, target in zip(operand, targets, strict=False)
                if builder.groups[source].factors == builder.groups[target].factors
            ]
    return targets


def _matches(builder: Builder, own: Sequence[Piece], targets: Sequence[int]) -> bool:
    return [p.counts for p in own] == [builder.groups[g].factors for g in targets]


def _choice(axes: Sequence[Sequence[Piece]], moving: int, piece: Piece) -> list[Piece]:
    """A piece of one axis, and of all others the only one."""
    return [piece if i == moving else axis[0] for i, axis in enumerate(axes)]


def _broadcast(
    builder: Builder, name: str, axes: Sequence[Sequence[Piece]], moving: int,
    pairs: Sequence[tuple[int | None, int]],
) -> None:  # fmt: skip
    """Put scales on the edges from neurons to the new ones; on these, where there are none."""
    letters = ["b" if i == moving else "f" for i in range(len(axes))]
    for piece, (source, target) in zip(axes[moving], pairs, strict=True):
        chosen = _choice(axes, moving, piece)
        if source is None:
            builder.column(name, target, chosen, "factor")
        else:
            builder.put(name, chosen, letters, target, source)


def _beside(
    builder: Builder, layer: Step, name: str, axes: Sequence[Sequence[Piece]],
    targets: Sequence[int],
) -> None:  # fmt: skip
    """A table that is added, such as one of positions: edges from its fixed axes, as neurons."""
    moving = [i for i, axis in enumerate(axes) if _matches(builder, axis, targets)]
    fixed = [i for i in range(len(axes)) if moving and i != moving[-1]]
    if not moving or not all(len(axes[i]) == 1 and axes[i][0].is_fixed for i in fixed):
        builder.place_anywhere(name)
        return
    factors = tuple(f for i in fixed for f in axes[i][0].flat)
    source = builder.add_group(f"{name}.places", factors)
    letters = ["t" if i == moving[-1] else "s" for i in range(len(axes))]
    for piece, target in zip(axes[moving[-1]], targets, strict=True):
        builder.put(name, _choice(axes, moving[-1], piece), letters, target, source)


def _recurrent(builder: Builder, layer: Step) -> list[int]:
    """A recurrent layer: its gates take the inputs and the state, and make the new state."""
    input_groups = builder.input_groups(layer)
    arguments = dict(layer.arguments)
    path, cells = layer.module_path or layer.kind, int(arguments.get("directions", 1))
    gates: list[int] = []
    made: list[int] = []
    before = input_groups
    for _, name in builder.new_parameters(layer):
        axes = builder.axis_pieces(name)
        kind = name.rpartition(".")[2]
        if kind.startswith(("weight_ih", "weight_hh", "bias")):
            axes[0] = _by_gate(axes[0], int(arguments["gates"]))
        if len(axes) == 1:
            for gate, piece in zip(gates, axes[0], strict=True):
                second = (gate, "bias") in builder.filled
                builder.column(name, gate, [piece], "bias_hh" if second else "bias")
            continue
        if not kind.startswith("weight_"):
            builder.place_anywhere(name)
            continue
        if kind.startswith("weight_hr"):  # a projection of the new state
            new = builder.add_group(path, axes[0][0].counts)
            _fill(builder, name, axes, [new], [made[-1]])
            made[-1] = new
        elif kind.startswith("weight_hh"):
            state = builder.add_group(f"{path}.state", axes[1][0].counts)
            _fill(builder, name, axes, gates, [state])
        else:
            if made and len(made) % cells == 0:
                before = made[-cells:]  # a further layer takes what the one before gives
            used: set[int] = set()
            sources = [builder.source(layer, piece, used, before) for piece in axes[1]]
            gates = [builder.add_group(f"{path}.gate", piece.counts) for piece in axes[0]]
            _fill(builder, name, axes, gates, sources)
            made.append(builder.add_group(path, axes[0][0].counts))
            builder.residuals += [(gate, made[-1]) for gate in gates]
    return made[-cells:] or input_groups


def _by_gate(own: tuple[Piece, ...], gates: int) -> tuple[Piece, ...]:
    """Cut an axis of gates times units into the gates, also where it is fixed as a whole."""
    if len(own) > 1 or gates == 1:
        return own
    size = own[0].size // gates
    return tuple(_whole([(Factor(size),)], start) for start in range(0, own[0].size, size))


def _fill(
    builder: Builder, name: str, axes: Sequence[Sequence[Piece]], targets: Sequence[int],
    sources: Sequence[int],
) -> None:  # fmt: skip
    """Put a weight on the edges from its sources to its targets, piece by piece."""
    for row, target in zip(axes[0], targets, strict=True):
        for column, source in zip(axes[1], sources, strict=True):
            counted = match(column, builder.groups[source].factors) or "s"
            builder.put(name, [row, column], ["t", counted], target, source)


PLACERS: dict[str, Callable[[Builder, Step], list[int]]] = {
    "input": lambda builder, layer: [],  # made when a layer reads it, which knows what counts
    "output": _output,
    **dict.fromkeys(("linear", "convolution", "embedding"), _matrix),
    **dict.fromkeys(("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"), _norm),
    **dict.fromkeys(("add", "multiply", "pointwise"), _pointwise),
    "recurrent": _recurrent,
}


def place(builder: Builder, layer: Step) -> list[int]:
    """Place the parameters of a layer; return the groups that carry its output."""
    if layer.kind in PLACERS:
        return PLACERS[layer.kind](builder, layer)
    builder.place_anywhere(*(name for _, name in builder.new_parameters(layer)))
    return builder.passed_on(layer)
