"""Scales and signs of the neurons of any architecture: which there are, drawn, and acting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nngraph.graph.architecture import Architecture
from nngraph.graph.layout import read_slab, write_slab
from nngraph.graph.neuron_scales import NeuronScale, ScaleKind, SlabPower
from nngraph.graph.neuron_symmetry import SCALED, SIGNED


def scales_of(architecture: Architecture) -> tuple[NeuronScale, ...]:
    """Return the scales and signs that an architecture states, of a chain those of activations."""
    if architecture.scales or not architecture.is_chain:
        return architecture.scales
    return scales_of_values(architecture, [
        (kind, [number])
        for number, group in enumerate(architecture.groups)
        if group.role == "hidden" and isinstance(group.space, str)
        for kind in scale_kinds(architecture, number)
    ])  # fmt: skip


def scale_kinds(architecture: Architecture, group: int) -> Iterator[ScaleKind]:
    """Iterate over what the activation of the neurons of a group lets them be multiplied by."""
    symmetry = architecture.groups[group].activation.symmetry
    if symmetry in SCALED:
        yield "positive_scale"
    if symmetry in SIGNED:
        yield "sign"


def scales_of_values(
    architecture: Architecture, values: Sequence[tuple[ScaleKind, Sequence[int]]]
) -> tuple[NeuronScale, ...]:
    """Return the scales by which the values of groups are multiplied, with what follows for slabs.

    Edges are multiplied as their targets, and by the inverse for their sources; what is on nodes as
    these, a running mean as what leads to them one by one, and a running variance not.

    Args:
        values: for each scale its kind, and the groups of one space that it multiplies.
    """
    before = {slab.target: slab.source for _, slab in architecture.slabs if slab.axes == "b"}
    found = []
    for kind, groups in values:
        powers = []
        for number, (_, slab) in enumerate(architecture.slabs):
            at = before.get(slab.target) if slab.column == "running_mean" else slab.target
            if at in groups and slab.column != "running_var":
                powers.append(SlabPower(number, "t", 1))
            if slab.source in groups:
                powers.append(SlabPower(number, "s", 1 if kind == "sign" else -1))
        space = architecture.groups[groups[0]].space
        assert isinstance(space, str)
        found.append(NeuronScale(space, kind, tuple(powers)))
    return tuple(found)


def scale_places(architecture: Architecture, space: str, group: int) -> Tensor:
    """Return which of the neurons of all copies of a space each neuron of a group is, ``[n]``."""
    spaces, factors = architecture.all_spaces, architecture.groups[group].factors
    own, sizes = [factor.space for factor in factors], [factor.size for factor in factors]
    places = torch.unravel_index(torch.arange(math.prod(sizes)), sizes)
    total = torch.zeros_like(places[0])
    for name in (*spaces[space].within, space):
        total = total * spaces[name].size + places[own.index(name)]
    return total


def sample_scales(
    architecture: Architecture, lead: tuple[int, ...] = (), bound: float = 2.0,
    generator: torch.Generator | None = None,
) -> list[Tensor]:  # fmt: skip
    """Draw one number for each neuron of each scale: ``[*lead, copies * d]``, float64.

    Positive scales are log-uniform between 1 / ``bound`` and ``bound``, signs uniform.
    """
    drawn = []
    for scale in scales_of(architecture):
        size = architecture.copies(scale.space) * architecture.all_spaces[scale.space].size
        uniform = 2 * torch.rand(*lead, size, generator=generator, dtype=torch.float64) - 1
        positive = scale.kind == "positive_scale"
        signs = torch.where(uniform < 0, -1.0, 1.0).double()
        drawn.append((uniform * math.log(bound)).exp() if positive else signs)
    return drawn


def scale_parameters(
    architecture: Architecture, parameters: Mapping[str, Tensor], factors: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Multiply what belongs to neurons by the factors of each scale: the function does not change.

    Args:
        parameters: by name, ``[*, *shape]``.
        factors: as :func:`sample_scales` gives them, with the leading shape of the parameters.
    """
    values = dict(parameters)
    moving: dict[int, list[tuple[NeuronScale, SlabPower, Tensor]]] = {}
    for scale, factor in zip(scales_of(architecture), factors, strict=True):
        for power in scale.powers:
            moving.setdefault(power.slab, []).append((scale, power, factor))
    for number, moves in moving.items():
        parameter, slab = architecture.slabs[number]
        if values[parameter.name] is parameters[parameter.name]:
            values[parameter.name] = values[parameter.name].clone()
        entries = read_slab(values[parameter.name], parameter, slab)
        for scale, power, factor in moves:
            group = slab.target if power.end == "t" else slab.source
            assert group is not None
            own = factor[..., scale_places(architecture, scale.space, group)] ** power.power
            if slab.column is None:
                parts = entries.shape[-4]
                own = own.reshape(*own.shape[:-1], parts, -1)
                own = own.unsqueeze(-1 if power.end == "t" else -2)
            entries = entries * own.unsqueeze(-1).to(entries)
        write_slab(entries, values[parameter.name], parameter, slab)
    return values
