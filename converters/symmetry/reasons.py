"""Why a dimension is fixed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: An axis that is cut into more parts than this is no list of different things.
MAX_CUTS = 64


@dataclass(frozen=True, eq=False)
class Reason:
    """Why something is fixed, and where."""

    #: the operation that fixed it; ``"input"`` and ``"output"`` of the network are two of them
    op: str
    module_path: str = ""
    #: why, for people
    text: str = ""
    #: whether that is for want of a rule
    unknown: bool = False
    #: whether nothing was lost by it, as at inputs and outputs
    natural: bool = False


#: The reason of what is fixed because two structures have no common refinement.
STRUCTURE = "structures without a common refinement"

#: The reason of indices that are told apart one by one.
APART = "indices that are told apart one by one"

#: The reason of what is left of an axis after so many cuts.
TOO_MANY_CUTS = Reason("cut", text=f"is cut into more than {MAX_CUTS} parts")


def joint(all_reasons: Iterable[frozenset[object]]) -> frozenset[object]:
    """Return the reasons of parts that become one; what lost freedom is said before what did not.
    """
    found = [reasons for reasons in all_reasons if reasons]
    lost = [reasons for reasons in found if not any(map(is_natural, reasons))]
    structure: set[object] = {STRUCTURE for reasons in found if STRUCTURE in reasons}
    return frozenset(structure.union(*(lost or found)) or (APART,))


def is_natural(reason: object) -> bool:
    """Whether nothing was lost by fixing for this reason."""
    return isinstance(reason, Reason) and reason.natural
