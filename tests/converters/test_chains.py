"""What a graph says that a network computes is what it computes, or it cannot be run.

The laws, for every module f and graph G of it made with example inputs: ``forward(G, x)`` is f(x)
or refuses, ``to_module(G)`` computes f or refuses, and where ``to_graph(f)`` takes f as well, both
give equal architectures.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graph_cases import Function
from torch import Tensor, nn
from torch.nn import functional as F

from converters import mlp_to_graph, to_architecture, to_graph, to_module, verify
from converters.symmetry import permutation_spec, tracing
from converters.symmetry.running import Network
from converters.verification import run_change
from nngraph.errors import ArchitectureError, InvalidGraphError, UnsupportedModuleError
from nngraph.graph import Activation, NeuralGraph, forward

X = torch.randn(5, 3, dtype=torch.float64)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def names(graph: NeuralGraph) -> list[str]:
    return [str(group.activation) for group in graph.architecture.groups]


def check(module: nn.Module, inputs: Tensor, rows: bool = False) -> NeuralGraph:
    """Hold the graph of a module to the laws; return it.

    Args:
        rows: whether the module flattens what it is given, so that the graph takes rows.
    """
    module = module.double().eval()
    graph = to_graph(module, inputs)
    given = inputs.reshape(-1, graph.architecture.widths[0]) if rows else inputs
    expected = module(inputs)
    for run in (lambda: forward(graph, given), lambda: to_module(graph)(given)):
        try:
            found = run()
        except (ArchitectureError, InvalidGraphError):
            continue
        torch.testing.assert_close(found, expected, **CLOSE)
    try:
        quick = to_graph(module)
    except UnsupportedModuleError:
        return graph  # what it says then is for another test
    assert quick.architecture == graph.architecture
    return graph


@pytest.fixture
def second_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer that stands in where export fails, which takes a fraction of its time."""
    monkeypatch.setattr(tracing, "_export", tracing._make_fx)


