"""Whether a tensor holds symmetric matrices, by how it was computed.

Some functions of matrices read one triangle and take the other for its mirror image. Rows and
columns may be relabelled together there only if it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from converters.symmetry.program import Operation, Program, Ref
from converters.symmetry.values import Value

#: Operations that are looked back over in a row.
MAX_DEPTH = 100
#: Products of matrices, and entrywise operations that take their operands in either order.
PRODUCTS = ("aten.matmul", "aten.mm", "aten.bmm")
COMMUTING = ("aten.add", "aten.mul", "aten.maximum", "aten.minimum")
#: Entrywise operations that torch does not tag as such.
COPIES = ("aten.clone", "aten._to_copy", "aten.alias", "aten.detach", "aten.contiguous")


class SymmetricMatrices:
    """Which tensors of a program are known to equal themselves with the last two axes swapped."""

    def __init__(self, program: Program, values: Mapping[Ref, Value]) -> None:
        self.program, self.values = program, values
        self.made = {ref: o for o in program.operations for ref in o.outputs[:1] if ref is not None}
        self.known: dict[Ref, bool] = {}

    def holds(self, ref: Ref, depth: int = MAX_DEPTH) -> bool:
        """Whether a tensor is known to be symmetric."""
        if ref not in self.known:
            self.known[ref] = self._look(ref, depth)
        return self.known[ref]

    def _look(self, ref: Ref, depth: int) -> bool:
        shape, dtype = self.program.results[ref].shape, self.program.results[ref].dtype
        if all(size == 1 for size in shape[-2:]):
            return not dtype.is_complex
        # Of complex matrices the other triangle is taken to be conjugate, too.
        if len(shape) < 2 or shape[-1] != shape[-2] or dtype.is_complex or not depth:
            return False
        constant = self.values[ref].constant if ref in self.values else None
        made = self.made.get(ref)
        if constant is not None and constant.value is not None:
            return torch.equal(constant.value, constant.value.mT)
        if made is None:
            return False
        operands = made.operands
        if self._transposed(ref) is not None:
            return self.holds(operands[0], depth - 1)
        mirrored = len(operands) == 2 and (
            self._transposed(operands[0]) == operands[1]
            or self._transposed(operands[1]) == operands[0]
        )
        if made.name in PRODUCTS:
            return mirrored
        if mirrored and made.name in COMMUTING and made.kwargs.get("alpha", 1) == 1:
            return True
        entrywise = made.is_pointwise or made.name in COPIES
        return entrywise and bool(operands) and all(self.holds(o, depth - 1) for o in operands)

    def _transposed(self, ref: Ref) -> Ref | None:
        """Return the tensor whose last two axes were swapped to get another, if that was done."""
        made: Operation | None = self.made.get(ref)
        if made is None or not made.args or not isinstance(made.args[0], Ref):
            return None
        operand, *rest = made.args
        rank = len(self.program.results[operand].shape)
        if rank < 2:
            return None
        order = list(range(rank))
        if made.name == "aten.transpose":
            one, other = (axis % rank for axis in rest)
            order[one], order[other] = other, one
        elif made.name == "aten.permute":
            order = [axis % rank for axis in rest[0]]
        elif made.name in ("aten.t", "aten.numpy_T", "aten.mT"):
            order.reverse()
        return operand if order == [*range(rank - 2), rank - 1, rank - 2] else None
