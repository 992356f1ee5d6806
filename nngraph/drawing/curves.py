"""Learning curves, drawn: of one run, and of several in their columns."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nngraph.drawing.figures import COLOURS, INK, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from nngraph.tasks.comparison import Table

__all__ = ["draw_run", "draw_tables"]


def draw_run(
    path: str | os.PathLike[str], history: Sequence[Mapping[str, Any]], score: str
) -> Path:
    """Draw the learning curves of one run: its losses, and its score on validation networks.

    Args:
        path: where; ends in ``.png``, ``.pdf`` or ``.svg``.
        history: a row of metrics per epoch.
        score: name of the measure.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    figure = new_figure(9.0, 3.4)
    panels = (
        ("loss", {"training": "train_loss", "validation": "val_loss"}),
        (score, {"validation": f"val_{score}"}),
    )
    for place, (title, lines) in enumerate(panels, start=1):
        ax = figure.add_subplot(1, 2, place)
        for colour, (name, key) in zip(COLOURS, lines.items(), strict=False):
            _draw(ax, history, "epoch", key, colour, name)
        style_axes(ax, "epoch", title)
        ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.tight_layout()
    return save_figure(figure, path)


def draw_tables(path: str | os.PathLike[str], tables: Sequence[Table]) -> Path:
    """Draw the scores on validation networks over CPU seconds, a panel per table.

    Runs that differ in nothing but their seed have one colour.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
        ValueError: if the path does not end in ``.png``, ``.pdf`` or ``.svg``.
    """
    figure = new_figure(6.5, 3.6 * len(tables))
    for place, table in enumerate(tables, start=1):
        ax = figure.add_subplot(len(tables), 1, place)
        for colour, row in zip(COLOURS * len(table.rows), table.rows, strict=False):
            for number, run in enumerate(row.runs):
                name = "_" if number else row.label
                _draw(ax, run.history, "cpu_seconds", f"val_{table.score}", colour, name)
        style_axes(ax, "CPU seconds of training", f"{table.score} (validation)")
        title = textwrap.fill(table.title, 64)
        ax.set_title(title, fontsize=10, color=INK, weight="bold", loc="left")
        ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    figure.tight_layout()
    return save_figure(figure, path)


def _draw(
    ax: Any, history: Sequence[Mapping[str, Any]], x: str, y: str, colour: str, name: str
) -> None:
    points = [(row[x], row[y]) for row in history if row.get(y) is not None]
    if points:
        xs, ys = zip(*points, strict=True)
        marker = "o" if len(points) < 40 else ""
        ax.plot(xs, ys, color=colour, linewidth=1.8, marker=marker, markersize=3, label=name)