class Net(nn.Module):
    """Layers a, b: 3 -> 3 and a forward."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.body = nn.Linear(3, 3), nn.Linear(3, 3), body
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


#: forward -> what is recorded of a layer a
CHAINS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "siren": (lambda m, x: m.b(torch.sin(30 * m.a(x))), "sine(w0=30)"),
    "siren-of-tensor": (lambda m, x: m.b(torch.sin(m.a(x) * torch.tensor(7.0))), "sine(w0=7)"),
    "siren-of-numpy": (lambda m, x: m.b(torch.sin(m.a(x) * torch.full((3,), 2.0))), "sine(w0=2)"),
    "leaky": (lambda m, x: m.b(F.leaky_relu(m.a(x), 0.3)), "leaky_relu(negative_slope=0.3)"),
    "softshrink": (lambda m, x: m.b(F.softshrink(m.a(x), 0.1)), "softshrink(lambd=0.1)"),
    "hardshrink": (lambda m, x: m.b(F.hardshrink(m.a(x), 0.1)), "hardshrink(lambd=0.1)"),
    "maximum": (lambda m, x: m.b(torch.maximum(m.a(x), torch.zeros_like(x))), "relu"),
    "rrelu": (lambda m, x: m.b(F.rrelu(m.a(x), 0.25, 0.5)), "leaky_relu(negative_slope=0.375)"),
    "mask": (lambda m, x: m.b(m.a(x) * (m.a(x) > 0).double()), "relu"),
    "by-hand": (lambda m, x: m.b((lambda h: h * torch.sigmoid(h))(m.a(x))), "silu"),
    "products": (lambda m, x: m.b(torch.tanh(x @ m.a.weight.T + m.a.bias)), "tanh"),
    "addmm": (
        lambda m, x: m.b(torch.addmm(m.a.bias, x, m.a.weight.t()).tanh()), "tanh"
    ),
    "no-operations": (
        lambda m, x: m.b(F.mish(m.a(x.clone().detach()).contiguous().expand(5, 3)[:, :])), "mish"
    ),
    "dropout": (lambda m, x: m.b(F.dropout(m.a(x), 0.5, False).view(5, 3).tanh()), "tanh"),
    "rows-and-back": (lambda m, x: m.b(m.a(x.view(-1, 3)).relu()).view(x.shape), "relu"),
    "unsqueezed": (lambda m, x: m.b(m.a(x.unsqueeze(0)).relu()).squeeze(0), "relu"),
    # What no table knows is known to be of single neurons.
    "exponential": (lambda m, x: m.b(torch.expm1(m.a(x))), "other(aten.expm1)"),
    "phase": (lambda m, x: m.b(torch.sin(3 * m.a(x)) + 1), "other(aten.mul, aten.sin, aten.add)"),
    "composed": (lambda m, x: m.b(m.a(x).tanh().relu()), "other(aten.tanh, aten.relu)"),
    "scaled": (lambda m, x: m.b(2 * m.a(x)), "other(aten.mul)"),
}


@pytest.mark.usefixtures("second_tracer")
@pytest.mark.parametrize(("body", "expected"), CHAINS.values(), ids=CHAINS)
def test_chains_are_recorded_as_what_they_are(body: Any, expected: str):
    graph = check(Net(body), X)
    assert [g.name for g in graph.architecture.groups] == ["input", "hidden.1", "output"]
    assert names(graph) == ["identity", expected, "identity"]
    if "other" not in expected:
        assert forward(graph, X).shape == (5, 3)
    assert graph.architecture.spaces == {"hidden.1": 3}


#: forward -> the group whose neurons go through what a graph cannot say, and its operator
WITHHELD: dict[str, tuple[Callable[[Any, Tensor], Any], int, str]] = {
    "input-scaled": (lambda m, x: m.b(m.a(2 * x)), 0, "aten.mul"),
    "input-flipped": (lambda m, x: m.b(m.a(x.flip(-1))), 0, "aten.flip"),
    "input-chosen": (lambda m, x: m.b(m.a(x[:, [2, 0, 1]])), 0, "aten.index"),
    "input-sine": (lambda m, x: m.b(m.a(torch.sin(x))), 0, "aten.sin"),
    "input-cast": (lambda m, x: m.b(m.a(x.half().double())), 0, "aten.to"),
    "input-transposed": (lambda m, x: m.b(m.a(x[:3].T)), 0, "aten.slice"),
    "softmax": (lambda m, x: m.b(m.a(x).softmax(-1)), 1, "aten.softmax"),
    "rolled": (lambda m, x: m.b(m.a(x).roll(1, -1)), 1, "aten.roll"),
    "batch-rolled": (lambda m, x: m.b(m.a(x).roll(1, 0)), 1, "aten.roll"),
    "sorted": (lambda m, x: m.b(m.a(x).sort(-1)[0]), 1, "aten.sort"),
    "centred": (lambda m, x: m.b(m.a(x) - m.a(x).mean(-1, keepdim=True)), 1, "aten.mean"),
    "data": (lambda m, x: m.b(torch.sin(x.max().item() * m.a(x))), 1, "aten."),
    "norm": (lambda m, x: m.b(F.layer_norm(m.a(x), (3,))), 1, "aten.layer_norm"),
    "positions": (lambda m, x: m.b(m.a(x) * torch.tensor([1.0, 2.0, 3.0])), 1, "aten.mul"),
    "half": (lambda m, x: m.b(m.a(x).half().double()), 1, "aten.to"),
    "grid": (lambda m, x: m.b(m.a(x).T.reshape(5, 3)), 1, "aten."),
    "residual": (lambda m, x: m.b(m.a(x).relu()) + x, 2, "aten.add"),
    "output-scaled": (lambda m, x: 2 * m.b(m.a(x).relu()), 2, "aten.mul"),
    "log-softmax": (lambda m, x: m.b(m.a(x).relu()).log_softmax(-1), 2, "aten.log_softmax"),
    "output-chosen": (lambda m, x: m.b(m.a(x).relu())[:, :2], 2, "aten.slice"),
    "output-flipped": (lambda m, x: m.b(m.a(x).relu()).flip(0), 2, "aten.flip"),
    "output-flattened": (lambda m, x: m.b(m.a(x).relu()).flatten(), 2, "aten."),
    "two-outputs": (lambda m, x: (m.b(m.a(x).relu()), x), 2, "outputs"),
    "unused-bias": (lambda m, x: F.linear(m.a(x).relu(), m.b.weight), 2, "parameters"),
    "matrix-from-the-left": (lambda m, x: m.b((x @ m.a.weight + m.a.bias).relu()), 0, "aten."),
    "scaled-weight": (lambda m, x: m.b(F.linear(x, 2 * m.a.weight, m.a.bias)), 0, "aten.linear"),
}


@pytest.mark.usefixtures("second_tracer")
@pytest.mark.parametrize(("body", "group", "operator"), WITHHELD.values(), ids=WITHHELD)
def test_what_a_graph_cannot_say_is_never_run_as_something_else(
    body: Any, group: int, operator: str
):
    module = Net(body).double()
    graph = to_graph(module, X)
    with pytest.raises((ArchitectureError, InvalidGraphError)):
        forward(graph, X)
    with pytest.raises((ArchitectureError, InvalidGraphError)):
        to_module(graph)
    # Where the description looks like a chain, it says where it is none.
    if graph.architecture.is_chain and graph.architecture.column_names == ("bias",):
        activation = graph.architecture.groups[group].activation
        assert activation.name == "other"
        assert operator in activation.operator
    with pytest.raises(UnsupportedModuleError, match=r"to_graph\(module, example_inputs\) takes"):
        to_graph(module)


def test_a_parameter_of_an_activation_is_none_of_a_chain():
    for layer in (nn.PReLU(3), nn.LayerNorm(3)):
        module = nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 3))
        graph = check(module, X)
        with pytest.raises(ArchitectureError):
            forward(graph, X)
    prelu = to_graph(nn.Sequential(nn.Linear(3, 3), nn.PReLU(), nn.Linear(3, 3)), X.float())
    assert Activation("other", operator="aten.prelu") in [
        group.activation for group in prelu.architecture.groups
    ]


@pytest.mark.usefixtures("second_tracer")
@pytest.mark.parametrize(
    ("make", "shape", "rows"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 1)), (4, 3), False),
        (lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.ELU(2.0)), (2, 5, 3), False),
        (lambda: nn.Linear(3, 2), (3,), False),
        (lambda: nn.Sequential(nn.Linear(1, 2), nn.CELU(0.5), nn.Linear(2, 1)), (1, 1), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.Mish()), (4, 2, 3), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), (1, 3), False),
    ],
    ids=["width-one", "three-axes", "no-rows", "one-row", "flattened", "flattened-already"],
)
def test_shapes(make: Callable[[], nn.Module], shape: tuple[int, ...], rows: bool):
    inputs = torch.randn(shape, dtype=torch.float64)
    graph = check(make(), inputs, rows)
    assert graph.architecture.groups[0].name == "input"
    given = inputs.reshape(-1, graph.architecture.widths[0]) if rows else inputs
    assert forward(graph, given).numel() > 0


class Loop(nn.Module):
    """Registered in another order than used, with names that no sequence has."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.hidden = nn.Linear(4, 2), nn.ModuleList([nn.Linear(4, 4), nn.Linear(3, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in reversed(self.hidden):
            x = F.elu(layer(x), 0.5)
        return self.last(x)


