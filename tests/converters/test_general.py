"""Graphs of modules that are no chains: where everything lands, and the laws."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from graph_cases import check_graph
from torch import Tensor, nn
from torch.nn import functional as F

from converters import to_architecture, to_graph, to_module, to_state_dict
from nngraph.graph import Architecture, NeuralGraph, Symmetry, to_batch
from nngraph.nn import MessagePassingNetwork


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, padding=3)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = F.gelu(x + self.grouped(torch.relu(self.norm(self.conv(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.place = nn.Parameter(torch.randn(5, 8))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.randn(8))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.scale * self.out(mixed))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Joined(nn.Module):
    """Concatenation, its slices, a transposed convolution, a bare scalar and an unused weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 5)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 2)
        self.scalar = nn.Parameter(torch.tensor(0.5))
        self.unused = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([torch.tanh(self.one(x)), self.two(x) * self.scalar], dim=-1)
        return self.last(joined)


MODELS: dict[str, tuple[type[nn.Module], Tensor]] = {
    "residual": (Residual, torch.randn(2, 3, 8, 8)),
    "transformer": (Transformer, torch.zeros(2, 5, dtype=torch.long)),
    "recurrent": (Recurrent, torch.randn(2, 5, 3)),
    "joined": (Joined, torch.randn(2, 4)),
}
models = pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS)


def blocks(architecture: Architecture) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """(parameter, source, target, (parts, rows, columns, taps)) of each block."""
    name = [group.name for group in architecture.groups]
    return [
        ("" if b.identity else b.parameter.name, name[b.source], name[b.target],
         (b.parts, b.rows, b.columns, b.taps))
        for b in architecture.blocks
    ]  # fmt: skip


@models
def test_the_laws(make: type[nn.Module], inputs: Tensor):
    check_graph(make(), inputs)


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_whose_states_are_outputs_have_their_gates_apart(kind, options):
    if "proj_size" in options and kind is not nn.LSTM:
        return
    cell, inputs = kind(3, 4, **options), torch.randn(5, 2, 3)
    architecture = to_architecture(cell, inputs)
    gates = [g.size for g in architecture.groups if g.name.partition("#")[0].endswith("gate")]
    assert set(gates) == {4}
    check_graph(cell, inputs)


def test_a_residual_network_by_hand():
    architecture = to_architecture(Residual().eval(), MODELS["residual"][1])
    assert [(g.name, g.size, g.role, str(g.activation)) for g in architecture.groups] == [
        ("stem.in", 3, "input", "identity"),
        ("stem", 8, "hidden", "relu"),
        ("conv", 8, "hidden", "identity"),
        ("norm", 8, "hidden", "relu"),
        ("grouped", 8, "hidden", "identity"),
        ("add", 8, "hidden", "gelu"),
        ("head", 5, "output", "identity"),
    ]
    assert blocks(architecture) == [
        # A kernel of 7 x 7 is a block for each of its rows.
        *[("stem.weight", "stem.in", "stem", (1, 8, 3, 7))] * 7,
        ("conv.weight", "stem", "conv", (1, 8, 8, 9)),
        ("norm.weight", "conv", "norm", (8, 1, 1, 1)),
        ("grouped.weight", "norm", "grouped", (4, 2, 2, 9)),
        ("head.weight", "add", "head", (1, 5, 8, 4)),
        ("", "stem", "add", (8, 1, 1, 1)),
        ("", "grouped", "add", (8, 1, 1, 1)),
    ]
    assert architecture.column_names == ("bias", "running_mean", "running_var")
    assert [p.name for p in architecture.integers] == ["norm.num_batches_tracked"]
    # The groups of the convolution move whole, and channels inside of each of them.
    assert {name: space.within for name, space in architecture.all_spaces.items()} == {
        "grouped.groups": (), "stem": ("grouped.groups",), "conv": ("grouped.groups",),
    }  # fmt: skip
    assert Symmetry(architecture).order() == 24 * 2**4 * 2**4


