"""The JSON form of an architecture: written plainly, read warily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation
from nngraph.graph.groups import MAX_SIZE, NeuronGroup, is_count
from nngraph.graph.layout import Parameter, Slab
from nngraph.graph.spaces import Factor, Space

__all__ = ["from_plain", "to_plain"]

#: Version of the form. It changes whenever an older reader would misread a newer file.
SCHEMA_VERSION = 1


#: What an architecture is made of: groups, parameters, residuals and spaces, in this order.
Parts = tuple[
    tuple[NeuronGroup, ...],
    tuple[Parameter, ...],
    tuple[tuple[int, int], ...],
    tuple[Space, ...],
]


def to_plain(parts: Parts) -> dict[str, Any]:
    """Return the description as plain lists, dicts, strings and numbers."""
    groups, parameters, residuals, structure = parts
    plain: dict[str, Any] = {
        "format": "nngraph.architecture",
        "version": SCHEMA_VERSION,
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "role": group.role,
                "activation": _activation_to_plain(group.activation),
                "space": (
                    [[factor.size, factor.space] for factor in group.space]
                    if isinstance(group.space, tuple) else group.space
                ),
            }
            for group in groups
        ],
        "parameters": [_parameter_to_plain(parameter) for parameter in parameters],
    }
    # What MLPs do not have is left out, so that their files stay as readers of old know them.
    if residuals:
        plain["residuals"] = [list(residual) for residual in residuals]
    if structure:
        plain["structure"] = [
            {"name": s.name, "size": s.size, "within": list(s.within), "fixed": s.fixed}
            for s in structure
        ]
    return plain


def _activation_to_plain(activation: Activation) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": activation.name, **dict(activation.options)}
    if activation.operator:
        plain["operator"] = activation.operator
    return plain


def _parameter_to_plain(parameter: Parameter) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": parameter.name,
        "shape": list(parameter.shape),
        "axes": list(parameter.axes),
        "column": parameter.column,
    }
    if parameter.slabs:
        plain["slabs"] = [
            {
                "axes": slab.axes,
                "target": slab.target,
                "source": slab.source,
                "column": slab.column,
                "window": [list(bounds) for bounds in slab.window],
                "split": [list(sizes) for sizes in slab.split],
                "part": [list(bounds) for bounds in slab.part],
            }
            for slab in parameter.slabs
        ]
    if parameter.integer is not None:
        plain["integer"] = parameter.integer
    if parameter.aliases:
        plain["aliases"] = list(parameter.aliases)
    return plain


def from_plain(data: object) -> Parts:
    """Read what :func:`to_plain` wrote.

    Raises:
        ArchitectureError: if the version is unknown, or anything is missing, of a wrong type, or
            inconsistent.
    """
    fields = _fields(
        data, "an architecture", ("format", "version", "groups", "parameters"),
        ("residuals", "structure"),
    )  # fmt: skip
    if fields["format"] != "nngraph.architecture":
        raise ArchitectureError(
            f"an architecture has format {fields['format']!r}; "
            "expected 'nngraph.architecture'."
        )
    if fields["version"] != SCHEMA_VERSION:
        raise ArchitectureError(
            f"an architecture has version {fields['version']!r}; this nngraph reads version "
            f"{SCHEMA_VERSION}. Read it with the nngraph that wrote it, or a newer one."
        )
    residuals = [
        tuple(_numbers(item, f"residuals[{i}]"))
        for i, item in enumerate(_items(fields.get("residuals", []), "residuals"))
    ]
    return (
        tuple(
            _group(item, f"groups[{i}]")
            for i, item in enumerate(_items(fields["groups"], "groups"))
        ),
        tuple(
            _parameter(item, f"parameters[{i}]")
            for i, item in enumerate(_items(fields["parameters"], "parameters"))
        ),
        tuple(residuals),  # type: ignore[arg-type]  # the architecture checks for pairs
        tuple(
            _space(item, f"structure[{i}]")
            for i, item in enumerate(_items(fields.get("structure", []), "structure"))
        ),
    )


def _group(item: object, where: str) -> NeuronGroup:
    group = _fields(item, where, ("name", "size", "role", "activation", "space"))
    activation = dict(_fields(group["activation"], f"{where}.activation", ("name",), None))
    name = _string(activation.pop("name"), f"{where}.activation.name")
    space = group["space"]
    if isinstance(space, list):
        factors = []
        for factor in space:
            size, owner = (*_items(factor, f"{where}.space"), None, None)[:2]
            if owner is not None:
                owner = _string(owner, f"{where}.space")
            factors.append(Factor(_numbers([size], f"{where}.space")[0], owner))
        space = tuple(factors)
    return NeuronGroup(
        group["name"], group["size"], group["role"], Activation(name, **activation), space
    )


def _parameter(item: object, where: str) -> Parameter:
    parameter = _fields(
        item, where, ("name", "shape", "axes", "column"), ("slabs", "integer", "aliases")
    )
    slabs = []
    for i, entry in enumerate(_items(parameter.get("slabs", []), f"{where}.slabs")):
        here = f"{where}.slabs[{i}]"
        slab = _fields(
            entry, here, ("axes", "target", "source", "column", "window", "split", "part")
        )
        slabs.append(
            Slab(
                _string(slab["axes"], f"{here}.axes"),
                slab["target"],
                slab["source"],
                _optional_string(slab["column"], f"{here}.column"),
                _bounds(slab["window"], f"{here}.window"),
                tuple(
                    tuple(_numbers(sizes, f"{here}.split"))
                    for sizes in _items(slab["split"], f"{here}.split")
                ),
                _bounds(slab["part"], f"{here}.part"),
            )
        )
    return Parameter(
        _string(parameter["name"], f"{where}.name"),
        tuple(_items(parameter["shape"], f"{where}.shape")),
        tuple(_items(parameter["axes"], f"{where}.axes")),
        _optional_string(parameter["column"], f"{where}.column"),
        tuple(slabs),
        _optional_string(parameter.get("integer"), f"{where}.integer"),
        tuple(
            _string(alias, f"{where}.aliases")
            for alias in _items(parameter.get("aliases", []), f"{where}.aliases")
        ),
    )


def _space(item: object, where: str) -> Space:
    space = _fields(item, where, ("name", "size", "within", "fixed"))
    if not isinstance(space["fixed"], bool):
        raise ArchitectureError(f"{where}.fixed is {space['fixed']!r}; expected true or false.")
    return Space(
        _string(space["name"], f"{where}.name"),
        _numbers([space["size"]], f"{where}.size")[0],
        tuple(_string(w, f"{where}.within") for w in _items(space["within"], f"{where}.within")),
        space["fixed"],
    )


def _fields(
    data: object, where: str, names: tuple[str, ...], further: tuple[str, ...] | None = ()
) -> Mapping[str, Any]:
    """Check that ``data`` is a JSON object with these fields and no others but ``further``.

    ``None`` for ``further`` allows any.
    """
    if not isinstance(data, dict):
        raise ArchitectureError(f"{where} is a {type(data).__name__}; expected an object.")
    if missing := [name for name in names if name not in data]:
        raise ArchitectureError(f"{where} lacks the field {missing[0]!r}.")
    if further is None:
        return data
    if unknown := [name for name in data if name not in (*names, *further)]:
        raise ArchitectureError(
            f"{where} has the unknown field {unknown[0]!r}; "
            f"expected {', '.join((*names, *further))}."
        )
    return data


def _items(data: object, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise ArchitectureError(f"{where} is a {type(data).__name__}; expected a list.")
    return data


def _bounds(data: object, where: str) -> tuple[tuple[int, int], ...]:
    pairs = [_numbers(item, where) for item in _items(data, where)]
    if any(len(pair) != 2 for pair in pairs):
        raise ArchitectureError(f"{where} is {pairs}; expected pairs (start, stop).")
    return tuple((start, stop) for start, stop in pairs)


def _numbers(data: object, where: str) -> list[int]:
    """Check that ``data`` is a list of whole numbers from 0."""
    items = _items(data, where)
    for item in items:
        if not is_count(item) or not 0 <= item <= MAX_SIZE:
            raise ArchitectureError(f"{where} has {item!r}; expected whole numbers from 0.")
    return items


def _string(data: object, where: str) -> str:
    if not isinstance(data, str):
        raise ArchitectureError(f"{where} is {data!r}; expected a string.")
    return data


def _optional_string(data: object, where: str) -> str | None:
    if not (data is None or isinstance(data, str)):
        raise ArchitectureError(f"{where} is {data!r}; expected a name or null.")
    return data
