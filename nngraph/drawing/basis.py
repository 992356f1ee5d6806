"""The basis of a small network, drawn as matrices."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from nngraph.basis import Basis, BasisBlock, WeightSpace, WeightTensor
from nngraph.drawing.figures import INK, MUTED, PAPER, figure_path, new_figure, save_figure
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture

#: Most coordinates and matrices that are still readable on one page.
MAX_COORDINATES = 120
MAX_TERMS = 400

_RULE, _EMPTY = "#c5ccd4", "#eef1f4"
#: One colour per pair of free coordinates; told apart also by readers who are colour-blind.
_COLOURS = (
    "#3b6fb6", "#d9822b", "#3a9d7c", "#b4508f", "#7a6fc9",
    "#a8862a", "#5aa7d6", "#c2504b", "#6f8f3c", "#8a6a55",
)  # fmt: skip


def draw_basis(
    source: Architecture | WeightSpace,
    path: str | os.PathLike[str],
    *,
    permute_io: bool = False,
    title: str | None = None,
    dpi: int = 160,
) -> Path:
    """Draw the basis elements as matrices, block by block, and save the picture.

    Columns are the tensors that are read, and the constants; rows the tensors that are written.
    Each small matrix is a term: rows are the entries of the tensor written, columns those of the
    tensor read, both in C order. An entry has a colour where the element is 1; terms on free axes
    stand for several elements, one per colour.

    Args:
        source: architecture or weight space, small; the picture does not depend on widths beyond
            3, so draw narrow networks.
        path: where to save; the ending says the format (``.png``, ``.pdf``, ``.svg``).
        permute_io: relabel inputs and outputs too.
        title: in place of the count of elements.
        dpi: dots per inch of a ``.png``.

    Raises:
        ArchitectureError: if there is more to draw than a page holds.
        DataFileError: if the ending is unknown.
    """
    path = figure_path(path)
    basis = Basis(source, permute_io=permute_io)
    count = sum(len(block.terms) for block in basis.blocks.values())
    if basis.source.numel > MAX_COORDINATES or count > MAX_TERMS:
        raise ArchitectureError(
            f"the basis has {count} terms on {basis.source.numel} coordinates; a figure holds "
            f"{MAX_TERMS} on {MAX_COORDINATES}. Draw a narrower network, such as 2-3-3-1: the "
            "pattern is the same."
        )
    return save_figure(_draw(basis, title), path, dpi)


def _draw(basis: Basis, title: str | None) -> Any:
    targets, sources = basis.target.tensors, basis.source.tensors
    columns: list[WeightTensor] = [*sources, basis.constants.source.tensors[0]]
    blocks = {**basis.blocks, **basis.constants.blocks}

    def grid(block: BasisBlock) -> tuple[int, int]:
        wide = math.ceil(math.sqrt(len(block.terms)))
        return math.ceil(len(block.terms) / wide), wide

    grids = {key: grid(block) for key, block in blocks.items()}
    # Inches per entry, with room enough for the caption of the smallest matrix.
    cell = 0.085

    def extent(tensor: WeightTensor) -> float:
        return max(cell * tensor.numel, 0.62)

    widths = [max(grids[s.name, t.name][1] for t in targets) * (extent(s) + 0.14) for s in columns]
    heights = [max(grids[s.name, t.name][0] for s in columns) * (extent(t) + 0.26) for t in targets]
    gap, left, top, bottom = 0.16, 1.25, 1.55, 0.2
    width = max(left + sum(widths) + gap * len(widths) + 0.1, 5.6)
    height = top + sum(heights) + gap * len(heights) + bottom
    figure = new_figure(width, height)

    def text(x: float, y: float, words: str, **options: Any) -> None:
        figure.text(x / width, 1 - y / height, words, color=options.pop("color", INK), **options)

    shape = ", ".join(f"{name}: {size}" for name, size in basis.source.sizes.items())
    text(
        0.2, 0.42,
        title or f"{basis.dimension} equivariant linear maps, "
        f"{basis.constants.dimension} constants",
        fontsize=15, fontweight="bold",
    )  # fmt: skip
    text(
        0.2, 0.9,
        f"neuron spaces  {shape or 'none'}\n"
        "rows: entries written; columns: entries read; colour: ones, one colour per element",
        fontsize=8, color=MUTED, linespacing=1.5,
    )  # fmt: skip
    y = top
    for row, (target, tall) in enumerate(zip(targets, heights, strict=True)):
        x = left
        caption, middle = _caption("to", target), y + tall / 2
        text(left - 0.15, middle, caption, fontsize=8.5, ha="right", va="center")
        for column, wide in zip(columns, widths, strict=True):
            if row == 0:
                caption, middle = _caption("from", column), x + wide / 2
                text(middle, top - 0.12, caption, fontsize=8.5, ha="center", va="bottom")
            block = blocks[column.name, target.name]
            down, across = grids[column.name, target.name]
            size = extent(column), extent(target)
            step = size[0] + 0.14, size[1] + 0.26
            # The matrices of a block stand together, in its middle.
            corner = x + (wide - across * step[0]) / 2, y + (tall - down * step[1]) / 2
            for number, term in enumerate(block.terms):
                i, j = divmod(number, across)
                x0, y0 = corner[0] + j * step[0] + 0.07, corner[1] + i * step[1] + 0.07
                axes = figure.add_axes(
                    (x0 / width, 1 - (y0 + size[1]) / height, size[0] / width, size[1] / height)
                )
                _matrix(axes, _image(block, number))
                text(
                    x0 + size[0] / 2, y0 + size[1] + 0.03, term.short.replace(" ", "·"),
                    fontsize=5, ha="center", va="top", color=MUTED,
                )  # fmt: skip
            x += wide + gap
        y += tall + gap
    _rules(figure, width, height, left, top, widths, heights, gap)
    return figure


def _caption(word: str, tensor: WeightTensor) -> str:
    shape = "\u00d7".join(map(str, tensor.shape))
    return f"{word} {tensor.name}" + (f"\n{shape}" if shape else "\n")


def _image(block: BasisBlock, number: int) -> Any:
    """0 where no element of the term is 1, otherwise 1 + its number among the term's elements."""
    image = np.zeros((block.target.numel, block.source.numel), np.int64)
    for index in range(block.free_numel):
        element = block.element(number * block.free_numel + index)
        rows, columns = element.term.entries(element.target_free, element.source_free)
        image[rows, columns] = 1 + index
    return image


