"""Functions that a model defines for itself, put in where they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from nngraph.errors import DataFileError, UnsupportedModuleError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: More nodes than this are no network: functions that call each other twice double at each call.
MOST_NODES = 10**6

_Name = tuple[str, str, str]


def expand_functions(model: ModelProto, path: Path) -> ModelProto:
    """Return the model with its functions expanded; itself if it has none.

    Raises:
        DataFileError: if a function calls itself, or the expanded graph is too large.
        UnsupportedModuleError: if there is control flow too.
    """
    if not model.functions:
        return model
    from onnx.inliner import inline_local_functions

    bodies: dict[_Name, Counter[_Name]] = {}
    for function in model.functions:
        _refuse_graphs(function.node, path)
        name = (function.domain, function.name, function.overload)
        bodies[name] = Counter((n.domain, n.op_type, n.overload) for n in function.node)
    _refuse_graphs(model.graph.node, path)
    sizes = _sizes(bodies, path)
    total = sum(sizes.get((n.domain, n.op_type, n.overload), 1) for n in model.graph.node)
    if total > MOST_NODES:
        raise DataFileError(
            f"{path}: with its functions expanded the graph has more nodes than the "
            f"{MOST_NODES} that at most are read."
        )
    try:
        expanded: ModelProto = inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataFileError(f"{path}: its functions cannot be expanded: {error}.") from error
    return expanded


def _refuse_graphs(nodes: Iterable[NodeProto], path: Path) -> None:
    """Refuse control flow, whose bodies might call functions out of sight."""
    for node in nodes:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UnsupportedModuleError(
                f"{path}: node {node.name!r} ({node.op_type}) is control flow, in a model with "
                "functions of its own; a neural graph has one path."
            )


def _sizes(bodies: dict[_Name, Counter[_Name]], path: Path) -> dict[_Name, int]:
    """Return how many nodes each function has when all that it calls is expanded."""
    sizes: dict[_Name, int] = {}
    sorter = TopologicalSorter({name: body.keys() & bodies for name, body in bodies.items()})
    try:
        for name in sorter.static_order():
            # Bounded, so that numbers do not grow without end either.
            size = sum(count * sizes.get(other, 1) for other, count in bodies[name].items())
            sizes[name] = min(size, MOST_NODES + 1)
    except CycleError as error:
        raise DataFileError(f"{path}: the function {error.args[1][0][1]!r} calls itself.") from None
    return sizes
