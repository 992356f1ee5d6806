"""Where tensors will be taken apart: found backwards, before the rules run forwards.

A projection for queries, keys and values is viewed as ``3 x heads x features`` and only then taken
apart along the 3. A view that knows can cut first and give each part dimensions of its own. So this
pass follows the places at which axes are cut back through operations that only move axes or work
entry by entry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TypeAlias

from converters.symmetry.program import Operation, Program, Ref
from converters.symmetry.reasons import MAX_CUTS

#: tensor -> axis -> the indices before which it is cut; more than ``MAX_CUTS`` stand for too many
Demands: TypeAlias = dict[Ref, dict[int, frozenset[int]]]


def find_demands(program: Program) -> Demands:
    """Return where the axes of each tensor are cut by later operations."""
    demands: Demands = {}
    for operation in reversed(program.operations):
        source = operation.args[0] if operation.args else None
        if operation.short_name in _CUTS and isinstance(source, Ref):
            shape = program.results[source].shape
            own, places = _cuts(operation, shape)
            inner = {place for place in places if 0 < place < shape[own]}
            if inner and len(inner) <= MAX_CUTS:
                _add(demands, source, own, inner)
        for source in operation.operands:
            for output in operation.outputs:
                if output is None or output not in demands:
                    continue
                moved = _origin(operation, program, source, output) or {}
                for axis, cuts in list(demands[output].items()):
                    if axis in moved:
                        _add(demands, source, moved[axis], cuts)
    return demands


def _add(demands: Demands, ref: Ref, axis: int, cuts: Iterable[int]) -> None:
    axes = demands.setdefault(ref, {})
    known = axes.get(axis, frozenset())
    if len(known) <= MAX_CUTS:
        axes[axis] = known | frozenset(cuts)


_CUTS = ("split", "split_with_sizes", "chunk", "unbind", "select", "slice")


def _cuts(operation: Operation, shape: tuple[int, ...]) -> tuple[int, Iterable[int]]:
    """Return the axis that an operation takes apart, and the indices before which it is cut."""
    name, given = operation.short_name, operation.arguments
    axis = int(given["dim"]) % len(shape)
    size = shape[axis]
    if name == "unbind":
        return axis, range(1, min(size, MAX_CUTS + 2))
    if name == "select":
        index = int(given["index"]) % size
        return axis, [index, index + 1]
    if name == "slice":
        low, high, step = slice(given["start"], given["end"], given["step"]).indices(size)
        return axis, [low, high] if step == 1 else []
    if name == "chunk":
        step = -(-size // int(given["chunks"]))
    else:
        step = given["split_sizes"] if "split_sizes" in given else given["split_size"]
    if isinstance(step, (list, tuple)):
        return axis, itertools.accumulate(step)
    return axis, range(int(step), size, int(step))


_SAME = ("clone", "_to_copy", "contiguous", "alias", "detach", "dropout", "to")
_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")


def _origin(
    operation: Operation, program: Program, source: Ref, output: Ref
) -> dict[int, int] | None:
    """Return for the axes of a result the axes of an argument that they are."""
    name, given = operation.short_name, operation.arguments
    before, after = program.results[source].shape, program.results[output].shape
    if name == "permute":
        return {new: old % len(before) for new, old in enumerate(given["dims"])}
    if name == "transpose":
        one, other = (int(given[key]) % len(before) for key in ("dim0", "dim1"))
        order = list(range(len(before)))
        order[one], order[other] = order[other], order[one]
        return dict(enumerate(order))
    if name == "unsqueeze":
        place = int(given["dim"]) % len(after)
        return {new: new - (new > place) for new in range(len(after)) if new != place}
    if name in _VIEWS or name == "squeeze":
        return kept_axes(before, after)
    if name in _SAME or operation.is_pointwise:
        shift = len(after) - len(before)
        return {
            axis + shift: axis for axis, size in enumerate(before) if after[axis + shift] == size
        }
    if name not in _CUTS:
        return None
    axis, _ = _cuts(operation, before)
    if len(after) < len(before):
        return {new: new + (new >= axis) for new in range(len(after))}
    return {new: new for new in range(len(after)) if new != axis}


def kept_axes(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Return the axes that a view leaves whole: new place -> old place."""
    old = {(math.prod(before[:axis]), size): axis for axis, size in enumerate(before) if size != 1}
    places = {axis: (math.prod(after[:axis]), size) for axis, size in enumerate(after)}
    return {axis: old[place] for axis, place in places.items() if place in old}
