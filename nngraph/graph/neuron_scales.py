r"""Scales and signs of neurons as data: the powers of them by which tensors are multiplied.

A *scale* has one number :math:`c_i` for each neuron i of a space, positive or a sign. The network
computes the same function when each entry of a slab is multiplied by a power of that of the neuron
at its target, and of that at its source, as each scale says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from nngraph.errors import ArchitectureError
from nngraph.graph.groups import NeuronGroup, is_count
from nngraph.graph.layout import Parameter, Slab
from nngraph.graph.spaces import Space

#: Positive numbers, and signs, one for each neuron.
ScaleKind = Literal["positive_scale", "sign"]
#: Larger powers are refused when a description is read: no float64 overflows.
MAX_POWER = 32


class SlabPower(NamedTuple):
    """By which power of a scale the entries of a slab are multiplied.

    Args:
        slab: its place in :attr:`~nngraph.graph.Architecture.slabs`.
        end: ``"t"`` of the neurons of its target, on whose nodes it is or where edges lead to;
            ``"s"`` of those of its source.
        power: not 0.
    """

    slab: int
    end: str
    power: int


@dataclass(frozen=True)
class NeuronScale:
    """One number for each neuron of a space, or for each of each copy of a space within others.

    Args:
        space: name of the neuron space.
        kind: what the numbers are.
        powers: of the slabs that it multiplies.
    """

    space: str
    kind: ScaleKind
    powers: tuple[SlabPower, ...]


def check_scale(
    scale: NeuronScale, groups: Sequence[NeuronGroup], slabs: Sequence[tuple[Parameter, Slab]],
    spaces: dict[str, Space],
) -> None:  # fmt: skip
    """Raise an ArchitectureError unless a scale is of a space that its slabs count, once."""
    if scale.kind not in get_args(ScaleKind) or scale.space not in spaces:
        raise ArchitectureError(
            f"a scale is {scale.kind!r} of {scale.space!r}; expected one of "
            f"{', '.join(get_args(ScaleKind))} of {', '.join(spaces) or 'no space'}."
        )
    for slab, end, power in scale.powers:
        where = f"a scale of {scale.space!r}"
        if not is_count(slab) or not 0 <= slab < len(slabs) or end not in ("t", "s"):
            raise ArchitectureError(
                f"{where} is at the end {end!r} of slab {slab!r}; expected 't' or 's' of one of "
                f"{len(slabs)}."
            )
        if not is_count(power) or not 0 < abs(power) <= MAX_POWER:
            raise ArchitectureError(
                f"{where} has power {power!r}; expected a whole number other than 0, of at most "
                f"{MAX_POWER}."
            )
        parameter, own = slabs[slab]
        group = own.target if end == "t" else own.source
        factors = [] if group is None else [factor.space for factor in groups[group].factors]
        if factors.count(scale.space) != 1:
            raise ArchitectureError(
                f"{where} is at the end {end!r} of {parameter.name!r}, which counts it "
                f"{factors.count(scale.space)} times; expected once."
            )

