"""The JSON form of an architecture: written plainly, read warily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation
from nngraph.graph.architecture import Architecture, NeuronGroup, Parameter

__all__ = ["from_plain", "to_plain"]

#: Version of the form. It changes whenever an older reader would misread a newer file.
SCHEMA_VERSION = 1


def to_plain(architecture: Architecture) -> dict[str, Any]:
    """Return the description as plain lists, dicts, strings and numbers."""
    return {
        "format": "nngraph.architecture",
        "version": SCHEMA_VERSION,
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "role": group.role,
                "activation": {
                    "name": group.activation.name, **dict(group.activation.options)
                },
                "space": group.space,
            }
            for group in architecture.groups
        ],
        "parameters": [
            {
                "name": parameter.name,
                "shape": list(parameter.shape),
                "axes": list(parameter.axes),
                "column": parameter.column,
            }
            for parameter in architecture.parameters
        ],
    }


def from_plain(data: object) -> Architecture:
    """Read what :func:`to_plain` wrote.

    Raises:
        ArchitectureError: if the version is unknown, or anything is missing, of a wrong type, or
            inconsistent.
    """
    fields = _fields(data, "an architecture", ("format", "version", "groups", "parameters"))
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
    groups = []
    for i, item in enumerate(_items(fields["groups"], "groups")):
        where = f"groups[{i}]"
        group = _fields(item, where, ("name", "size", "role", "activation", "space"))
        activation = dict(_fields(group["activation"], f"{where}.activation", ("name",), False))
        name = activation.pop("name")
        if not isinstance(name, str):
            raise ArchitectureError(f"{where}.activation.name is {name!r}; expected a string.")
        groups.append(
            NeuronGroup(
                group["name"], group["size"], group["role"], Activation(name, **activation),
                group["space"],
            )
        )
    parameters = []
    for i, item in enumerate(_items(fields["parameters"], "parameters")):
        where = f"parameters[{i}]"
        parameter = _fields(item, where, ("name", "shape", "axes", "column"))
        if not (parameter["column"] is None or isinstance(parameter["column"], str)):
            raise ArchitectureError(
                f"{where}.column is {parameter['column']!r}; expected a name or null."
            )
        if not isinstance(parameter["name"], str):
            raise ArchitectureError(f"{where}.name is {parameter['name']!r}; expected a string.")
        parameters.append(
            Parameter(
                parameter["name"],
                tuple(_items(parameter["shape"], f"{where}.shape")),
                tuple(_items(parameter["axes"], f"{where}.axes")),
                parameter["column"],
            )
        )
    return Architecture(tuple(groups), tuple(parameters))


def _fields(
    data: object, where: str, names: tuple[str, ...], only: bool = True
) -> Mapping[str, Any]:
    """Check that ``data`` is a JSON object with these fields, and, if ``only``, with no others."""
    if not isinstance(data, dict):
        raise ArchitectureError(f"{where} is a {type(data).__name__}; expected an object.")
    if missing := [name for name in names if name not in data]:
        raise ArchitectureError(f"{where} lacks the field {missing[0]!r}.")
    if only and (unknown := [name for name in data if name not in names]):
        raise ArchitectureError(
            f"{where} has the unknown field {unknown[0]!r}; expected {', '.join(names)}."
        )
    return data


def _items(data: object, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise ArchitectureError(f"{where} is a {type(data).__name__}; expected a list.")
    return data
