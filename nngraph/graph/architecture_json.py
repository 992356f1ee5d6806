"""The JSON form of an architecture: written plainly, read warily."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nngraph.errors import ArchitectureError
from nngraph.graph.activations import Activation
from nngraph.graph.groups import MAX_SIZE, NeuronGroup, is_count
from nngraph.graph.layout import Parameter, Slab
from nngraph.graph.neuron_scales import NeuronScale, SlabPower
from nngraph.graph.spaces import Factor, Space

#: Version of the form. It changes whenever an older reader would misread a newer file.
SCHEMA_VERSION = 1
#: What an architecture is made of: groups, parameters, residuals, spaces, scales, in this order.
Parts = tuple[
    tuple[NeuronGroup, ...], tuple[Parameter, ...], tuple[tuple[int, int], ...], tuple[Space, ...],
    tuple[NeuronScale, ...],
]


def to_plain(parts: Parts) -> dict[str, Any]:
    """Return the description as plain lists, dicts, strings and numbers."""
    groups, parameters, residuals, structure, scales = parts
    plain = {
        "format": "nngraph.architecture", "version": SCHEMA_VERSION,
        "groups": [_group_to_plain(group) for group in groups],
        "parameters": [_parameter_to_plain(parameter) for parameter in parameters],
    }  # fmt: skip
    if residuals:
        plain["residuals"] = [list(residual) for residual in residuals]
    if structure:
        plain["structure"] = [
            {"name": s.name, "size": s.size, "within": list(s.within), "fixed": s.fixed}
            for s in structure
        ]
    if scales:
        plain["scales"] = [
            {"space": s.space, "kind": s.kind, "powers": [list(power) for power in s.powers]}
            for s in scales
        ]
    return plain


def _group_to_plain(group: NeuronGroup) -> dict[str, Any]:
    activation, space = group.activation, group.space
    operator = {"operator": activation.operator} if activation.operator else {}
    return {
        "name": group.name, "size": group.size, "role": group.role,
        "activation": {"name": activation.name, **dict(activation.options), **operator},
        "space": [[f.size, f.space] for f in space] if isinstance(space, tuple) else space,
    }  # fmt: skip


def _parameter_to_plain(parameter: Parameter) -> dict[str, Any]:
    # What MLPs do not have is left out, so that their files stay as readers of old know them.
    plain: dict[str, Any] = {
        "name": parameter.name, "shape": list(parameter.shape), "axes": list(parameter.axes),
        "column": parameter.column,
    }  # fmt: skip
    if parameter.slabs:
        plain["slabs"] = [
            {
                k: list(map(list, v)) if k in ("window", "split", "part") else v
                for k, v in vars(slab).items()
            }
            for slab in parameter.slabs
        ]
    if parameter.integer:
        plain["integer"] = parameter.integer
    if parameter.aliases:
        plain["aliases"] = list(parameter.aliases)
    return plain


def from_plain(data: object) -> Parts:
    """Read what :func:`to_plain` wrote; see :meth:`nngraph.graph.Architecture.from_dict`."""
    found = _fields(
        data, "an architecture", ("format", "version", "groups", "parameters"),
        ("residuals", "structure", "scales"),
    )  # fmt: skip
    if found["format"] != "nngraph.architecture":
        raise ArchitectureError(
            f"an architecture has format {found['format']!r}; expected 'nngraph.architecture'."
        )
    if found["version"] != SCHEMA_VERSION:
        raise ArchitectureError(
            f"an architecture has version {found['version']!r}; this nngraph reads version "
            f"{SCHEMA_VERSION}. Read it with the nngraph that wrote it, or a newer one."
        )
    readers = {
        "groups": _GROUP, "parameters": _PARAMETER, "residuals": _numbers, "structure": _SPACE,
        "scales": _SCALE,
    }
    # Residuals are pairs, which the architecture checks.
    groups, parameters, residuals, structure, scales = (
        _list_of(reader)(found.get(name, []), name) for name, reader in readers.items()
    )
    return groups, parameters, residuals, structure, scales


# -- readers: of a value, and where it stands ------------------------------------------------------

_Reader = Callable[[Any, str], Any]


def _any(data: object, where: str) -> Any:
    return data  # checked by what is made of it


def _list_of(reader: _Reader) -> _Reader:
    def read(data: Any, where: str) -> Any:
        if not isinstance(data, list):
            raise ArchitectureError(f"{where} is a {type(data).__name__}; expected a list.")
        if reader is _any:
            return tuple(data)
        return tuple(reader(item, f"{where}[{i}]") for i, item in enumerate(data))

    return read


def _record(
    make: Callable[..., Any], needed: Mapping[str, _Reader], further: Mapping[str, _Reader]
) -> _Reader:
    readers = {**needed, **further}

    def read(data: Any, where: str) -> Any:
        found = _fields(data, where, tuple(needed), tuple(further))
        return make(**{k: readers[k](value, f"{where}.{k}") for k, value in found.items()})

    return read


def _value(fits: Callable[[Any], bool], expected: str) -> _Reader:
    def read(data: Any, where: str) -> Any:
        if not fits(data):
            raise ArchitectureError(f"{where} is {data!r}; expected {expected}.")
        return data

    return read


_number = _value(lambda data: is_count(data) and 0 <= data <= MAX_SIZE, "a whole number from 0")
_string = _value(lambda data: isinstance(data, str), "a string")
_optional = _value(lambda data: data is None or isinstance(data, str), "a name or null")
_flag = _value(lambda data: isinstance(data, bool), "true or false")


def _bounds(data: object, where: str) -> tuple[int, int]:
    pair = _numbers(data, where)
    if len(pair) != 2:
        raise ArchitectureError(f"{where} is {pair}; expected a pair (start, stop).")
    return pair  # type: ignore[no-any-return]


def _factor(data: Any, where: str) -> Factor:
    size, space = (*_list_of(_any)(data, where), None, None)[:2]
    return Factor(_number(size, where), _optional(space, where))


def _space_of(data: object, where: str) -> Any:
    return _list_of(_factor)(data, where) if isinstance(data, list) else data


def _power(data: Any, where: str) -> SlabPower:
    found = _list_of(_any)(data, where)
    if len(found) != len(SlabPower._fields):
        raise ArchitectureError(f"{where} is {data!r}; expected [slab, end, power].")
    return SlabPower(*found)  # checked by the architecture


def _activation(data: Any, where: str) -> Activation:
    options = dict(_fields(data, where, ("name",), None))
    return Activation(_string(options.pop("name"), f"{where}.name"), **options)


_numbers = _list_of(_number)
_GROUP = _record(
    NeuronGroup,
    {"name": _any, "size": _any, "role": _any, "activation": _activation, "space": _space_of}, {},
)  # fmt: skip
_SLAB = _record(
    Slab,
    {
        "axes": _string, "target": _any, "source": _any, "column": _optional,
        "window": _list_of(_bounds), "split": _list_of(_numbers), "part": _list_of(_bounds),
    },
    {},
)  # fmt: skip
_PARAMETER = _record(
    Parameter,
    {"name": _string, "shape": _list_of(_any), "axes": _list_of(_any), "column": _optional},
    {"slabs": _list_of(_SLAB), "integer": _optional, "aliases": _list_of(_string)},
)
_SPACE = _record(
    Space, {"name": _string, "size": _number, "within": _list_of(_string), "fixed": _flag}, {}
)
_SCALE = _record(
    NeuronScale, {"space": _string, "kind": _string, "powers": _list_of(_power)}, {}
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
