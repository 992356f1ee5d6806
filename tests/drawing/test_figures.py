import builtins
import itertools

import numpy as np
import pytest
import torch

from nngraph.drawing import figures
from nngraph.errors import ArchitectureError, MissingDependencyError
from nngraph.graph import Architecture, NeuralGraph


def network(widths, bias=True):
    architecture = Architecture.mlp(widths, "tanh", bias=bias)
    return NeuralGraph.from_parameters(
        architecture, {p.name: torch.randn(p.shape) for p in architecture.parameters}
    )


def axes():
    return figures.new_figure(4, 3).add_subplot()


def colours_of_edges(ax):
    return np.concatenate([lines.get_colors() for lines in ax.collections if _is_lines(ax, lines)])


def _is_lines(ax, collection):
    return type(collection).__name__ == "LineCollection"


@pytest.mark.parametrize("widths", [(2, 3, 1), (1, 1), (3, 5, 4, 2)], ids=str)
def test_every_weight_is_an_edge_and_every_neuron_a_circle(widths):
    ax = axes()
    figures.draw_network(ax, network(widths))
    segments = [len(c.get_segments()) for c in ax.collections if _is_lines(ax, c)]
    circles = [len(c.get_offsets()) for c in ax.collections if not _is_lines(ax, c)]
    assert segments == [a * b for a, b in itertools.pairwise(widths)]
    assert circles == list(widths)


def test_positive_weights_are_red_and_negative_ones_blue():
    architecture = Architecture.mlp([1, 1], "relu", bias=False)
    for value, stronger, weaker in ((0.7, 0, 2), (-0.7, 2, 0)):
        graph = NeuralGraph.from_parameters(architecture, {"0.weight": torch.tensor([[value]])})
        ax = axes()
        figures.draw_network(ax, graph)
        red_green_blue = colours_of_edges(ax)[0]
        assert red_green_blue[stronger] > red_green_blue[weaker] + 0.3


def test_edges_end_at_their_neurons_and_a_zero_weight_is_still_an_edge():
    architecture = Architecture.mlp([2, 2], "relu", bias=False)
    weight = torch.tensor([[0.0, 0.5], [1.0, 0.0]])
    ax = axes()
    figures.draw_network(ax, NeuralGraph.from_parameters(architecture, {"0.weight": weight}))
    (lines,) = [c for c in ax.collections if _is_lines(ax, c)]
    assert len(lines.get_segments()) == 4
    strongest = lines.get_segments()[-1]  # weight[1, 0]: from the upper input to the lower output
    assert strongest[0][0] == 0
    assert strongest[0][1] > 0
    assert strongest[1][0] == 1
    assert strongest[1][1] < 0


def test_wide_layers_are_cut_short():
    ax = axes()
    figures.draw_network(ax, network((3, 100, 1)), max_neurons=8)
    circles = [len(c.get_offsets()) for c in ax.collections if not _is_lines(ax, c)]
    assert circles == [3, 8, 1]
    assert any(text.get_text() == "100 tanh" for text in ax.texts)


def test_constant_and_nonfinite_tensors_are_drawn():
    architecture = Architecture.mlp([2, 3, 1], "relu")
    values = {p.name: torch.zeros(p.shape) for p in architecture.parameters}
    values["0.weight"][0, 0] = float("nan")
    values["1.weight"][0, 0] = float("inf")
    ax = axes()
    figures.draw_network(ax, NeuralGraph.from_parameters(architecture, values))
    assert np.isfinite(colours_of_edges(ax)).all()


def test_what_is_no_chain_is_refused():
    graph = network((2, 3, 1))
    groups = Architecture.mlp([2, 3, 1]).groups
    parameters = Architecture.mlp([2, 3, 1], bias=False).parameters
    graph.architecture = Architecture(groups, (*parameters[:1],))
    with pytest.raises(ArchitectureError, match="chain"):
        figures.draw_network(axes(), graph)


def test_the_confusion_matrix_shows_its_counts():
    ax = axes()
    figures.draw_confusion(ax, np.array([[5, 1], [0, 7]]), ["a", "b"])
    assert {(t.get_position(), t.get_text()) for t in ax.texts} == {
        ((0, 0), "5"), ((1, 0), "1"), ((1, 1), "7"),
    }  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_figures_are_saved_whole_in_folders_that_are_made(tmp_path, ending):
    path = tmp_path / "new" / f"demo.{ending}"
    images = np.random.default_rng(0).random((3, 4, 4, 1))
    saved = figures.draw_demo(
        path,
        originals=images,
        reconstructions=images,
        enlargements=np.repeat(np.repeat(images, 2, 1), 2, 2),
        psnr=30.0,
        graph=network((2, 4, 4, 1)),
        graph_label="it draws an a",
        curves={"model": ([1.0, 2.0], [0.3, 0.6]), "none yet": ([], [])},
        confusion=np.eye(3, dtype=np.int64),
        class_names=["a", "b", "c"],
        model="model",
        accuracy=1.0,
    )
    assert saved == path
    assert path.stat().st_size > 1000
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.png"):
        figures.save_figure(figures.new_figure(1, 1), tmp_path / "demo.jpeg2000")
    assert not list(tmp_path.iterdir())


def test_a_missing_matplotlib_is_told_with_the_command_that_installs_it(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install"):
        figures.new_figure(1, 1)
