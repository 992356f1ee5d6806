"""The pictures of the concepts: ``python docs/pictures.py`` draws all of them again.

They lie in ``docs/pictures``, so that a build of the site runs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import permutation_spec
from converters.symmetry import PermutationSpec
from nngraph import Activation, Architecture, NeuralGraph, Symmetry
from nngraph.drawing import draw_basis, draw_network, new_figure, save_figure
from nngraph.graph import Topology
from nngraph.nn import MessagePassingLayer
from nngraph.testing import random_stack

FOLDER = Path(__file__).parent / "pictures"
INK, RULE, FREE = "#1f2933", "#c5ccd4", "#eef1f4"
COLOURS = ("#3b6fb6", "#d9822b", "#3a9d7c", "#b4508f", "#7a6fc9")


def write(figure: Any, name: str) -> None:
    """Save a picture, with the same bits each time."""
    save_figure(figure, FOLDER / f"{name}.svg")


# -- a network as a graph -------------------------------------------------------------------------


def draw_matrices(axes: Any, graph: NeuralGraph) -> None:
    """Draw weights and biases as matrices, one above the other, the first layer at the bottom."""
    values = graph.parameters()
    top = 0
    for block in reversed(graph.architecture.blocks):
        weight = values[block.parameter.name].detach()
        bias = values[block.parameter.name.replace("weight", "bias")].detach()
        rows, columns = weight.shape
        for left, matrix in ((0, weight), (columns + 0.5, bias[:, None])):
            box = (left, left + matrix.shape[1], top + rows, top)
            most = float(matrix.abs().max())
            axes.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most, extent=box)
        label = f"$W_{block.target}$, $b_{block.target}$"
        axes.text(-0.4, top + rows / 2, label, ha="right", va="center", fontsize=9, color=INK)
        top += rows + 0.8
    axes.set_xlim(-3, 8)
    axes.set_ylim(top, -0.5)
    axes.axis("off")


def draw_graphs() -> None:
    """Draw a network and a relabelling of it, each as matrices and as a graph."""
    architecture = Architecture.mlp([2, 6, 5, 1], "tanh")
    graph = random_stack(architecture, 1, 3)[0]
    moved = Symmetry(architecture).sample(2).act_on_graph(graph)
    figure = new_figure(9.0, 3.0)
    axes = figure.subplots(1, 4, width_ratios=(1, 1.6, 1, 1.6))
    figure.subplots_adjust(left=0.02, right=0.99, bottom=0.02, top=0.84)
    titles = ("a network", "relabelled: other matrices, the same function")
    for pair, title, network in zip((axes[:2], axes[2:]), titles, (graph, moved), strict=True):
        draw_matrices(pair[0], network)
        draw_network(pair[1], network)
        left = pair[0].get_position().x0
        figure.text(left, 0.93, title, fontsize=10, color=INK)
    write(figure, "graph")


# -- the symmetry of a module ---------------------------------------------------------------------


class Attention(nn.Module):
    """One layer of self-attention with two heads of four features."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.qkv, self.out = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, 3]`` to ``[batch, tokens, 2]``."""
        q, k, v = self.qkv(self.inp(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def strips(spec: PermutationSpec, name: str, axis: int) -> list[tuple[float, list[str | None]]]:
    """Return the parts of an axis: how long each is, and the spaces that move it, outer first."""
    parts = spec.parameters[name][axis]
    return [(segment_length(part), [factor.space for factor in part]) for part in parts]


def segment_length(segment: Any) -> float:
    """Return how many neurons a part of an axis has."""
    return float(np.prod([factor.size for factor in segment]))


def draw_spaces() -> None:
    """Draw the weights of a layer of attention; each side has the colours of what moves it."""
    spec = permutation_spec(Attention(), torch.zeros(1, 5, 3))
    colours = dict(zip((space.name for space in spec.free_spaces), COLOURS, strict=False))
    figure = new_figure(7.2, 3.6)
    axes = figure.add_axes((0, 0, 1, 1))
    left = 0.0
    for name in ("inp.weight", "qkv.weight", "out.weight"):
        rows, columns = spec.shape(name)
        axes.add_patch(box(left, 0, columns, rows, FREE))
        axes.text(left + columns / 2, -1.9, name, ha="center", fontsize=9, color=INK)
        for axis, along in ((0, False), (1, True)):
            start = 0.0
            for length, spaces in strips(spec, name, axis):
                for depth, space in enumerate(reversed(spaces)):
                    place = -0.8 * (depth + 1)
                    colour = colours.get(space, RULE) if space else RULE
                    corner = (left + start, place) if along else (left + place, start)
                    size = (length - 0.2, 0.6) if along else (0.6, length - 0.2)
                    axes.add_patch(box(*corner, *size, colour))
                start += length
        left += columns + 5
    for number, (space, colour) in enumerate(colours.items()):
        axes.add_patch(box(left, 3 * number, 1, 1, colour))
        axes.text(left + 1.6, 3 * number + 0.5, space, va="center", fontsize=9, color=INK)
    axes.add_patch(box(left, 3 * len(colours), 1, 1, RULE))
    axes.text(left + 1.6, 3 * len(colours) + 0.5, "fixed", va="center", fontsize=9, color=INK)
    axes.set_xlim(-2.5, left + 5)
    axes.set_ylim(25, -3)
    axes.set_aspect("equal")
    axes.axis("off")
    write(figure, "spaces")


def box(left: float, top: float, width: float, height: float, colour: str) -> Any:
    """Return a rectangle."""
    return matplotlib.patches.Rectangle((left, top), width, height, color=colour, linewidth=0)


# -- what an activation leaves to a neuron --------------------------------------------------------


def draw_moves() -> None:
    """Draw activations over their pre-activation, and what moving a neuron does to them."""
    moves: list[tuple[str, Activation, Callable[[Tensor], Tensor], str]] = [
        ("any scale", Activation("identity"), lambda u: -2 * u, r"$a(-2u) = -2\,a(u)$"),
        ("positive scale", Activation("relu"), lambda u: 2 * u, r"$a(2u) = 2\,a(u)$"),
        ("sign", Activation("tanh"), lambda u: -u, r"$a(-u) = -a(u)$"),
        ("phase", Activation("sine", w0=2.0), lambda u: u + np.pi / 2, r"$a(u + \pi/w_0) = -a(u)$"),
    ]
    figure = new_figure(9.0, 2.2)
    panels = figure.subplots(1, 4)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88)
    points = torch.linspace(-3, 3, 241, dtype=torch.float64)
    for axes, (title, activation, move, law) in zip(panels, moves, strict=True):
        axes.plot(points, activation(points), color=COLOURS[0], linewidth=2)
        axes.plot(points, activation(move(points)), color=COLOURS[1], linewidth=2)
        axes.set_title(f"{title}: {activation}", fontsize=9, color=INK)
        axes.text(0, -3.6, law, ha="center", fontsize=9, color=INK)
        axes.axhline(0, color=RULE, linewidth=0.7, zorder=0)
        axes.axvline(0, color=RULE, linewidth=0.7, zorder=0)
        axes.set_ylim(-3, 3)
        axes.axis("off")
    write(figure, "moves")


# -- how far messages go --------------------------------------------------------------------------


@torch.no_grad()
def first_rounds(architecture: Architecture, edge: int, rounds: int, **options: Any) -> Tensor:
    """Return after how many rounds each edge hears of ``edge``; found by changing that edge."""
    torch.manual_seed(0)
    topology = Topology.of(architecture)
    layers = [MessagePassingLayer(8, 4, norm=False, **options).double() for _ in range(rounds)]
    x = torch.randn(topology.num_nodes, 8, dtype=torch.float64).expand(2, -1, -1)
    e = torch.randn(topology.num_edges, 4, dtype=torch.float64).repeat(2, 1, 1)
    e[1, edge] += 1
    weight = e[..., 0]
    heard = torch.full((topology.num_edges,), rounds + 1)
    for number, layer in enumerate(layers, 1):
        x, update = layer(topology, weight, x, e)
        e = update.edges
        moved = (e[0] - e[1]).abs().amax(-1) > 1e-12
        heard[moved & (heard > rounds)] = number
    return heard


def draw_reach() -> None:
    """Draw which weights hear of one weight of the first layer after 1, 2 and 3 rounds."""
    architecture = Architecture.mlp([2, 3, 3, 3, 3, 2], "tanh")
    graph = random_stack(architecture, 1, 0)[0]
    heights = [np.arange(width) - (width - 1) / 2 for width in architecture.widths]
    height = torch.tensor(np.concatenate(heights))
    level = torch.arange(len(heights)).repeat_interleave(torch.tensor(architecture.widths))
    figure = new_figure(9.0, 2.4)
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88)
    for axes, nodes in zip(panels, (False, True), strict=True):
        heard = first_rounds(architecture, 0, 3, tensor_nodes=nodes)
        for number, (source, target) in enumerate(graph.edge_index.T.tolist()):
            colour = INK if number == 0 else (*COLOURS[:3], RULE)[int(heard[number]) - 1]
            ends = [source, target]
            width = 3 if number == 0 else 1.3
            axes.plot(level[ends], height[ends], color=colour, linewidth=width, zorder=1)
        axes.scatter(level, height, s=40, c="white", edgecolors=INK, linewidths=0.8, zorder=2)
        axes.set_title("with tensor nodes" if nodes else "edges alone", fontsize=10, color=INK)
        axes.axis("off")
    for number in range(3):
        figure.text(0.4 + 0.08 * number, 0.03, f"round {number + 1}", color=COLOURS[number])
    write(figure, "reach")


def main() -> None:
    """Draw all pictures."""
    # No dates and no random names in the files.
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    matplotlib.rcParams["svg.hashsalt"] = "nngraph"
    draw_graphs()
    draw_spaces()
    draw_moves()
    draw_reach()
    draw_basis(Architecture.mlp([1, 3, 1], "relu"), FOLDER / "basis.png", dpi=100)


if __name__ == "__main__":
    main()
