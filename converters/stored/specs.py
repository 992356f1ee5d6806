"""Specs of networks in files: read from JSON, or told by the shapes of an MLP."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from converters import checkpoints
from converters.state_dicts import layers_in_order
from converters.symmetry import Axis, AxisFactor, PermutationSpec, SymmetrySpec
from nngraph.errors import ArchitectureError, DataFileError
from nngraph.graph import MAX_SIZE, Space

#: Larger texts are no spec of a network whose weights fit into memory.
_MAX_BYTES = 2**26


def load_spec(path: str | Path) -> PermutationSpec | SymmetrySpec:
    """Read a spec that ``nngraph spec`` or ``to_json`` wrote.

    Raises:
        DataFileError: if the file is missing, too large, or no JSON.
        ArchitectureError: if it is no spec, or one of no network.
    """
    path = checkpoints.checked_path(path, _MAX_BYTES)
    try:
        text = path.read_text()
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is no JSON file: {error!s:.200}.") from None
    try:
        if isinstance(data, dict) and "generators" in data:
            whole = SymmetrySpec.from_json(text)
            _check(whole.permutations)
            return whole
        spec = PermutationSpec.from_json(text)
        _check(spec)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from None
    return spec


def mlp_spec(tensors: Mapping[str, Tensor]) -> PermutationSpec:
    """Return the spec of an MLP, which the shapes of its tensors tell.

    Every entry is ``prefix.weight`` or ``prefix.bias``; see :func:`converters.state_dict_to_graph`.

    Raises:
        InvalidGraphError: if the entries are no MLP, or leave more than one order or none.
    """
    layers = layers_in_order(tensors)
    spaces = [Space(prefix, len(weight)) for prefix, weight, _ in layers[:-1]]
    axes: list[Axis] = [
        ((AxisFactor(layers[0][1].shape[1]),),),
        *(((AxisFactor(space.size, space.name),),) for space in spaces),
        ((AxisFactor(len(layers[-1][1])),),),
    ]
    parameters: dict[str, tuple[Axis, ...]] = {}
    for place, (prefix, _, bias) in enumerate(layers):
        parameters[f"{prefix}.weight"] = (axes[place + 1], axes[place])
        if bias is not None:
            parameters[f"{prefix}.bias"] = (axes[place + 1],)
    return PermutationSpec(tuple(spaces), parameters)


# -- a spec that anybody may have written --------------------------------------------------------


def _check(spec: PermutationSpec) -> None:
    """Refuse sizes that are none, and spaces that no tensor bounds."""
    for name, axes in spec.parameters.items():
        for factor in (f for axis in axes for f in _every_factor(axis)):
            if type(factor.size) is not int or not 0 <= factor.size <= MAX_SIZE:
                raise ArchitectureError(f"tensor {name!r} counts {factor.size!r:.40} indices.")
    for space in spec.spaces:
        ties = [name for name, _ in spec.ties(space.name)]
        # Its permutations are no more numbers than a tensor that counts it has entries.
        size = space.size * math.prod(spec.by_name[outer].size for outer in space.within)
        if not ties or any(size > math.prod(spec.shape(name)) for name in ties):
            raise ArchitectureError(
                f"space {space.name!r} of {space.size} neurons, within {space.within or 'none'}, "
                "is not counted whole by each tensor that is said to; expected what "
                "PermutationSpec.to_json wrote."
            )


def _every_factor(axis: Axis) -> Iterator[AxisFactor]:
    """Iterate over all factors, those with parts before these."""
    for segment in axis:
        for factor in segment:
            yield factor
            yield from _every_factor(factor.parts)
