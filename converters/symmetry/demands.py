"""Where tensors will be taken apart: found backwards, before the rules run forwards.

A projection for queries, keys and values is viewed as ``3 x heads x features`` and only then taken
apart along the 3. If the view knew, it could cut first and give each part dimensions of its own.
This pass tells it: for each tensor, the places at which its axes are cut later on, followed back
through operations that only move axes or work entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from converters.symmetry.program import Operation, Program, Ref, references
from converters.symmetry.reasons import MAX_CUTS

#: tensor -> axis -> the indices before which it is cut; more than ``MAX_CUTS`` stand for too many
Demands: TypeAlias = dict[Ref, dict[int, frozenset[int]]]


def find_demands(program: Program) -> Demands:
    """Return where the axes of each tensor are cut by later operations."""
    demands: Demands = {}
    for operation in reversed(program.operations):
        name = operation.name.removeprefix("aten.")
        source = operation.args[0] if operation.args else None
        if name in _CUTS and isinstance(source, Ref):
            shape = program.results[source].shape
            own, places = _CUTS[name](operation, shape)
            inner = {place for place in places if 0 < place < shape[own]}
            if inner and len(inner) <= MAX_CUTS:
                _add(demands, source, own, inner)
        for source in references((operation.args, operation.kwargs)):
            for output in operation.outputs:
                if output is None or output not in demands:
                    continue
                moved = _origin(operation, program, source, output)
                for axis, cuts in list(demands[output].items()):
                    if moved is not None and (old := moved.get(axis)) is not None:
                        _add(demands, source, old, cuts)
    return demands


def _add(demands: Demands, ref: Ref, axis: int, cuts: Any) -> None:
    axes = demands.setdefault(ref, {})
    known = axes.get(axis, frozenset())
    if len(known) <= MAX_CUTS:
        axes[axis] = known | frozenset(cuts)


def _argument(operation: Operation, place: int, name: str, default: Any = None) -> Any:
    if len(operation.args) > place:
        return operation.args[place]
    return operation.kwargs.get(name, default)


def _split(operation: Operation, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    axis = int(_argument(operation, 2, "dim", 0)) % len(shape)
    sizes = _argument(operation, 1, "split_size", _argument(operation, 1, "split_sizes"))
    if isinstance(sizes, (list, tuple)):
        return axis, [sum(sizes[: i + 1]) for i in range(len(sizes))]
    if "chunk" in operation.name:
        sizes = -(-shape[axis] // int(_argument(operation, 1, "chunks")))
    return axis, list(range(int(sizes), shape[axis], int(sizes)))


def _unbind(operation: Operation, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    axis = int(_argument(operation, 1, "dim", 0)) % len(shape)
    return axis, list(range(1, min(shape[axis], MAX_CUTS + 2)))


def _select(operation: Operation, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    axis = int(_argument(operation, 1, "dim", 0)) % len(shape)
    index = int(_argument(operation, 2, "index", 0)) % shape[axis]
    return axis, [index, index + 1]


def _slice(operation: Operation, shape: tuple[int, ...]) -> tuple[int, list[int]]:
    axis = int(_argument(operation, 1, "dim", 0)) % len(shape)
    start, stop = _argument(operation, 2, "start"), _argument(operation, 3, "end")
    if _argument(operation, 4, "step", 1) != 1:
        return axis, []
    low, high, _ = slice(start, stop).indices(shape[axis])
    return axis, [low, high]


_CUTS: Mapping[str, Callable[[Operation, tuple[int, ...]], tuple[int, list[int]]]] = {
    "split": _split, "split_with_sizes": _split, "chunk": _split, "unbind": _unbind,
    "select": _select, "slice": _slice,
}

_SAME = ("clone", "_to_copy", "contiguous", "alias", "detach", "dropout", "to")
_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")


def _origin(
    operation: Operation, program: Program, source: Ref, output: Ref
) -> dict[int, int] | None:
    """Return for the axes of a result the axes of an argument that they are."""
    name = operation.name.removeprefix("aten.")
    before, after = program.results[source].shape, program.results[output].shape
    if name == "permute":
        dims = _argument(operation, 1, "dims")
        return {new: old % len(before) for new, old in enumerate(dims)}
    if name == "transpose":
        one, other = (int(_argument(operation, i, f"dim{i - 1}")) % len(before) for i in (1, 2))
        order = list(range(len(before)))
        order[one], order[other] = order[other], order[one]
        return dict(enumerate(order))
    if name == "unsqueeze":
        place = int(_argument(operation, 1, "dim")) % len(after)
        return {new: new - (new > place) for new in range(len(after)) if new != place}
    if name in _VIEWS or name == "squeeze":
        return kept_axes(before, after)
    tags = getattr(operation.target, "tags", ())
    if name in _SAME or torch.Tag.pointwise in tags:
        shift = len(after) - len(before)
        return {
            axis + shift: axis for axis, size in enumerate(before) if after[axis + shift] == size
        }
    if name in _CUTS:
        return _kept_by_cut(operation, name, before, after)
    return None


def _kept_by_cut(
    operation: Operation, name: str, before: tuple[int, ...], after: tuple[int, ...]
) -> dict[int, int]:
    axis, _ = _CUTS[name](operation, before)
    if len(after) < len(before):
        return {new: new + (new >= axis) for new in range(len(after))}
    return {new: new for new in range(len(after)) if new != axis}


def kept_axes(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Return the axes that a view leaves whole: new place -> old place."""
    kept = {}
    old = {
        (math.prod(before[:axis]), size): axis for axis, size in enumerate(before) if size != 1
    }
    for axis, size in enumerate(after):
        if size != 1 and (math.prod(after[:axis]), size) in old:
            kept[axis] = old[math.prod(after[:axis]), size]
    return kept
