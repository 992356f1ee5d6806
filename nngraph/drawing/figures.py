"""Drawing networks and what metanetworks make of them; matplotlib is needed only here.

Figures are drawn without a display and without touching matplotlib's global state.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nngraph.errors import DataFileError, optional_package
from nngraph.files import write_atomically
from nngraph.graph import NeuralGraph, chain_layers

INK, MUTED, RULE, PAPER = "#1f2933", "#6b7785", "#dfe4ea", "#ffffff"
#: One colour per model, told apart also by readers who are colour-blind.
COLOURS = ("#d9822b", "#3b6fb6", "#3a9d7c", "#b4508f", "#8a94a0", "#7a6fc9")
#: Negative and positive numbers; the middle is light, so that small weights fade away.
DIVERGING = ("#1b5aa0", "#8fb8dc", "#eceff2", "#f0a882", "#b93a1e")
FONT = {"fontsize": 9, "color": INK}


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of this size in inches, on no display.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    install = "'nngraph[viz]' (or pip install matplotlib)."
    with optional_package("drawing needs matplotlib", install):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def figure_path(path: str | os.PathLike[str]) -> Path:
    """Return where a figure is to be saved, or raise a DataFileError."""
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise DataFileError(
            f"a figure is asked for at {str(path)!r}; expected a name in .png, .pdf or .svg."
        )
    return path


def save_figure(figure: Any, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Save a figure atomically; its folder is made if it is not there.

    Raises:
        DataFileError: if the path does not end in ``.png``, ``.pdf`` or ``.svg``.
    """
    path = figure_path(path)
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:], dpi=dpi, facecolor=PAPER)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue())
    return path


def style_axes(ax: Any, x: str, y: str) -> None:
    """Give the axes of a plot of curves their names and plain looks."""
    ax.set_xlabel(x, **FONT)
    ax.set_ylabel(y, **FONT)
    ax.tick_params(labelsize=8, colors=MUTED, length=0)
    ax.grid(color=RULE, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)


def title_panel(ax: Any, words: str, size: float = 11, pad: float = 8) -> None:
    """Write the title of a panel above its left end."""
    ax.set_title(words, fontsize=size, color=INK, weight="bold", loc="left", pad=pad)


# -- a network -----------------------------------------------------------------------------------


