"""The judge's verdict on a layer, as an object, a table and plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BlockReport:
    """One block: maps from one tensor to another, or the constants of a tensor.

    Args:
        source: tensor read; ``"constant"`` for the affine part.
        target: tensor written.
        expected: number of basis elements, the orbit count.
        rank: dimension of the layer's span in this block.
        missing: names of the elements outside the span. One name may stand for all free
            coordinates of a term and says so. A layer may also be short because it ties elements;
            then each of those is missing on its own, and ``rank`` says how many directions are.
        residual: largest norm of the part outside the basis, relative to the layer's whole map:
            0 for an equivariant layer.
    """

    source: str
    target: str
    expected: int
    rank: int
    missing: tuple[str, ...]
    residual: float

    @property
    def name(self) -> str:
        """``"from -> to"``."""
        return f"{self.source} -> {self.target}"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        held = asdict(self)
        ends = {"from": held.pop("source"), "to": held.pop("target")}
        return {**ends, **held, "missing": list(self.missing)}


@dataclass(frozen=True)
class RankReport:
    """What a layer spans of the equivariant affine maps, and what it does outside of them.

    Args:
        blocks: the linear part, one per pair of tensors.
        constants: the constant part, one per target tensor.
        rank_in_total: dimension of the span of all blocks together. Below the sum of the blocks'
            ranks when the layer ties blocks to one another, as shared parameters do.
        tolerance: below it a remainder is rounding.
        method: how the parameters were varied, ``"unit"`` or ``"random"``.
    """

    blocks: tuple[BlockReport, ...]
    constants: tuple[BlockReport, ...]
    rank_in_total: int
    tolerance: float
    method: str

    @property
    def expected(self) -> int:
        """N_lin: elements of all blocks."""
        return sum(block.expected for block in self.blocks)

    @property
    def rank(self) -> int:
        """Sum of the blocks' ranks."""
        return sum(block.rank for block in self.blocks)

    @property
    def expected_constants(self) -> int:
        """N_bias: constants of all tensors."""
        return sum(block.expected for block in self.constants)

    @property
    def rank_constants(self) -> int:
        """Sum of the constants' ranks."""
        return sum(block.rank for block in self.constants)

    @property
    def _all(self) -> tuple[BlockReport, ...]:
        return (*self.blocks, *self.constants)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of all missing elements."""
        return tuple(name for block in self._all for name in block.missing)

    @property
    def residual(self) -> float:
        """Largest part outside the basis of any block."""
        return max((block.residual for block in self._all), default=0.0)

    @property
    def equivariant(self) -> bool:
        """Whether everything the layer did lies in the span of the basis."""
        return self.residual <= self.tolerance

    @property
    def complete_linear(self) -> bool:
        """Whether each block is spanned (constants aside) and the layer is equivariant."""
        return self.equivariant and self.rank == self.expected

    @property
    def tied(self) -> int:
        """Directions lost because the layer ties blocks to one another."""
        return self.rank + self.rank_constants - self.rank_in_total

    @property
    def complete(self) -> bool:
        """Whether the layer spans exactly the equivariant affine maps, all blocks at once."""
        return self.equivariant and self.rank_in_total == self.expected + self.expected_constants

    @property
    def verdict(self) -> str:
        """One line."""
        if self.complete:
            count = f"{self.expected} linear maps and {self.expected_constants} constants"
            return f"complete: spans all {count}, and nothing else."
        parts = []
        if not self.equivariant:
            worst = max(self._all, key=lambda block: block.residual)
            parts.append(
                f"not equivariant: {worst.residual:.1e} of the map lies outside the basis, "
                f"most of it in {worst.name}"
            )
        for expected, rank, what in (
            (self.expected, self.rank, "linear maps"),
            (self.expected_constants, self.rank_constants, "constants"),
        ):
            if rank < expected:
                parts.append(f"{expected - rank} of {expected} {what} missing")
        if self.tied:
            parts.append(f"{self.tied} directions lost by tying blocks to one another")
        return "; ".join(parts) + "."

    def table(self) -> str:
        """The blocks, one per line, then what is missing, then the verdict."""
        rows = [("block", "elements", "spanned", "outside")]
        for block in self._all:
            outside = f"{block.residual:.1e}" if block.residual > self.tolerance else "-"
            rows.append((block.name, str(block.expected), str(block.rank), outside))
        rows.append(("linear", str(self.expected), str(self.rank), ""))
        rows.append(("constant", str(self.expected_constants), str(self.rank_constants), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * (sum(widths) + 6))
        lines.insert(-2, "-" * (sum(widths) + 6))
        if self.missing:
            lines += ["", "missing:", *(f"  {name}" for name in self.missing)]
        return "\n".join([*lines, "", self.verdict])

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        names = (
            "complete", "equivariant", "verdict", "expected", "rank", "expected_constants",
            "rank_constants", "rank_in_total", "residual", "tolerance", "method",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "blocks": [block.to_dict() for block in self.blocks],
            "constants": [block.to_dict() for block in self.constants],
        }
