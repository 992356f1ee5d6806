"""The activation of a group: what its neurons go through before anything else takes them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from converters import elementwise
from converters.chains.program import base_name
from converters.chains.reading import CASTS, DROPOUTS, PASSIVE, SELECTIONS
from converters.elementwise import NEURON, Expression, finite_number
from converters.symmetry.derive import Derivation
from converters.symmetry.program import ARRANGING, Operation, Ref
from nngraph.graph import Activation

#: Operators that leave every entry where it is.
_STILL = PASSIVE | CASTS | DROPOUTS | {"native_dropout"}
#: Operators that keep, move, pool or choose entries: what they give are still those neurons.
_MOVING = _STILL | SELECTIONS | {name.strip("_") for name in ARRANGING} | frozenset({
    "numpy_T", "mT", "swapaxes", "flip", "roll", "repeat", "constant_pad_nd", "pad",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
    "pixel_shuffle", "unfold",
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "max_pool1d_with_indices", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
    "upsample_linear1d", "upsample_trilinear3d", "upsample_bicubic2d",
})  # fmt: skip
#: Operators without parameters that make of neurons what no activation is, and end the way.
_JOINT = frozenset({
    "softmax", "log_softmax", "glu", "layer_norm", "native_layer_norm", "group_norm",
    "native_group_norm", "instance_norm", "rms_norm", "fused_rms_norm", "batch_norm",
    "linalg_vector_norm", "cumsum", "cumprod", "logcumsumexp", "sort", "argsort",
})  # fmt: skip
#: Activations with learned numbers of their own.
_LEARNED = ("prelu", "prelu_kernel")


@dataclass(frozen=True)
class _Followed:
    """A tensor of a group's neurons."""

    #: what has been made of each; ``None`` where that is no function of it alone
    expression: Expression | None
    #: what has been applied, for people
    operators: tuple[str, ...]
    #: where they are counted from the front; ``None`` where that is not known any more
    axis: int | None
    #: which of them these are, as far as that is known
    window: tuple[int, int]
    #: the operations that moved or chose entries: each place has its own
    moves: tuple[tuple[int, int], ...] = ()


