"""What kind of tensor a block of edges and a column of node features is: what its slab says."""

from __future__ import annotations

from nngraph.graph.architecture import COLUMNS
from nngraph.graph.layout import Block, Column

#: A weight from every neuron to every other; the same with taps, as of a convolution; one of
#: several parts, as with groups; one number per neuron, as the scale of a norm; a residual.
BLOCK_KINDS = ("dense", "kernel", "grouped", "diagonal", "identity")
#: No parameter, the columns that have one place in every architecture, and all others.
COLUMN_KINDS = ("none", *COLUMNS, "other")
#: Axes of a kernel that are told apart; the sizes of further ones multiply into the last.
KERNEL_AXES = 3


def block_kind(block: Block) -> int:
    """Return the index into :data:`BLOCK_KINDS`."""
    letters = set(block.slab.axes)
    if block.identity:
        kind = "identity"
    elif not letters & {"t", "s"}:
        kind = "diagonal"
    elif "b" in letters:
        kind = "grouped"
    else:
        kind = "kernel" if "f" in letters else "dense"
    return BLOCK_KINDS.index(kind)


def kernel_size(block: Block) -> tuple[int, ...]:
    """Return the sizes of the block's kernel along its axes, 1 where it has fewer."""
    factors = zip(block.slab.axes, block.slab.factors(block.parameter.shape), strict=True)
    found = [1] * KERNEL_AXES
    for axis, size in enumerate(size for letter, size in factors if letter == "f"):
        found[min(axis, KERNEL_AXES - 1)] *= size
    return tuple(found)


def column_kind(column: Column) -> int:
    """Return the index into :data:`COLUMN_KINDS`."""
    name = column.slab.column
    return COLUMN_KINDS.index(name if name in COLUMNS else "other")