def _matrix(axes: Any, image: Any) -> None:
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(_EMPTY), *map(to_rgb, _COLOURS)])
    colour = np.where(image > 0, 1 + (image - 1) % len(_COLOURS), 0)
    rows, columns = image.shape
    axes.imshow(palette[colour], aspect="auto", interpolation="nearest")
    axes.set_xticks(np.arange(columns + 1) - 0.5, labels=[])
    axes.set_yticks(np.arange(rows + 1) - 0.5, labels=[])
    axes.grid(color=PAPER, linewidth=0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _rules(
    figure: Any, width: float, height: float, left: float, top: float, widths: list[float],
    heights: list[float], gap: float,
) -> None:  # fmt: skip
    """Thin lines between the blocks."""
    from matplotlib.lines import Line2D

    xs = [left - gap / 2 + sum(widths[:i]) + gap * i for i in range(len(widths) + 1)]
    ys = [top - gap / 2 + sum(heights[:i]) + gap * i for i in range(len(heights) + 1)]
    lines = [((x, x), (ys[0], ys[-1])) for x in xs] + [((xs[0], xs[-1]), (y, y)) for y in ys]
    for across, down in lines:
        line = [x / width for x in across], [1 - y / height for y in down]
        figure.add_artist(Line2D(*line, color=_RULE, linewidth=0.7, transform=figure.transFigure))
