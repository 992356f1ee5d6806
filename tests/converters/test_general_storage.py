"""Graphs of any module in state dicts, files and networkx graphs, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_general import MODELS, Joined, Residual, Transformer
from torch import Tensor, nn

from converters import (
    from_networkx,
    load_graph,
    load_state_dict,
    permutation_spec,
    save_graph,
    state_dict_to_graph,
    to_architecture,
    to_graph,
    to_networkx,
    to_state_dict,
)
from nngraph.errors import DataFileError, InvalidGraphError, NonFiniteError
from nngraph.graph import Architecture, NeuralGraph

models = pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS)


def same(one: NeuralGraph, other: NeuralGraph) -> bool:
    found, expected = one.parameters(), other.parameters()
    return (
        one.architecture == other.architecture
        and list(found) == list(expected)
        and all(torch.equal(found[name], expected[name]) for name in expected)
        and all(found[name].dtype == expected[name].dtype for name in expected)
    )


@models
def test_state_dicts_with_the_architecture(make: type[nn.Module], inputs: Tensor, tmp_path: Path):
    module = make().eval()
    graph = to_graph(module, inputs)
    architecture = graph.architecture
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert {p.name: p.aliases for p in architecture.parameters if p.aliases} == dict(
        permutation_spec(module, inputs).aliases
    )
    # Every key of the state dict, tied ones and buffers too, there and back.
    again = state_dict_to_graph(module.state_dict(), architecture)
    assert same(again, graph)
    assert again.parameters()[architecture.parameters[0].name].data_ptr() == (
        module.state_dict()[architecture.parameters[0].name].data_ptr()
    )
    written = to_state_dict(graph)
    assert set(written) == set(module.state_dict())
    other = make()
    other.load_state_dict(written)
    assert all(torch.equal(v, written[k]) for k, v in other.state_dict().items())
    # From files of both kinds.
    torch.save({"state_dict": module.state_dict()}, tmp_path / "c.pt")
    save_file({k: v.clone() for k, v in module.state_dict().items()}, tmp_path / "c.safetensors")
    for name in ("c.pt", "c.safetensors"):
        assert same(load_graph(tmp_path / name, architecture), graph)
    save_graph(graph, tmp_path / "g.safetensors")
    assert same(load_graph(tmp_path / "g.safetensors"), graph)
    assert same(load_graph(tmp_path / "g.safetensors", architecture), graph)
    names = [p.name for p in architecture.parameters]
    assert list(load_state_dict(tmp_path / "g.safetensors")) == sorted(names)


def test_a_tied_tensor_may_stand_under_any_of_its_names():
    module = Transformer()
    architecture = to_architecture(module.eval(), MODELS["transformer"][1])
    tied = next(p for p in architecture.parameters if p.aliases)
    assert (tied.name, tied.aliases) == ("embed.weight", ("head.weight",))
    state = module.state_dict()
    only = {k: v for k, v in state.items() if k != "embed.weight"}
    assert torch.equal(
        state_dict_to_graph(only, architecture).parameters()["embed.weight"], module.embed.weight
    )
    state["head.weight"] = state["head.weight"] + 1
    with pytest.raises(InvalidGraphError, match=r"'embed.weight' and 'head.weight' are one tensor"):
        state_dict_to_graph(state, architecture)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("conv.weight"), "'conv.weight' is missing"),
        (lambda s: s.pop("norm.num_batches_tracked"), "'norm.num_batches_tracked' is missing"),
        (lambda s: s.update({"more.bias": torch.zeros(2)}), "'more.bias' is not in the"),
        (lambda s: s.update({"conv.weight": torch.zeros(8, 8, 3, 2)}), r"shape \(8, 8, 3, 2\)"),
        (lambda s: s.update({"norm.num_batches_tracked": torch.tensor(0.0)}), "expected int64"),
        (lambda s: s.update({"norm.num_batches_tracked": torch.tensor(0).int()}), "expected int64"),
        (lambda s: s.update({"conv.weight": torch.zeros(8, 8, 3, 3).long()}), "dtype torch.int64"),
        (lambda s: s.update({"conv.weight": torch.zeros(8, 8, 3, 3).half()}), "one dtype"),
    ],
)  # fmt: skip
def test_state_dicts_that_do_not_fit_are_refused(change, words: str, tmp_path: Path):
    module, inputs = Residual().eval(), MODELS["residual"][1]
    architecture, state = to_architecture(module, inputs), dict(module.state_dict())
    change(state)
    with pytest.raises(InvalidGraphError, match=words):
        state_dict_to_graph(state, architecture)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(InvalidGraphError, match=f"c.pt: .*{words}"):
        load_graph(tmp_path / "c.pt", architecture)


def test_nan_passes_only_where_it_may(tmp_path: Path):
    module, inputs = Joined().eval(), MODELS["joined"][1]
    architecture = to_architecture(module, inputs)
    module.scalar.data.fill_(torch.nan)
    torch.save(module.state_dict(), tmp_path / "c.pt")
    assert load_graph(tmp_path / "c.pt", architecture).parameters()["scalar"].isnan()
    with pytest.raises(NonFiniteError, match="scalar"):
        load_graph(tmp_path / "c.pt", architecture, allow_nonfinite=False)


def test_files_of_other_architectures_are_refused(tmp_path: Path):
    module, inputs = Joined().eval(), MODELS["joined"][1]
    save_graph(to_graph(module, inputs), tmp_path / "g.safetensors")
    with pytest.raises(InvalidGraphError, match="not the architecture"):
        load_graph(tmp_path / "g.safetensors", Architecture.mlp([2, 3, 1]))
    save_file(module.state_dict(), tmp_path / "s.safetensors")
    with pytest.raises(DataFileError, match="with the architecture that it is of"):
        load_graph(tmp_path / "s.safetensors")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3)
        self.two, self.head = nn.Conv1d(3, 3, 1, bias=False), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        return self.head((x + self.norm(self.two(x))).mean(-1))


def test_networkx_and_back():
    module = Net().double()
    module.norm.num_batches_tracked.fill_(7)
    graph = to_graph(module, torch.randn(2, 2, 5).double())
    out = to_networkx(graph)
    assert out.number_of_nodes() == graph.architecture.num_nodes
    assert out.number_of_edges() == graph.architecture.num_edges
    _, _, first = next(iter(out.edges(data=True)))
    assert (first["weight"], *first["features"]) == tuple(module.one.weight[0, 0].tolist())
    back = from_networkx(out)
    back.validate()
    assert same(back, graph)
    for wrong in (None, [1, 2], ["7"], [2**70]):
        out.graph["integers"] = wrong
        with pytest.raises(InvalidGraphError, match="1 whole numbers"):
            from_networkx(out)


def test_networkx_says_which_blocks_are_beside_each_other():
    graph = to_graph(Residual().eval(), MODELS["residual"][1])
    with pytest.raises(InvalidGraphError, match=r"several blocks from 'stem.in' to 'stem'"):
        to_networkx(graph)