@pytest.mark.usefixtures("second_tracer")
def test_the_proof_runs_a_chain_and_notices_another_activation():
    module = Loop().double()
    graph = to_graph(module, X)
    assert names(graph)[1:3] == ["elu(alpha=0.5, input_scale=1, scale=1)"] * 2
    report = verify(graph, module, X, samples=1)
    assert report.holds, report
    assert report.ran
    assert report.runs < 1e-12
    assert "computes, when run, as the module" in str(report)
    # Both ways of reading make the graph that is proven.
    assert to_graph(module).architecture == graph.architecture

    groups, spec = graph.architecture.groups, permutation_spec(module, X)
    for changed in (
        Activation("elu", alpha=0.5001), Activation("elu"), Activation("identity"),
        Activation("celu", alpha=0.5),
    ):
        altered = dataclasses.replace(
            graph.architecture,
            groups=(*groups[:2], dataclasses.replace(groups[2], activation=changed), groups[3]),
        )
        other = NeuralGraph.from_parameters(altered, graph.parameters())
        found = run_change(other, Network(module, (X,), {}, spec), spec)
        assert found is not None
        assert found > 1e-6
    report = verify(other, module, X, samples=1, alone=0)
    assert (report.holds, report.status) == (False, "fails")
    assert report.runs > 1e-6
    assert "computes, when run, another function" in str(report)


@pytest.mark.usefixtures("second_tracer")
def test_the_proof_says_that_a_graph_was_not_run():
    module = Net(lambda m, x: m.b(m.a(x).softmax(-1))).double()
    report = verify(to_graph(module, X), module, X, samples=1, alone=0)
    assert report.holds, report
    assert not report.ran
    assert report.runs is None
    assert "was not run" in str(report)


@torch.library.custom_op("nngraph_tests::relu", mutates_args=())
def relu(x: Tensor) -> Tensor:
    return x.sin()


@relu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.usefixtures("second_tracer")
def test_an_operator_of_another_library_is_not_what_it_is_called():
    module = Net(lambda m, x: m.b(torch.ops.nngraph_tests.relu(m.a(x)))).double()
    graph = to_graph(module, X)
    with pytest.raises(ArchitectureError):
        forward(graph, X)
    with pytest.raises(UnsupportedModuleError, match="no operation of torch"):
        to_graph(module)


