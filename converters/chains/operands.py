"""Operations of a program as people and tables name them, and where their results are used."""

from __future__ import annotations

from typing import Any

from converters.symmetry.program import Operation, Program, Ref, references


def base_name(operation: Operation) -> str:
    """Return the name of an operator as functions have it: ``to_copy`` of ``aten._to_copy``.

    Operators of other libraries keep their whole name: their ``relu`` may be any function.
    """
    library, _, name = operation.name.rpartition(".")
    return name.strip("_") if library == "aten" else operation.name


def named_arguments(operation: Operation) -> dict[str, Any]:
    """Return the arguments that are given, by the names of the operator's schema."""
    schema = getattr(operation.target, "_schema", None)
    if schema is None:
        names = [f"argument_{i}" for i in range(len(operation.args))]
    else:
        names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, operation.args, strict=False)), **operation.kwargs}


def users_of(program: Program) -> dict[Ref, list[int]]:
    """Return the operations that take each tensor, by number; those that lead to no output aside.
    """
    needed = set(references([program.outputs, [list(pair) for pair in program.updates]]))
    users: dict[Ref, list[int]] = {}
    for number in range(len(program.operations) - 1, -1, -1):
        operation = program.operations[number]
        if not needed.isdisjoint(ref for ref in operation.outputs if ref is not None):
            for ref in dict.fromkeys(references((operation.args, operation.kwargs))):
                needed.add(ref)
                users.setdefault(ref, []).append(number)
    return {ref: numbers[::-1] for ref, numbers in users.items()}
