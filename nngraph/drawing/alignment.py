"""Two networks and their matching, drawn; matplotlib is needed only here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nngraph.alignment import Alignment, Barrier, check_pair, space_gains, terms_of
from nngraph.drawing.figures import (
    COLOURS,
    DIVERGING,
    FONT,
    INK,
    PAPER,
    RULE,
    new_figure,
    save_figure,
    style_axes,
    title_panel,
)
from nngraph.errors import ArchitectureError
from nngraph.graph import NeuralGraph

#: Lines of a matching that can still be told apart.
_MAX_LINES = 48


def similarity(a: NeuralGraph, b: NeuralGraph, space: str) -> Tensor:
    r"""Return the cosine similarity of the neurons of two networks in one space, ``[d, d]``.

    :math:`G_{ij} / \sqrt{G^{AA}_{ii} G^{BB}_{jj}}`, where G is the inner product of all that a
    neuron of each carries, the neurons of other spaces standing for one another as they are. The
    mean over the copies of a space within others.

    Raises:
        InvalidGraphError: if the networks have not one architecture.
        ArchitectureError: if they have no such space.
    """
    architecture = check_pair(a, b)
    if space not in architecture.spaces:
        raise ArchitectureError(
            f"{space!r} is no neuron space of {architecture}; expected one of "
            f"{', '.join(architecture.spaces) or 'none, as it has no neurons to relabel'}."
        )

    def gains(one: NeuralGraph, other: NeuralGraph) -> Tensor:
        return space_gains(architecture.permutations, terms_of(one, other), space)[0]

    lengths = [gains(network, network).diagonal(dim1=-2, dim2=-1).sqrt() for network in (a, b)]
    scale = lengths[0].unsqueeze(-1) * lengths[1].unsqueeze(-2)
    return (gains(a, b) / torch.where(scale > 0, scale, 1.0)).mean(0)


def draw_similarity(ax: Any, matrix: Tensor) -> None:
    """Draw similarities of neurons: rows of the first network, columns of the second."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("similarities", DIVERGING)
    most = float(matrix.abs().max()) or 1.0
    ax.imshow(matrix.cpu().numpy(), cmap=colours, vmin=-most, vmax=most, interpolation="nearest")
    ax.set_xlabel("neurons of the second network", **FONT)
    ax.set_ylabel("neurons of the first", **FONT)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color(RULE)


def draw_matching(ax: Any, index: Tensor, strength: Tensor) -> None:
    """Draw a matching as lines from neurons of the first network (left) to those of the second.

    ``index [d]`` is the neuron that each is matched with; lines of little ``strength [d]`` are
    faint, and of more than 48 neurons the most alike are drawn.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    old, value = index.cpu().numpy(), np.clip(strength.cpu().numpy(), 0, 1)
    size = len(old)
    shown = np.sort(np.argsort(-value, kind="stable")[:_MAX_LINES])
    lines = [[(0, -i), (1, -int(old[i]))] for i in shown]
    colours = [to_rgba(COLOURS[1], 0.12 + 0.88 * float(v)) for v in value[shown]]
    ax.add_collection(LineCollection(lines, colors=colours, linewidths=1.4, zorder=1))
    for x, heights in ((0, shown), (1, old[shown])):
        ax.scatter(np.full(len(heights), x), -heights, s=16, color=INK, zorder=2)
    ax.set_xlim(-0.15, 1.15)
    ax.set_ylim(-size + 0.3, 0.7)
    ax.set_xticks([0, 1], ["first", "second, as it was"])
    ax.set_yticks([])
    ax.tick_params(labelsize=9, colors=INK, length=0)
    ax.spines[:].set_visible(False)
    if len(shown) < size:
        ax.set_xlabel(f"the {len(shown)} most alike of {size}", **FONT)


def draw_barriers(ax: Any, barriers: Mapping[str, Barrier]) -> None:
    """Draw losses on straight paths between two networks, a line for each way of matching."""
    for colour, (name, found) in zip(COLOURS * 9, barriers.items(), strict=False):
        ax.plot(
            found.ts, found.losses, color=colour, linewidth=2,
            label=f"{name}: barrier {found.height:.3g}",
        )  # fmt: skip
    style_axes(ax, "from the first network (0) to the second (1)", "loss")
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none", facecolor=PAPER,
              labelcolor=INK)  # fmt: skip


def draw_alignment(
    path: str | os.PathLike[str],
    a: NeuralGraph,
    b: NeuralGraph,
    alignment: Alignment,
    barriers: Mapping[str, Barrier] | None = None,
    space: str | None = None,
) -> Path:
    """Draw a matching of two networks and save it: pairs, similarities, and the path between.

    Args:
        path: where; ends in ``.png``, ``.pdf`` or ``.svg``.
        a, b: the networks as they were matched.
        barriers: name -> losses on a path, such as before and after; without them no such panel.
        space: which neurons are drawn; by default the largest plain space.

    Raises:
        ArchitectureError: if there is no such space, or none at all.
    """
    architecture = check_pair(a, b)
    aligned = alignment.apply(b)
    if space is None:
        plain = [s for s in architecture.spaces if not architecture.all_spaces[s].within]
        space = max(plain, key=lambda s: architecture.spaces[s], default="")
    after = similarity(a, aligned, space)
    figure = new_figure(16.5 if barriers else 12.0, 4.6)
    panels = list(figure.subplots(1, 4 if barriers else 3))
    index = alignment.relabelling.indices[space]
    draw_matching(panels[0], index.reshape(-1, index.shape[-1])[0], after.diagonal())
    # The pairs most alike first: what is left of the diagonal tells how far the matching goes.
    order = after.diagonal().argsort(descending=True)
    draw_similarity(panels[1], similarity(a, b, space)[order][:, order])
    draw_similarity(panels[2], after[order][:, order])
    titles = [f"Neurons of {space!r} matched", "Similarity before", "Similarity after"]
    if barriers:
        draw_barriers(panels[3], barriers)
        titles.append("Loss on the straight path")
    for panel, title in zip(panels, titles, strict=True):
        title_panel(panel, title)
    figure.tight_layout()
    return save_figure(figure, path)
