"""What several families of rules need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from converters.symmetry.call import Call, Outcome, Rule
from converters.symmetry.dims import Dim, atom, unify
from converters.symmetry.values import Value

#: What a rule returns.
Found = TypeVar("Found", bound=Outcome)


def entrywise(rule: Callable[[Call], Found]) -> Callable[[Call], Found]:
    """Return a rule that says of its operation that it goes entry by entry (``call.entrywise``)."""

    @functools.wraps(rule)
    def declared(call: Call) -> Found:
        call.entrywise()
        return rule(call)

    return declared


def table(rule: Rule, *names: str) -> dict[str, Rule]:
    """Return a rule under the names of its operators, ``aten.`` understood."""
    return {name if "." in name else f"aten.{name}": rule for name in names}


def is_weight(value: Value) -> bool:
    """Whether a value is a parameter, or computed from parameters alone."""
    return value.parameter is not None or bool(value.made_from)


def axis(index: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return index + rank if index < 0 else index


def axes(indices: int | Sequence[int] | None, rank: int) -> list[int]:
    """Return axes counted from the front; none given means all."""
    if indices is None or (not isinstance(indices, int) and len(indices) == 0):
        return list(range(rank))
    return [axis(i, rank) for i in ([indices] if isinstance(indices, int) else indices)]


def option(call: Call, name: str, place: int, default: Any = None) -> Any:
    """Return what an option of windows says of one axis: it may hold for all of them alike."""
    given = call.get(name)
    if not isinstance(given, (list, tuple)):
        return default if given is None or isinstance(given, str) else given
    return given[place if len(given) > 1 else 0] if given else default


def align(dims: Iterable[Dim]) -> Dim:
    """Unify dimensions that stand at one place, and return what stands there after broadcasting."""
    found: Dim | None = None
    for dim in dims:
        if dim.size == 1:
            continue
        if found is not None:
            unify(found, dim)
        found = found or dim
    return found if found is not None else atom(1)


def broadcast(all_dims: Sequence[Sequence[Dim]]) -> list[Dim]:
    """Unify the dimensions of tensors that are broadcast against one another."""
    rank = max((len(dims) for dims in all_dims), default=0)
    return [
        align(dims[place - rank] for dims in all_dims if len(dims) >= rank - place)
        for place in range(rank)
    ]


def enter(
    call: Call, kind: str, operands: Mapping[str, Value | None], output: Value, **facts: Any
) -> Value:
    """Record an operation: what is made of parameters alone by its role, all else as inputs."""
    given = {role: value for role, value in operands.items() if value is not None}
    inputs = [v for v in given.values() if not is_weight(v) and v.constant is None]
    weights = {role: value for role, value in given.items() if is_weight(value)}
    return call.enter(kind, inputs, output, weights, **facts)


def tied(call: Call, dims: Sequence[Dim], *roles: str) -> dict[str, Value | None]:
    """Return parameters by role, tied to the dimensions that they are broadcast against."""
    given = {role: call.get(role) for role in roles}
    for value in given.values():
        if value is not None:
            broadcast([dims, value.dims])
    return given


def rest_fixed(call: Call, first: Value) -> list[Value | None]:
    """Return results of which a rule says only the first; what the others come from is fixed."""
    rest = enumerate(call.shapes[1:], 1)
    return [first] + [Value(map(call.fixed, s)) if call.used(i) else None for i, s in rest]


def rest_alike(call: Call, first: Value) -> list[Value | None]:
    """Return results that all have the dimensions of the first."""
    rest = range(1, len(call.shapes))
    return [first] + [first.like(first.dims) if call.used(i) else None for i in rest]
