"""The check of the maps of a space: they change nothing, and leaving out any axis is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converters.symmetry.checking import (
    SEEN,
    TIED_PARAMETERS,
    TIES,
    Status,
    drawn,
    under_all_names,
)
from converters.symmetry.groups.spec import NeuronMaps, Power, SymmetryElement, SymmetrySpec
from converters.symmetry.running import Draw, Draws


@dataclass(frozen=True)
class MapCheck:
    """What was found for the maps of a space.

    Args:
        maps: of which space, of what kind, along which axes.
        error: largest relative change of the outputs under them.
        power: smallest change when one axis is left out; ``None`` if there is none that counts.
        status: whether it holds.
        idle: axes of tensors that the outputs do not depend on, where nothing can go wrong.
        unseen: axes whose power could be wrong without being seen.
        condition: largest condition number of the maps that were drawn.
    """

    maps: NeuronMaps
    error: float
    power: float | None
    status: Status
    idle: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    condition: float = 1.0

    def __str__(self) -> str:
        power = "" if self.power is None else f", one axis left out {self.power:.1e}"
        reason = {
            "holds": "", "fails": "  <- changes the function",
            "not proven": f"  <- not proven: {', '.join(self.unseen)} would not be seen",
        }[self.status]  # fmt: skip
        return f"{self.maps}: {self.error:.1e}{power}{reason}"


def check_maps(
    spec: SymmetrySpec, maps: NeuronMaps, draws: Draws, samples: int, tolerance: float,
    generator: torch.Generator,
) -> MapCheck:  # fmt: skip
    """Check one generator on several sets of parameters; see :func:`converters.verify`."""
    alone = replace(spec, generators=(maps,))
    tried = list(draws.first(samples))
    elements = [_element(alone, generator) for _ in tried]
    condition = max(element.condition for element in elements)
    error = max(
        draw.change(alone.act(draw.state, element))
        for draw, element in zip(tried, elements, strict=True)
    )
    if error > tolerance:
        return MapCheck(maps, error, None, "fails", condition=condition)
    powers, idle, unseen = [], [], []
    parameters = sum(tensor.numel() for tensor in draws.network.state.values())
    for place in drawn(maps.powers, max(TIES, TIED_PARAMETERS // max(parameters, 1)), generator):
        rest = tuple(other for other in maps.powers if other != place)
        # What a single place makes up for itself is held against factors that it does not.
        other = replace(maps, powers=rest) if rest else replace(maps, kind="positive_scale")
        broken = replace(spec, generators=(other,))
        change = max(
            draw.change(broken.act(draw.state, _element(broken, generator))) for draw in tried
        )
        if change > SEEN * tolerance:
            powers.append(change)
        elif any(
            draw.change(_noisy(spec, maps, place, draw, generator)) > tolerance for draw in tried
        ):
            unseen.append(str(place))
        else:
            idle.append(str(place))
    status: Status = "holds" if powers and not unseen else "not proven"
    return MapCheck(
        maps, error, min(powers, default=None), status, tuple(idle), tuple(unseen), condition
    )


def _element(spec: SymmetrySpec, generator: torch.Generator) -> SymmetryElement:
    """Return random maps that are not all 1, and no relabelling."""
    maps = spec.sample(generator).maps
    maps = tuple(-own if bool((own == 1).all()) else own for own in maps)
    return SymmetryElement(maps, spec.permutations.identity())


def _noisy(
    spec: SymmetrySpec, maps: NeuronMaps, place: Power, draw: Draw, generator: torch.Generator
) -> Mapping[str, Tensor]:
    """Return the parameters of a draw with what counts a space at one place drawn anew."""
    value, permutations = draw.state[place.name], spec.permutations
    noise = torch.randn(value.shape, dtype=value.dtype, generator=generator).to(value.device)
    alone = replace(spec, generators=(NeuronMaps(maps.space, "sign", (place._replace(power=1),)),))
    turned = SymmetryElement(
        (-torch.ones(alone.shapes[0], dtype=torch.float64),), permutations.identity()
    )
    other = alone.act(draw.state, turned)[place.name]
    there = (other != value).to(value.dtype)
    return {**draw.state, **under_all_names(permutations, {place.name: value + there * noise})}