def test_a_transformer_by_hand():
    architecture = to_architecture(Transformer().eval(), MODELS["transformer"][1])
    found = blocks(architecture)
    assert ("embed.weight", "embed.in", "embed", (1, 8, 10, 1)) in found
    assert ("place", "place.places", "add", (1, 8, 5, 1)) in found
    assert ("norm.weight", "add", "norm", (8, 1, 1, 1)) in found
    assert [b for b in found if b[0] == "qkv.weight"] == [
        ("qkv.weight", "norm", name, (1, 8, 8, 1)) for name in ("qkv", "qkv:2", "qkv:3")
    ]
    # The output projection hears of the values, and the scale stands on a diagonal.
    assert ("out.weight", "qkv:3", "out", (1, 8, 8, 1)) in found
    assert [b[3] for b in found if b[0] == "scale"] == [(8, 1, 1, 1)]
    assert [p.name for p in architecture.parameters].count("embed.weight") == 1
    assert "head.weight" not in [p.name for p in architecture.parameters]
    spaces = architecture.all_spaces
    heads = next(name for name, s in spaces.items() if s.size == 2)
    assert sorted((s.size, s.within) for s in spaces.values()) == [
        (2, ()), (4, (heads,)), (4, (heads,)), (8, ()),
    ]  # fmt: skip
    # Heads, queries with keys in each, values in each, and the stream.
    assert Symmetry(architecture).order() == 2 * 24**2 * 24**2 * 40320


def test_a_wrong_relabelling_is_noticed():
    module, inputs = Transformer().double().eval(), MODELS["transformer"][1]
    graph = to_graph(module, inputs)
    relabelling = Symmetry(graph.architecture).sample(1)
    moved = relabelling.act_on_parameters(graph.parameters())
    moved["qkv.weight"] = moved["qkv.weight"].roll(1, 0)
    other = to_module(graph.with_parameters(moved), module)
    assert float((other(inputs) - module(inputs)).detach().abs().max()) > 1e-3


@models
def test_modules_and_state_dicts_come_back(make: type[nn.Module], inputs: Tensor):
    module = make().eval()
    graph = to_graph(module, inputs)
    _ = graph.x  # made: the numbers now live in the features
    state = module.state_dict()
    back = to_module(graph, module)
    assert type(back) is make
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in back.state_dict().items())
    written = to_state_dict(graph)
    assert set(written) == set(state)
    assert all(torch.equal(written[k], state[k]) for k in state)
    with torch.no_grad():
        next(back.parameters()).add_(1)
    assert torch.equal(next(iter(module.state_dict().values())), next(iter(state.values())))


def test_different_architectures_in_one_batch_of_a_model():
    modules = [(make().double().eval(), x) for make, x in MODELS.values()]
    graphs = [to_graph(m, x.double() if x.is_floating_point() else x) for m, x in modules]
    model = MessagePassingNetwork(
        [graph.architecture for graph in graphs], 2, channels=8, messages=4, edge_channels=4,
        hidden=8,
    ).double().eval()  # fmt: skip
    answers = model(to_batch(graphs))
    moved: list[NeuralGraph] = [
        Symmetry(graph.architecture).sample(i).act_on_graph(graph) for i, graph in enumerate(graphs)
    ]
    torch.testing.assert_close(model(to_batch(moved)), answers, rtol=1e-10, atol=1e-10)
    apart = torch.cat([model(graph) for graph in graphs])
    torch.testing.assert_close(apart, answers, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(answers[0], answers[1])


def test_on_the_meta_device_there_is_an_architecture_without_weights():
    with torch.device("meta"):
        module = Residual()
    inputs = MODELS["residual"][1]
    assert to_architecture(module.eval(), inputs.to("meta")) == to_architecture(
        Residual().eval(), inputs
    )


def test_a_large_network_converts_in_seconds_and_is_not_copied():
    width = 4096
    module = nn.Sequential(
        *(layer for _ in range(6) for layer in (nn.Linear(width, width), nn.ReLU()))
    ).eval()
    assert sum(p.numel() for p in module.parameters()) > 100_000_000
    start = time.process_time()
    graph = to_graph(module, torch.randn(1, width))
    assert time.process_time() - start < 20
    assert not graph.is_materialised
    assert graph.parameters()["0.weight"].data_ptr() == module[0].weight.data_ptr()
    assert len(graph.architecture.groups) == 7


def test_gradients_reach_the_module():
    module = copy.deepcopy(Residual()).double().eval()
    graph = to_graph(module, MODELS["residual"][1].double(), differentiable=True)
    graph.edge_attr.square().sum().backward()
    assert torch.equal(module.head.weight.grad, 2 * module.head.weight)