def draw_network(
    ax: Any,
    graph: NeuralGraph,
    *,
    max_neurons: int = 32,
    order: Sequence[NDArray[np.int64]] | None = None,
) -> None:
    """Draw a network layer by layer: neurons as circles, weights as coloured edges.

    Red edges are positive weights, blue ones negative. Colour and width grow with the weight,
    relative to the weights of its own layer: 1 at the 98th percentile of their absolute values. The
    fill of a neuron is its bias in the same manner; where there is none, the circle is empty.

    Args:
        ax: matplotlib axes.
        graph: a chain of layers.
        max_neurons: of a wider layer the first and the last half of so many are drawn.
        order: for each layer the neurons from top to bottom, in place of their own order.

    Raises:
        ArchitectureError: if the network is not a chain of affine maps.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    architecture = graph.architecture
    layers = chain_layers(architecture, "Only such a chain is drawn.")
    colours = LinearSegmentedColormap.from_list("weights", DIVERGING)
    parameters = {name: _numbers(value) for name, value in graph.parameters().items()}
    positions = [
        _positions(size, max_neurons, None if order is None else order[index])
        for index, size in enumerate(architecture.widths)
    ]
    for column, layer in enumerate(layers):
        weight = _relative(parameters[layer.weight])
        (sources, source_heights), (targets, target_heights) = positions[column : column + 2]
        shown = weight[np.ix_(targets, sources)].ravel()
        starts = np.tile(source_heights, len(targets))
        ends = np.repeat(target_heights, len(sources))
        # The strongest last, so that they lie on top.
        rank = np.argsort(np.abs(shown))
        shown, starts, ends = shown[rank], starts[rank], ends[rank]
        segments = [[(column, a), (column + 1, b)] for a, b in zip(starts, ends, strict=True)]
        rgba = colours((shown + 1) / 2)
        rgba[:, 3] = 0.08 + 0.85 * np.abs(shown) ** 1.3
        # Few edges may be thick; a thousand may not.
        scale = 1.6 if len(shown) > 200 else 2.6
        ax.add_collection(
            LineCollection(
                segments, colors=rgba, linewidths=0.25 + scale * np.abs(shown), zorder=1,
                capstyle="round",
            )
        )  # fmt: skip
    biases = [None, *(layer.bias for layer in layers)]
    for index, (group, (neurons, heights)) in enumerate(
        zip(architecture.groups, positions, strict=True)
    ):
        fill: Any = PAPER
        if (bias := biases[index]) is not None:
            fill = colours((_relative(parameters[bias])[neurons] + 1) / 2)
        most = max(len(neurons) for neurons, _ in positions)
        ax.scatter(
            np.full(len(neurons), index), heights, s=min(110.0, 1400 / max(most, 8)), c=fill,
            edgecolors=INK, linewidths=0.8, zorder=3,
        )  # fmt: skip
        if len(neurons) < group.size:
            for step in (-1, 0, 1):
                ax.plot(index, 0.012 * step, ".", color=INK, markersize=1.6, zorder=3)
        words = group.role + ("" if group.size == 1 else "s")
        if group.role == "hidden":
            words = str(group.activation)
        ax.text(index, -0.575, f"{group.size} {words}", ha="center", va="top", **FONT)
    ax.set_xlim(-0.35, len(architecture.widths) - 0.65)
    ax.set_ylim(-0.64, 0.54)
    ax.axis("off")


def _positions(
    size: int, most: int, order: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which neurons of a layer are drawn, and how high, from 0.5 at the top to -0.5."""
    neurons = np.arange(size) if order is None else np.asarray(order)
    if size > most:
        half = max(most // 2, 1)
        neurons = np.concatenate([neurons[:half], neurons[size - half :]])
        # A gap of three neurons' distance in the middle, for the dots.
        slots = np.concatenate([np.arange(half), np.arange(half) + half + 2])
        return neurons, 0.5 - slots / (2 * half + 1)
    # Narrow layers stand closer together than the widest may, but not at one point.
    span = min(1.0, 0.16 * (size - 1))
    return neurons, np.linspace(span / 2, -span / 2, size) if size > 1 else np.zeros(1)


def _relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(np.quantile(np.abs(finite), 0.98))
    return np.clip(finite / top, -1, 1) if top > 0 else np.zeros_like(finite)


def _numbers(value: Any) -> NDArray[np.float64]:
    return np.asarray(value.detach().double().cpu().numpy())


# -- the other panels ----------------------------------------------------------------------------


def draw_images(ax: Any, rows: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw rows of images side by side, each row with its name above it.

    Images are ``[n, H, W, C]`` in [0, 1], C 1 or 3, with equal n and H:W in all rows.
    """
    from matplotlib.patches import Rectangle

    gap, head, foot = 0.14, 0.4, 0.6
    for row, (name, images) in enumerate(rows.items()):
        top = row * (head + 1 + foot)
        ax.text(0, top + head - 0.12, name, ha="left", va="bottom", **FONT)
        for column, image in enumerate(images):
            left = column * (1 + gap)
            picture = np.clip(image, 0, 1)
            # Dark on light, as on paper.
            if picture.shape[-1] == 1:
                picture = 1 - picture[..., 0]
            box = (left, left + 1, top + head + 1, top + head)
            ax.imshow(picture, extent=box, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.add_patch(
                Rectangle((left, top + head), 1, 1, fill=False, edgecolor=RULE, linewidth=0.8)
            )
    count = max(len(images) for images in rows.values())
    ax.set_xlim(-0.03, count * (1 + gap) - gap + 0.03)
    ax.set_ylim(len(rows) * (head + 1 + foot) - foot + 0.03, 0)
    ax.set_aspect("equal", anchor="NW")
    ax.axis("off")


def draw_learning_curves(
    ax: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], chance: float
) -> None:
    """Draw validation accuracies in [0, 1] over CPU seconds of training, one line per model.

    The accuracy of guessing, ``chance``, is a dotted line.
    """
    ax.axhline(100 * chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    latest = max((max(x, default=0.0) for x, _ in curves.values()), default=1.0)
    for colour, (name, (seconds, accuracies)) in zip(COLOURS * 9, curves.items(), strict=False):
        values = 100 * np.asarray(accuracies, dtype=float)
        ax.plot(seconds, values, color=colour, linewidth=2, marker="o", markersize=3, label=name)
    ax.set_xlim(0, latest * 1.04 or 1.0)
    ax.set_ylim(0, 103)
    style_axes(ax, "CPU seconds of training", "validation accuracy (%)")
    ax.text(latest * 1.03, 100 * chance - 5, "guessing", ha="right", fontsize=8, color=MUTED)
    ax.legend(
        loc="center right", bbox_to_anchor=(1.0, 0.42), fontsize=8, frameon=True, framealpha=0.92,
        edgecolor="none", facecolor=PAPER, labelcolor=INK, handlelength=1.6,
    )  # fmt: skip


def draw_confusion(ax: Any, confusion: NDArray[np.int64], names: Sequence[str]) -> None:
    """Draw how many networks of each class (row) were taken for each class (column).

    Colours are shares of the row; the diagonal, which is right, and the rest have their own.
    """
    from matplotlib.colors import to_rgb

    counts = np.asarray(confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right, wrong = np.array(to_rgb(COLOURS[1])), np.array(to_rgb("#b93a1e"))
    tint = np.where(np.eye(len(counts), dtype=bool)[..., None], right, wrong)
    # Mistakes are few: their colour rises quickly.
    depth = np.where(np.eye(len(counts), dtype=bool), share, np.minimum(1, 6 * share) * 0.85)
    ax.imshow(1 - depth[..., None] * (1 - tint), interpolation="nearest")
    small = len(counts) > 12
    for i, j in np.argwhere(counts > 0):
        light = depth[i, j] > 0.55
        ax.text(
            j, i, str(counts[i, j]), ha="center", va="center", fontsize=5 if small else 7.5,
            color=PAPER if light else INK,
        )  # fmt: skip
    ticks = np.arange(len(counts))
    long = max(map(len, names)) > 2
    ax.set_xticks(ticks, names, rotation=60 if long else 0, ha="right" if long else "center")
    ax.set_yticks(ticks, names)
    ax.tick_params(labelsize=8, colors=INK, length=0)
    ax.set_xticks(ticks[:-1] + 0.5, minor=True)
    ax.set_yticks(ticks[:-1] + 0.5, minor=True)
    ax.grid(which="minor", color=RULE, linewidth=0.6)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_color(RULE)
    ax.set_anchor("W")
    ax.set_xlabel("answer of the metanetwork", **FONT)
    ax.set_ylabel("digit that the network draws" if not long else "class", **FONT)


def draw_demo(
    path: str | os.PathLike[str], *,
    originals: NDArray[np.float64], reconstructions: NDArray[np.float64],
    enlargements: NDArray[np.float64], psnr: float,
    graph: NeuralGraph, graph_label: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    confusion: NDArray[np.int64], class_names: Sequence[str], model: str, accuracy: float,
) -> Path:  # fmt: skip
    """Draw the figure of the demo and save it.

    Args:
        path: where; ends in ``.png``, ``.pdf`` or ``.svg``.
        originals, reconstructions: images ``[n, H, W, C]`` and what their networks draw there.
        enlargements: what the networks draw on a finer grid, ``[n, H', W', C]``.
        psnr: mean over the population, in dB.
        graph: one network, to be drawn; ``graph_label`` says what it represents.
        curves: as of :func:`draw_learning_curves`.
        confusion: of the metanetwork ``model``, whose test accuracy is ``accuracy``.
    """
    figure = new_figure(13.0, 9.2)
    figure.text(0.02, 0.958, "Networks as data", fontsize=16, color=INK, weight="bold")
    figure.text(
        0.98, 0.96,
        f"each network {graph.architecture} holds one image; metanetworks read its weights",
        fontsize=10, color=MUTED, ha="right",
    )  # fmt: skip
    images = figure.add_axes((0.02, 0.505, 0.475, 0.385))
    network = figure.add_axes((0.52, 0.505, 0.46, 0.385))
    learning = figure.add_axes((0.06, 0.07, 0.49, 0.355))
    table = figure.add_axes((0.655, 0.07, 0.325, 0.355))
    draw_network(network, graph)
    network.text(
        0.5, 0.0, "edges: weights, circles: biases; red is positive, blue negative",
        transform=network.transAxes, ha="center", va="top", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    draw_images(images, {
        f"images, {_size(originals)} pixels": originals,
        f"their networks at these pixels ({psnr:.1f} dB on average)": reconstructions,
        f"the same networks at {_size(enlargements)} pixels": enlargements,
    })  # fmt: skip
    draw_learning_curves(learning, curves, 1 / len(class_names))
    draw_confusion(table, confusion, class_names)
    title_panel(network, f"A network as a graph: {graph_label}")
    title_panel(images, "What the networks were fitted to, and what they draw")
    title_panel(learning, "Metanetworks learning to read")
    title_panel(table, f"{model[:1].upper()}{model[1:]}: {accuracy:.1%} on test")
    return save_figure(figure, path)


def _size(images: NDArray[np.float64]) -> str:
    return f"{images.shape[1]} x {images.shape[2]}"
