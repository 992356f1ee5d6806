"""The rules: operator -> what it does to the dimensions of tensors, a family per file.

A rule takes a :class:`~converters.symmetry.call.Call` and returns the value of the result (or one
per result). It unifies the dimensions that the operation aligns, cuts or factors those that it
takes apart, and fixes those along which it treats one index unlike another. A rule that does not
cover its arguments raises ``Unruled``, or fails on them, and everything is fixed. Operators that
torch tags as pointwise share one rule. To add one, write it in its family and name its operators in
the family's table.

Each axis of each operand must be an axis of each result that is used, or be declared
(``converters.symmetry.accounting``):

- ``call.drops(*dims, results=...)``: results do not see the order of these. They are summed over,
  or left out after a cut. ``call.leaves_out(value)``: all of a value that a result does not have is
  left out, by a cut, or because its sizes alone count.
- ``call.fix(dims, why)``, ``call.resampled(...)``: their order counts. A result that *is* an index
  (of the largest, of what was sorted) tells the indices of that axis apart.
- ``call.copies(size)``: a new axis whose indices are alike. Any other new axis is fixed.

And it says how the operation runs, or nothing it touches lies within anything else:

- ``call.entrywise()``, or the decorator ``entrywise``: each entry of a result comes from entries at
  its own indices (along axes that are fixed, from any). ``call.drops`` says it too.
- ``call.iterates(*dims)``: a product over all of these, of which the first result drops what it
  does not have.
- ``call.mixes(value, places)``: entries are combined along some axes that the result keeps, as a
  norm or a softmax does.

An operation that others make up is written as their composition, with their records, so that
operands that share an axis are right by themselves (``rules.attention``).
"""

from __future__ import annotations

from converters.symmetry.call import Rule
from converters.symmetry.program import Operation
from converters.symmetry.rules.attention import ATTENTION
from converters.symmetry.rules.constants import CONSTANTS
from converters.symmetry.rules.convolution import CONVOLUTION
from converters.symmetry.rules.indexing import INDEXING
from converters.symmetry.rules.linear import LINEAR
from converters.symmetry.rules.matrices import MATRICES
from converters.symmetry.rules.normalisation import NORMALISATION
from converters.symmetry.rules.ordering import ORDERING
from converters.symmetry.rules.pointwise import POINTWISE, pointwise
from converters.symmetry.rules.pooling import POOLING
from converters.symmetry.rules.recurrent import RECURRENT
from converters.symmetry.rules.reduction import REDUCTION
from converters.symmetry.rules.segments import SEGMENTS
from converters.symmetry.rules.shape import SHAPE
from converters.symmetry.rules.spectral import SPECTRAL

__all__ = ["RULES", "fallback"]

_FAMILIES = (
    POINTWISE, SHAPE, SEGMENTS, INDEXING, ORDERING, REDUCTION, LINEAR, MATRICES, CONVOLUTION,
    POOLING, NORMALISATION, ATTENTION, RECURRENT, SPECTRAL, CONSTANTS,
)

#: Operator name, without overload -> rule.
RULES: dict[str, Rule] = {name: rule for family in _FAMILIES for name, rule in family.items()}


def fallback(operation: Operation) -> Rule | None:
    """Return the rule of an operator that has none by name: pointwise operators share one."""
    return pointwise if operation.is_pointwise and not operation.is_random else None
