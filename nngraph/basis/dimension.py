"""How many equivariant maps there are, in closed form and by enumeration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nngraph.basis.basis import Basis
from nngraph.basis.block import BasisBlock
from nngraph.basis.weight_space import WeightSpace
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture


@dataclass(frozen=True)
class Dimension:
    """Dimensions of the spaces of equivariant maps of a weight space.

    Args:
        table: elements of each block (from, to).
        constants: constants of each target tensor: the affine part.
        invariants: invariant linear functions of each source tensor.
    """

    table: dict[tuple[str, str], int]
    constants: dict[str, int]
    invariants: dict[str, int]

    @property
    def linear(self) -> int:
        """N_lin, of the equivariant linear maps."""
        return sum(self.table.values())

    @property
    def constant(self) -> int:
        """N_bias, of the invariant vectors."""
        return sum(self.constants.values())

    @property
    def invariant(self) -> int:
        """Of the invariant linear functions."""
        return sum(self.invariants.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return {
            "linear": self.linear,
            "constant": self.constant,
            "invariant": self.invariant,
            "blocks": [
                {"from": source, "to": target, "elements": count}
                for (source, target), count in self.table.items()
            ],
            "constants": self.constants,
            "invariants": self.invariants,
        }


def dimension(
    source: Architecture | WeightSpace,
    target: Architecture | WeightSpace | None = None,
    *,
    permute_io: bool = False,
    method: str = "closed",
) -> Dimension:
    """Count the equivariant linear maps, the constants and the invariant functions.

    Args:
        source: architecture or weight space that the maps read.
        target: what they write; default ``source``.
        permute_io: relabel input and output neurons too.
        method: ``"closed"`` multiplies bounded Bell numbers; ``"enumeration"`` lists the set
            partitions and counts them. They agree; the tests hold both against brute force.

    Example:
        >>> count = dimension(Architecture.mlp([784, 128, 128, 10]))
        >>> count.linear, count.constant
        (1269190, 807)
    """
    if method not in ("closed", "enumeration"):
        raise ArchitectureError(
            f"dimension was asked for method {method!r}; expected 'closed' or 'enumeration'."
        )
    basis = Basis(source, target, permute_io=permute_io)

    def count(block: BasisBlock) -> int:
        if method == "closed":
            return block.dimension
        return sum(term.free_numel for term in block.terms)

    return Dimension(
        {key: count(block) for key, block in basis.blocks.items()},
        {key[1]: count(block) for key, block in basis.constants.blocks.items()},
        {key[0]: count(block) for key, block in basis.invariants.blocks.items()},
    )