@pytest.mark.usefixtures("second_tracer")
def test_a_permutation_of_a_weight_that_changes_nothing_is_no_transpose():
    module = Net(lambda m, x: m.b(F.linear(x, m.a.weight.permute(0, 1), m.a.bias).relu()))
    assert forward(check(module, X), X).shape == (5, 3)


# -- random chains ------------------------------------------------------------------------------

BETWEEN: tuple[Callable[[random.Random], Any], ...] = (
    lambda r: nn.LeakyReLU(r.uniform(-1, 1)), lambda r: nn.ELU(r.uniform(0.1, 3)),
    lambda r: nn.Softplus(r.uniform(0.5, 3), r.uniform(1, 20)), lambda r: nn.GELU("tanh"),
    lambda r: nn.Hardtanh(-r.uniform(0, 2), r.uniform(0, 2)), lambda r: nn.Softsign(),
    lambda r: nn.Threshold(r.uniform(-1, 1), r.uniform(-1, 1)), lambda r: nn.SELU(),
    lambda r: nn.Hardswish(), lambda r: nn.Tanhshrink(), lambda r: nn.Dropout(0.5),
    lambda r: nn.RReLU(0.1, r.uniform(0.2, 0.9)), lambda r: nn.Identity(),
    lambda r: sine_of(r.uniform(1, 30)),
    lambda r: Function(lambda x: x / (1 + torch.exp(-x))),
    lambda r: Function(lambda x: x.clamp(-1, 1).clone()),
    lambda r: nn.PReLU(), lambda r: nn.Softmax(-1), lambda r: Function(lambda x: x + 0.5),
    lambda r: Function(lambda x: x.flip(-1)), lambda r: Function(lambda x: torch.exp(-x * x)),
)  # fmt: skip


def sine_of(w0: float) -> nn.Module:
    return Function(lambda x: torch.sin(w0 * x))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.usefixtures("second_tracer")
def test_random_chains(seed: int):
    check(*random_chain(seed))


@pytest.mark.parametrize("seed", range(20, 23))
def test_random_chains_that_are_exported(seed: int):
    check(*random_chain(seed))


def random_chain(seed: int) -> tuple[nn.Module, Tensor]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    widths = [draw.randint(1, 4) for _ in range(draw.randint(2, 5))]
    layers: list[nn.Module] = [Function(lambda x: 2 * x)] if draw.random() < 0.1 else []
    for wide, following in itertools.pairwise(widths):
        layers.append(nn.Linear(wide, following, draw.random() < 0.8))
        layers += [draw.choice(BETWEEN)(draw) for _ in range(draw.choice((0, 1, 1, 1, 2)))]
    return nn.Sequential(*layers), torch.randn(4, widths[0], dtype=torch.float64)


# -- networks that are no chains ------------------------------------------------------------------


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.three, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.four, self.gate, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 10), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.one(x), 0.3), 2)
        x = F.softplus(F.avg_pool2d(self.two(x), 2), beta=5)
        x = torch.tanh(torch.sin(self.norm(self.three(x))))
        x = self.four(x)
        x = (x * torch.sigmoid(x)).mean((2, 3))
        value, gate = self.gate(x).chunk(2, -1)
        return self.head(value * F.elu(gate, 2.0)).log_softmax(-1)


def test_the_activations_of_a_network_that_is_no_chain():
    architecture = to_architecture(Convolutional().eval(), torch.randn(2, 1, 8, 8))
    found = {g.name: str(g.activation) for g in architecture.groups}
    assert {name: found[name] for name in found if "multiply" not in name} == {
        "one.in": "identity",
        "one": "leaky_relu(negative_slope=0.3)",
        "two": "softplus(beta=5, threshold=20)",
        "three": "identity",
        "norm": "other(aten.sin, aten.tanh)",
        "four": "silu",
        "gate": "identity",
        "gate:2": "elu(alpha=2, input_scale=1, scale=1)",
        "head": "other(aten.log_softmax)",
    }


@pytest.mark.usefixtures("second_tracer")
def test_a_chain_is_what_every_other_converter_makes_of_it():
    module = nn.Sequential(nn.Linear(3, 4), nn.Softplus(5.0), nn.Linear(4, 2)).double()
    weights, biases = [module[0].weight, module[2].weight], [module[0].bias, module[2].bias]
    plain = mlp_to_graph(weights, biases, Activation("softplus", beta=5), names=["0", "2"])
    assert to_graph(module, X).architecture == plain.architecture
    assert to_graph(module).architecture == plain.architecture
