"""Learning curves, drawn: of one run, and of several in their columns."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nngraph.drawing.figures import COLOURS, INK, new_figure, save_figure, style_axes, title_panel


class Panel(NamedTuple):
    """Runs drawn together: by label, histories of metrics for each seed, of a measure ``score``."""

    title: str
    score: str
    curves: Sequence[tuple[str, Sequence[Sequence[Mapping[str, Any]]]]]


def draw_run(
    path: str | os.PathLike[str], history: Sequence[Mapping[str, Any]], score: str
) -> Path:
    """Draw the learning curves of one run: its losses, and its score on validation networks.

    Args:
        path: where; ends in ``.png``, ``.pdf`` or ``.svg``.
        history: a row of metrics per epoch; ``score`` is the name of the measure.
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


def draw_curves(path: str | os.PathLike[str], panels: Sequence[Panel]) -> Path:
    """Draw the scores on validation networks over CPU seconds, panel by panel.

    Runs that differ in nothing but their seed have one colour.

    Raises:
        ValueError: if the path does not end in ``.png``, ``.pdf`` or ``.svg``.
    """
    figure = new_figure(6.5, 3.6 * len(panels))
    for place, panel in enumerate(panels, start=1):
        ax = figure.add_subplot(len(panels), 1, place)
        several = COLOURS * len(panel.curves)
        for colour, (label, histories) in zip(several, panel.curves, strict=False):
            for number, history in enumerate(histories):
                name = "_" if number else label
                _draw(ax, history, "cpu_seconds", f"val_{panel.score}", colour, name)
        style_axes(ax, "CPU seconds of training", f"{panel.score} (validation)")
        title_panel(ax, textwrap.fill(panel.title, 64), 10, 6)
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