class Following:
    """Follows the results of layers through a program."""

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation
        self.program = derivation.program

    @cached_property
    def users(self) -> dict[Ref, list[int]]:
        """The operations that take each tensor, by number."""
        users: dict[Ref, list[int]] = {}
        for number, operation in enumerate(self.program.operations):
            for ref in dict.fromkeys(operation.operands):
                users.setdefault(ref, []).append(number)
        return users

    def activation(self, ref: Ref | None, axis: int, window: tuple[int, int]) -> Activation:
        """Return the activation that all of what takes a layer's neurons finds applied to them.

        It is ``other``, with the operators, if that is no known one, or not one.

        Args:
            ref: the result of the layer.
            axis: the axis of it that counts its neurons, from the front or from the end.
            window: which of them are asked for.
        """
        if ref is None:
            return Activation("identity")
        low, high = window
        found = [f for f in self._ends(ref, axis) if f.window[0] < high and low < f.window[1]]
        expressions = {f.expression.text: f.expression for f in found if f.expression is not None}
        operators = dict.fromkeys(o for f in found for o in f.operators)
        if len(expressions) == 1 and all(f.expression is not None for f in found):
            known = elementwise.recognise(next(iter(expressions.values())))
            if known is not None:
                return known
        if not operators:
            return Activation("identity")
        return Activation("other", operator=", ".join(operators))

    def _ends(self, ref: Ref, axis: int) -> Iterator[_Followed]:
        """The neurons as each operation that is not followed finds them."""
        shape = self.program.results[ref].shape
        axis = axis % len(shape) if -len(shape) <= axis < len(shape) else 0
        size = shape[axis] if shape else 1
        reached = {ref: _Followed(NEURON, (), axis, (0, size))}
        queue = list(self.users.get(ref, []))
        heapq.heapify(queue)
        outputs = {*self.program.outputs, *(new for _, new in self.program.updates)}
        if ref in outputs:
            yield reached[ref]
        done: set[int] = set()
        while queue:
            number = heapq.heappop(queue)
            if number in done:
                continue
            done.add(number)
            operation = self.program.operations[number]
            results = self._step(number, reached)
            if results is None:
                taken = dict.fromkeys(operation.operands)
                yield from (reached[r] for r in taken if r in reached)
                continue
            for made, value in results.items():
                reached[made] = value
                if made in outputs or value.expression is None:
                    yield value
                if value.expression is not None:
                    for user in self.users.get(made, []):
                        heapq.heappush(queue, user)

    def _step(self, number: int, reached: dict[Ref, _Followed]) -> dict[Ref, _Followed] | None:
        """What an operation makes of neurons; ``None`` if it is not followed."""
        operation = self.program.operations[number]
        arguments, name = operation.arguments, base_name(operation)
        taken = dict.fromkeys(operation.operands)
        values = [reached[r] for r in taken if r in reached]
        if any(value.expression is None for value in values):
            return None
        first = next(iter(arguments.values()), None)
        made = {i: ref for i, ref in enumerate(operation.outputs) if ref is not None}
        alone = len(values) == 1 and len(taken) == 1
        if name in _MOVING and alone:
            assert isinstance(first, Ref)
            results = {}
            for i, ref in made.items():
                moved = self._moved(name, i, arguments, first, ref, values[0])
                still = name in _STILL
                results[ref] = moved if still else replace(moved, moves=(*moved.moves, (number, i)))
            return results
        learned = name in _LEARNED and isinstance(first, Ref) and first in reached
        if (name in _JOINT and alone) or learned:
            # No function of one neuron alone any more.
            operators = tuple(dict.fromkeys((*values[0].operators, operation.name)))
            lost = replace(values[0], expression=None, operators=operators)
            return dict.fromkeys(made.values(), lost)
        return self._applied(operation, name, arguments, reached)

    def _moved(
        self, name: str, place: int, arguments: dict[str, object], old: Ref, new: Ref,
        value: _Followed,
    ) -> _Followed:  # fmt: skip
        """Keep track of which neurons these are, where an axis is cut."""
        before, after = self.program.results[old].shape, self.program.results[new].shape
        axis, dim = value.axis, arguments.get("dim", 0)
        if axis is None or len(before) != len(after):
            return replace(value, axis=None)
        if name in _STILL or (before == after and name in ("view", "expand", "slice")):
            return value
        if name in ("split", "split_with_sizes", "chunk", "slice", "narrow"):
            if not isinstance(dim, int) or dim % len(before) != axis:
                return value
            start = self._start(name, place, arguments, before[axis])
            if start is None:
                return replace(value, axis=None)
            start += value.window[0]
            return replace(value, window=(start, start + after[axis]))
        spatial = any(word in name for word in ("pool", "pad", "upsample"))
        return value if spatial and before[axis] == after[axis] else replace(value, axis=None)

    def _start(self, name: str, place: int, arguments: dict[str, object], size: int) -> int | None:
        """The first index of a cut of an axis."""
        sizes = arguments.get("split_size", arguments.get("split_sizes"))
        if name == "chunk":
            chunks = arguments.get("chunks")
            sizes = -(-size // chunks) if isinstance(chunks, int) else None
        if isinstance(sizes, int):
            return place * sizes
        if isinstance(sizes, (list, tuple)):
            return sum(sizes[:place])
        start = arguments.get("start") or 0
        if not isinstance(start, int) or arguments.get("step", 1) != 1:
            return None
        return max(start + size, 0) if start < 0 else start

    def _applied(
        self, operation: Operation, name: str, arguments: dict[str, object],
        reached: dict[Ref, _Followed],
    ) -> dict[Ref, _Followed] | None:  # fmt: skip
        """Apply an operator entry by entry."""
        made = operation.outputs[0]
        given: dict[str, object] = {}
        values: list[_Followed] = []
        for key, argument in arguments.items():
            if isinstance(argument, Ref) and argument in reached:
                values.append(reached[argument])
                given[key] = reached[argument].expression
            elif isinstance(argument, Ref):
                given[key] = self.derivation.number(argument)
                if given[key] is None:
                    return None
            elif isinstance(argument, (list, tuple)) or (
                isinstance(argument, (int, float)) and argument in self.program.unknown
            ):
                return None
            else:
                number = finite_number(argument)
                given[key] = argument if number is None else number
        one = values[0] if values else None
        if made is None or one is None or any(v.moves != one.moves for v in values):
            return None
        try:
            result = elementwise.apply(name, given)
        except elementwise.TooLong:
            return None
        if result is None:
            return None
        operators = dict.fromkeys([*(o for v in values for o in v.operators), operation.name])
        return {made: replace(one, expression=result, operators=tuple(operators))}
