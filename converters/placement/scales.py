"""The derived scales and signs of neurons, said of the slabs of an architecture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from converters.symmetry.groups.acting import act_along
from converters.symmetry.groups.spec import NeuronMaps, Power, SymmetrySpec
from nngraph.graph import MAX_POWER, Architecture, NeuronScale, Slab, SlabPower, scale_places

#: Letters of a slab that count the neurons of an end.
_LETTERS = {"t": "btn", "s": "bs"}


def slab_scales(architecture: Architecture, symmetry: SymmetrySpec) -> tuple[NeuronScale, ...]:
    """Return the scales and signs of a spec that the slabs of an architecture can say.

    One that moves a part of a slab, or more than its neurons, is left out, which is sound.
    """
    slabs: dict[str, list[tuple[int, Slab]]] = {}
    for number, (parameter, slab) in enumerate(architecture.slabs):
        slabs.setdefault(parameter.name, []).append((number, slab))
    found = []
    for maps in symmetry.generators:
        if maps.is_matrix or maps.space not in architecture.all_spaces:
            continue
        powers: Counter[tuple[int, str]] = Counter()
        known = True
        for power in maps.powers:
            for number, slab in slabs.get(power.name, ()):
                end = _end(architecture, symmetry, maps, power, slab)
                known = known and end is not None
                if end:
                    powers[number, end] += power.power
        if maps.kind == "sign":
            powers = Counter({key: value % 2 for key, value in powers.items()})
        if known and all(abs(value) <= MAX_POWER for value in powers.values()):
            said = tuple(SlabPower(*key, value) for key, value in sorted(powers.items()) if value)
            found.append(NeuronScale(maps.space, maps.kind, said))  # type: ignore[arg-type]
    return tuple(found)


def _end(
    architecture: Architecture, symmetry: SymmetrySpec, maps: NeuronMaps, power: Power, slab: Slab
) -> str | None:
    """Return at which end of a slab a map acts: ``""`` at none, ``None`` if that cannot be said."""
    spec, space = symmetry.permutations, maps.space
    axes = spec.parameters[power.name]
    size = math.prod(spec.permutations.shapes[space])
    # Each neuron has a number of its own, and what counts none has 1.
    marks = torch.arange(2, size + 2, dtype=torch.float64)
    marked = act_along(
        spec.by_name, axes, torch.ones([1] * len(axes), dtype=torch.float64),
        (power.axis, power.number), space, marks.reshape(spec.permutations.shapes[space]), False,
    )  # fmt: skip
    found, letters = _factored(marked, slab, spec.shape(power.name))
    if bool((found == 1).all()):
        return ""
    for end, group in (("t", slab.target), ("s", slab.source)):
        if group is None or not {*_LETTERS[end]} & {*letters[power.axis]}:
            continue
        if [factor.space for factor in architecture.groups[group].factors].count(space) == 1:
            index = _index(slab, spec.shape(power.name), _LETTERS[end])
            expected = marks[scale_places(architecture, space, group)[index]]
            if bool((found == expected).all()):
                return end
    return None


def _factored(value: Tensor, slab: Slab, shape: Sequence[int]) -> tuple[Tensor, list[str]]:
    """Give a tensor, of size 1 along axes on which it is constant, an axis for each factor.

    Also returns the letters of each axis of the whole tensor.
    """
    split = slab.split or tuple((size,) for size in slab.window_shape(shape))
    remaining, letters = iter(slab.axes), []
    for axis, (start, stop) in enumerate(slab.window):
        if value.shape[axis] > 1:
            value = value.narrow(axis, start, stop - start)
    at = 0
    for sizes in split:
        letters.append("".join(next(remaining) for _ in sizes))
        varies = value.shape[at] > 1
        kept = sizes if varies else (1,) * len(sizes)
        value = value.reshape(*value.shape[:at], *kept, *value.shape[at + 1 :])
        for place in range(at, at + len(sizes)):
            if slab.part and varies:
                start, stop = slab.part[place]
                value = value.narrow(place, start, stop - start)
        at += len(sizes)
    return value, letters


def _index(slab: Slab, shape: Sequence[int], letters: str) -> Tensor:
    """Return the neuron of an end at each place of its factors, broadcastable over all factors."""
    sizes = slab.factors(shape)
    total = torch.zeros([1] * len(sizes), dtype=torch.long)
    for letter in letters:
        for place, (own, size) in enumerate(zip(slab.axes, sizes, strict=True)):
            if own == letter:
                along = [-1 if other == place else 1 for other in range(len(sizes))]
                total = total * size + torch.arange(size).reshape(along)
    return total
