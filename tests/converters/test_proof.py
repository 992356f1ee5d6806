"""The proof of a graph on its module, and that it notices what is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_general import MODELS, Joined, Transformer
from torch import Tensor, nn

from converters import permutation_spec, to_graph, verify
from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraph, Symmetry


def graph_of(architecture: Architecture, graph: NeuralGraph) -> NeuralGraph:
    return NeuralGraph.from_parameters(architecture, graph.parameters())


@pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS)
def test_graphs_hold_on_their_modules(make: type[nn.Module], inputs: Tensor):
    module = make().eval()
    graph = to_graph(module, inputs)
    report = verify(graph, module, inputs, samples=2)
    assert report.holds, report
    assert report.computes == 0
    # What each space ties is what the spec says, though it is read off the graph's own action.
    spec = permutation_spec(module, inputs)
    found = {check.space: (check.size, set(check.ties)) for check in report.checks}
    assert found == {s.name: (s.size, set(spec.ties(s.name))) for s in spec.free_spaces}
    assert all(check.power is None or check.power > 1e-6 for check in report.checks)
    assert not graph.is_materialised
    assert next(module.parameters()).dtype == torch.float32
    # A relabelled graph is another of the same module.
    moved = Symmetry(graph.architecture).sample(0).act_on_graph(graph)
    again = verify(moved, module, inputs, samples=1, alone=0)
    assert again.holds, again
    assert 0 <= again.computes < 1e-9


def test_the_report_names_size_and_ties():
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    report = verify(to_graph(module, torch.randn(2, 3)), module, torch.randn(2, 3), maximal=True)
    assert report.missed == ()
    text = str(report)
    assert text.startswith("holds: 1 spaces")
    assert "5 " in text.splitlines()[1]
    assert text.splitlines()[1].endswith("0.weight[0], 0.bias[0], 2.weight[1]")
    assert "as the module (0.0e+00)" in text
    assert "is the relabelled graph" in text


def test_a_space_that_is_tied_wrongly_is_noticed():
    """Outputs that are relabelled and must not be; layers relabelled together that need not be."""
    module = nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)
    )
    inputs = torch.randn(3, 4)
    graph = to_graph(module, inputs)
    architecture = graph.architecture
    free_outputs = dataclasses.replace(
        architecture,
        groups=(*architecture.groups[:-1], dataclasses.replace(architecture.groups[-1], space="y")),
    )
    report = verify(graph_of(free_outputs, graph), module, inputs)
    assert not report.holds
    assert [c.space for c in report.checks if c.error > report.tolerance] == ["y"]
    assert report.differs == ("its architecture",)
    assert "changes the function" in str(report)
    assert "differs in its architecture" in str(report)
    # Too little symmetry is no wrong function, and yet not the graph of the module.
    tied = dataclasses.replace(
        architecture,
        groups=tuple(
            dataclasses.replace(g, space="one") if g.role == "hidden" else g
            for g in architecture.groups
        ),
    )
    report = verify(graph_of(tied, graph), module, inputs)
    assert report.error <= report.tolerance
    assert not report.holds
    with pytest.raises(ArchitectureError, match="not the one of the module"):
        verify(graph_of(tied, graph), module, inputs, maximal=True)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.one(x) * torch.sigmoid(self.two(x)))


def test_two_spaces_that_must_be_one_are_noticed():
    module, inputs = Gated(), torch.randn(5, 3)
    graph = to_graph(module, inputs)
    assert verify(graph, module, inputs).holds
    architecture = graph.architecture
    # Both layers hear the neurons of one input.
    assert [g.name for g in architecture.groups if g.role == "input"] == ["one.in"]
    apart = dataclasses.replace(
        architecture,
        groups=tuple(
            dataclasses.replace(g, space="apart") if g.name == "two" else g
            for g in architecture.groups
        ),
        residuals=(),  # with them the architecture itself refuses
    )
    report = verify(graph_of(apart, graph), module, inputs, samples=1)
    assert not report.holds
    assert [c.space for c in report.checks if c.error > 1e-3] == ["one", "apart"]


@pytest.mark.parametrize("name", ["qkv.weight", "out.bias", "place"])
def test_a_block_that_was_not_moved_is_noticed(name: str):
    module, inputs = Transformer().eval(), MODELS["transformer"][1]
    graph = to_graph(module, inputs)
    moved = Symmetry(graph.architecture).sample(0).act_on_parameters(graph.parameters())
    half = graph.with_parameters({**moved, name: graph.parameters()[name]})
    report = verify(half, module, inputs, samples=1, alone=0)
    assert not report.holds
    assert report.computes > 1e-4
    assert "another function" in str(report)


def test_a_graph_whose_relabelling_is_not_that_of_the_module_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
):
    module, inputs = Joined().eval(), MODELS["joined"][1]
    from nngraph.graph.relabelling import Relabelling

    real = Relabelling.act_on_edges

    def forgets_the_last_block(self: Relabelling, edge_attr: Tensor) -> Tensor:
        block = next(b for b in self.architecture.blocks if b.parameter.name == "last.weight")
        moved = real(self, edge_attr).clone()
        moved[block.start : block.stop] = edge_attr[block.start : block.stop]
        return moved

    graph = to_graph(module, inputs)
    monkeypatch.setattr(Relabelling, "act_on_edges", forgets_the_last_block)
    report = verify(graph, module, inputs, samples=1, alone=0)
    assert report.differs == ("edge_attr",)
    assert not report.holds


def test_graphs_of_other_modules_are_refused():
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(ArchitectureError, match=r"'0.weight' has shape \(4, 3\) in the graph and"):
        verify(to_graph(other), module, torch.randn(2, 3))
