"""Signs and scales of neurons beside relabelling: the linear maps left, and which models hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from nngraph import basis
from nngraph.basis import Maps
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    SCALED,
    SIGNED,
    Architecture,
    NeuralGraphStack,
    NeuronSymmetry,
    hidden_layers,
    sample_moves,
)
from nngraph.nn import MODELS
from nngraph.testing import random_stack
from nngraph.validation import JUDGED_WIDTH, ModelCheck, at_most

__all__ = ["MapValidation", "validate_maps"]

#: Largest relative error of what commutes, and change of a model that does not see maps.
TOLERANCE = 1e-10
#: maps -> what activations allow them
_ALLOWED: dict[Maps, frozenset[NeuronSymmetry]] = {"sign": SIGNED, "positive_scale": SCALED}
#: positive factors lie in [1 / spread, spread]
_SPREAD: dict[Maps, float] = {"sign": 1.0, "positive_scale": 8.0}


@dataclass(frozen=True)
class MapValidation:
    """The verdict on one kind of maps.

    Attributes:
        maps: ``"sign"`` or ``"positive_scale"``.
        spaces: whose neurons have them.
        judged_at: widths at which brute force counts.
        relabelling, linear, constants: linear maps that commute with relabelling alone, and with
            maps beside it, and constants.
        blocks: for each (from, to): elements of the DWS basis, those left, and brute force's count.
        error: by how much a random map of the basis fails to commute, relative.
        control: the same of a map that commutes with relabelling alone.
        models: change of each model's answers; a model passes that keeps what it claims.
    """

    architecture: str
    maps: Maps
    spaces: tuple[str, ...]
    judged_at: list[int]
    relabelling: int
    linear: int
    constants: int
    blocks: list[dict[str, Any]]
    error: float
    control: float
    models: list[ModelCheck]

    @property
    def passed(self) -> bool:
        """Whether formula and brute force agree, the basis commutes, and models keep claims."""
        counted = all(block["at judged width"] == block["brute force"] for block in self.blocks)
        seen = self.error <= TOLERANCE < self.control or self.linear == self.relabelling
        return counted and seen and all(model.passed for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def validate_maps(architecture: Architecture, maps: Maps, seed: int = 0) -> MapValidation:
    """Hold the basis of maps that commute with signs or scales against brute force, and models.

    Counts by formula are of the architecture itself; brute force, and random maps, are of the same
    chain at most ``JUDGED_WIDTH`` wide.

    Raises:
        ArchitectureError: if the architecture is no chain, or no activation allows such maps.
    """
    if maps not in get_args(Maps):
        raise ArchitectureError(f"maps is {maps!r}; expected one of {', '.join(get_args(Maps))}.")
    layers = hidden_layers(architecture, _ALLOWED[maps])
    spaces = tuple(str(architecture.groups[layer.group].space) for layer in layers)
    if not spaces:
        raise ArchitectureError(
            f"no activation of {architecture} allows its neurons a {maps}; expected one such as "
            f"{'tanh' if maps == 'sign' else 'relu'}."
        )
    small = at_most(architecture, JUDGED_WIDTH)
    whole, judged = (
        basis.MapBasis(each, maps=maps, scaled=spaces) for each in (architecture, small)
    )
    dws, orbits = basis.Basis(architecture), basis.map_orbits(
        judged.source, judged.target, maps, spaces
    )
    blocks = []
    for (source, target), block in whole.blocks.items():
        found = orbits[basis.Basis(small).slices((source, target))]
        blocks.append({
            "from": source, "to": target, "relabelling": dws.block(source, target).dimension,
            "elements": block.dimension,
            "at judged width": judged.blocks[source, target].dimension,
            "brute force": len(np.unique(found[found >= 0])),
        })
    error, control = _errors(small, judged, maps, seed)
    return MapValidation(
        str(architecture), maps, spaces, list(small.widths), dws.dimension, whole.dimension,
        whole.constants.dimension, blocks, error, control,
        list(_models(architecture, maps, seed)),
    )  # fmt: skip


def _errors(
    small: Architecture, judged: basis.MapBasis, maps: Maps, seed: int
) -> tuple[float, float]:
    """Return by how much a map of this basis, and one of the DWS basis, fails to commute."""
    drawn = np.random.default_rng(seed).standard_normal((judged.target.numel, judged.source.numel))
    networks = random_stack(small, 4, seed, dtype=torch.float64)
    before = networks.parameters()
    after = _moved(small, before, maps, seed)

    def change(matrix: basis.Matrix) -> float:
        weight = torch.as_tensor(matrix)
        mapped = judged.target.unflatten(judged.source.flatten(before) @ weight.T)
        expected = judged.target.flatten(_moved(small, mapped, maps, seed))
        found = judged.source.flatten(after) @ weight.T
        return float((found - expected).norm() / expected.norm())

    return change(judged.project(drawn)), change(basis.Basis(small).project(drawn))


def _moved(
    architecture: Architecture, values: Mapping[str, Tensor], maps: Maps, seed: int
) -> dict[str, Tensor]:
    """Move the neurons that may be, each network by the same draw whenever it is called."""
    return sample_moves(
        architecture, values, spread=_SPREAD[maps], max_steps=0, symmetries=_ALLOWED[maps],
        generator=torch.Generator().manual_seed(seed),
    )


def _models(architecture: Architecture, maps: Maps, seed: int) -> Iterator[ModelCheck]:
    networks = random_stack(architecture, 2, seed, dtype=torch.float64)
    moved = NeuralGraphStack.from_parameters(
        architecture, _moved(architecture, networks.parameters(), maps, seed)
    )
    for name, model in MODELS.items():
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            try:
                built = MODELS[name](architecture, 10).double().eval()
            except ArchitectureError:
                continue
            one, other = built(networks), built(moved)
        change = float((one - other).norm() / one.norm())
        claims = not model.traits.reads_signs
        yield ModelCheck(name, {"cpu float64": change}, change <= TOLERANCE or not claims)


def _lines(result: MapValidation) -> Iterator[str]:
    judged = "-".join(map(str, result.judged_at))
    yield (
        f"{result.architecture}, {result.maps} of {', '.join(result.spaces)}: {result.linear} of "
        f"{result.relabelling} linear maps are left, {result.constants} constants"
    )
    yield f"brute force, and random maps, are of {judged}"
    yield ""
    columns = ("relabelling", "elements", "at judged width", "brute force")
    shown = {
        f"{block['from']} -> {block['to']}": block for block in result.blocks
        if any(block[column] for column in columns[1:])
    }
    width = max(map(len, shown))
    yield "  ".join([f"{'block':{width}}", *columns])
    for name, block in shown.items():
        yield "  ".join([f"{name:{width}}", *(f"{block[c]:{len(c)}}" for c in columns)])
    yield f"and none in {len(result.blocks) - len(shown)} other blocks"
    yield ""
    yield f"a random map of the basis commutes up to {result.error:.1e}"
    yield f"one that commutes with relabelling alone, up to {result.control:.1e}"
    for model in result.models:
        change = model.errors["cpu float64"]
        seen = "does not see it" if change <= TOLERANCE else "sees it"
        yield f"{'  ok' if model.passed else 'FAIL'} {model.name:18} {seen:16} {change:.1e}"
    yield ""
    yield "verdict: " + ("everything holds" if result.passed else "something falls short")
