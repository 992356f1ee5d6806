"""Activations as torch writes them, and as graphs have them: each in every spelling, or not at all.

That is one table for both ways of reading a module; here the quick one reads, without example
inputs. ``test_chains.py`` holds the other one to it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import to_graph, to_module
from converters.activations import OPERATORS, activation_module, operator_activation
from nngraph.errors import ArchitectureError, UnsupportedModuleError
from nngraph.graph import ACTIVATIONS, Activation, forward

KNOWN = [name for name in ACTIVATIONS if name != "other"]
#: Options that are no defaults.
OPTIONS: dict[str, list[dict[str, float]]] = {
    "leaky_relu": [{"negative_slope": 0.3}, {"negative_slope": -1.5}],
    "elu": [{"alpha": 2.0}, {"alpha": 0.5, "scale": 1.25, "input_scale": 0.75}],
    "softplus": [{"beta": 5.0}, {"beta": 0.5, "threshold": 1.0}],
    "sine": [{"w0": 30.0}, {"w0": -0.1}],
    "cosine": [{"w0": 3.0}],
    "celu": [{"alpha": 2.0}],
    "hardtanh": [{"min_val": -2.0, "max_val": 3.0}, {"min_val": 1.0, "max_val": 1.0}],
    "softshrink": [{"lambd": 0.1}],
    "hardshrink": [{"lambd": 1.5}],
    "threshold": [{"threshold": 0.1, "value": 20.0}],
}
VARIANTS = [
    Activation(name, **options) for name in KNOWN for options in ({}, *OPTIONS.get(name, []))
    # Both are a ReLU to torch.
    if (name, options) != ("threshold", {})
]
POINTS = torch.cat([torch.linspace(-8, 8, 161), torch.tensor([-30.0, 0.0, 30.0])]).double()


class Between(nn.Module):
    """A function between two linear layers of ones, so that its values are the outputs."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(1, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def recorded(function: Callable[[Tensor], Tensor]) -> Activation:
    """The activation that is recorded of a function; it runs as the module does."""
    torch.manual_seed(0)
    module = Between(function).double().eval()
    graph = to_graph(module)
    inputs = POINTS[:, None]
    with torch.no_grad():
        expected = module(inputs)
        torch.testing.assert_close(forward(graph, inputs), expected, rtol=1e-12, atol=1e-12)
        back = to_module(graph)(inputs)
        torch.testing.assert_close(back, expected, rtol=1e-12, atol=1e-12)
    return graph.architecture.groups[1].activation


@pytest.mark.parametrize("activation", VARIANTS, ids=str)
def test_each_activation_has_a_module_that_is_read_as_it(activation: Activation):
    module = activation_module(activation)
    assert torch.equal(module(POINTS), activation(POINTS))
    assert recorded(module) == activation
    # As the graph's own module, and as its function.
    assert recorded(activation) == activation


def test_every_activation_is_tried_with_options_where_it_has_some():
    assert set(OPTIONS) == {name for name in KNOWN if ACTIVATIONS[name].options}


def test_what_is_not_known_has_no_module():
    with pytest.raises(ArchitectureError, match=r"other\(aten.prelu\) is not known exactly"):
        activation_module(Activation("other", operator="aten.prelu"))


@pytest.mark.parametrize("name", OPERATORS)
def test_arguments_that_are_left_out_are_those_of_torch(name: str):
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        assert callable(getattr(F, name))  # composed of others
        return
    (_, *arguments) = getattr(packet, packet.overloads()[0])._schema.arguments
    # Those of a generator of random numbers are none of an activation.
    options = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given = {a.name: 0.25 for a in arguments if not a.has_default_value()}
    found = operator_activation(name, {**given, **{k: v for k, v in options.items() if v != ""}})
    assert found == operator_activation(name, given)
    # Of nothing, or from above alone.
    assert found is not None or name in ("clamp", "clip", "clamp_max")


MODULES = {
    "relu6-as-hardtanh": (nn.Hardtanh(0.0, 6.0), Activation("relu6")),
    "rrelu": (nn.RReLU(0.1, 0.5), Activation("leaky_relu", negative_slope=0.3)),
    "threshold-as-relu": (nn.Threshold(0.0, 0.0), Activation("relu")),
    "in-place": (nn.ELU(2.0, inplace=True), Activation("elu", alpha=2.0)),
    "dropout": (nn.Dropout(0.5), Activation()),
    "alpha-dropout": (nn.AlphaDropout(0.5), Activation()),
    "unflattened": (nn.Identity(), Activation()),
}


@pytest.mark.parametrize(("module", "expected"), MODULES.values(), ids=MODULES)
def test_modules(module: nn.Module, expected: Activation):
    assert recorded(module) == expected


W0 = torch.tensor(30.0)
SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], Activation]] = {
    "relu-in-place": (lambda x: F.relu(x, inplace=True), Activation("relu")),
    "relu-method": (lambda x: x.relu_(), Activation("relu")),
    "clamp-below": (lambda x: x.clamp(min=0), Activation("relu")),
    "clamp-min": (lambda x: torch.clamp_min(x, 0.0), Activation("relu")),
    "clamp": (lambda x: torch.clamp(x, -1, 2), Activation("hardtanh", min_val=-1, max_val=2)),
    "clip": (lambda x: x.clip(0, 6), Activation("relu6")),
    "clamp-at": (
        lambda x: x.clamp(min=0.5), Activation("threshold", threshold=0.5, value=0.5)
    ),
    "maximum": (lambda x: torch.maximum(x, torch.tensor(0.0)), Activation("relu")),
    "masked": (lambda x: x * (x > 0), Activation("relu")),
    "maximum-of-zeros": (lambda x: torch.maximum(torch.zeros_like(x), x), Activation("relu")),
    "selu-as-elu": (
        lambda x: torch.ops.aten.elu(x, 1.6732632423543772, 1.0507009873554805), Activation("selu")
    ),
    "celu-as-elu": (lambda x: torch.ops.aten.elu(x, 2, 1, 0.5), Activation("celu", alpha=2)),
    "half-of-both": (lambda x: (x + x.abs()) / 2, Activation("relu")),
    "leaky-by-where": (
        lambda x: torch.where(x > 0, x, 0.3 * x), Activation("leaky_relu", negative_slope=0.3)
    ),
    "leaky-by-maximum": (
        lambda x: torch.maximum(0.3 * x, x), Activation("leaky_relu", negative_slope=0.3)
    ),
    "leaky": (lambda x: F.leaky_relu(x, 0.2, True), Activation("leaky_relu", negative_slope=0.2)),
    "elu": (lambda x: F.elu(x, alpha=0.5), Activation("elu", alpha=0.5)),
    "rrelu": (lambda x: F.rrelu(x, 0.25, 0.5), Activation("leaky_relu", negative_slope=0.375)),
    "softplus": (lambda x: F.softplus(x, 2.0, 5.0), Activation("softplus", beta=2, threshold=5)),
    "gelu-tanh": (lambda x: F.gelu(x, approximate="tanh"), Activation("gelu_tanh")),
    "logsigmoid": (F.logsigmoid, Activation("log_sigmoid")),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 0.5), Activation("hardtanh", min_val=-0.5,
                                                               max_val=0.5)),
    "sine": (lambda x: torch.sin(30 * x), Activation("sine", w0=30)),
    "sine-right": (lambda x: (x * 2.5).sin(), Activation("sine", w0=2.5)),
    "sine-in-place": (lambda x: x.mul_(3).sin_(), Activation("sine", w0=3)),
    "sine-by-operator": (lambda x: torch.sin(times_three(x)), Activation("sine", w0=3)),
    "sine-of-tensor": (lambda x: torch.sin(W0 * x), Activation("sine", w0=30)),
    "sine-of-quotient": (lambda x: torch.sin(x / 4), Activation("sine", w0=0.25)),
    "sine-twice": (lambda x: torch.sin(2 * (x * 3)), Activation("sine", w0=6)),
    "sine-of-sum": (lambda x: torch.sin(x + x), Activation("sine", w0=2)),
    "sine-of-negative": (lambda x: torch.sin(-x), Activation("sine", w0=-1)),
    "cosine": (lambda x: torch.cos(3 * x), Activation("cosine", w0=3)),
    "no-operations": (lambda x: x.clone().detach().contiguous(), Activation()),
    "once": (lambda x: 1 * x + 0, Activation()),
    "silu": (lambda x: x * torch.sigmoid(x), Activation("silu")),
    "silu-of-quotient": (lambda x: x / (1 + torch.exp(-x)), Activation("silu")),
    "sigmoid": (lambda x: 1 / (1 + (-x).exp()), Activation("sigmoid")),
    "expit": (torch.special.expit, Activation("sigmoid")),
    "tanh": (lambda x: 2 * torch.sigmoid(2 * x) - 1, Activation("tanh")),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), Activation("mish")),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), Activation("gelu")),
    "gelu-otherwise": (
        lambda x: x * (torch.erf(x * 0.7071067811865476) + 1.0) / 2, Activation("gelu")
    ),
    "gelu-tanh-by-hand": (
        lambda x: 0.5 * x
        * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
        Activation("gelu_tanh"),
    ),
    "gelu-tanh-factored": (
        lambda x: 0.5 * x
        * (1 + torch.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x))),
        Activation("gelu_tanh"),
    ),
    "softsign": (lambda x: x / (1 + x.abs()), Activation("softsign")),
    "tanhshrink": (lambda x: x - x.tanh(), Activation("tanhshrink")),
    "hardswish": (lambda x: x * F.relu6(x + 3) / 6, Activation("hardswish")),
    "hardsigmoid": (lambda x: F.relu6(3 + x) / 6, Activation("hardsigmoid")),
    "square": (lambda x: x**2, Activation("square")),
    "square-as-product": (lambda x: x * x, Activation("square")),
}


def times_three(x: Tensor) -> Tensor:
    x *= 3
    return x


@pytest.mark.parametrize(("function", "expected"), SPELLINGS.values(), ids=SPELLINGS)
def test_spellings(function: Callable[[Tensor], Tensor], expected: Activation):
    assert recorded(function) == expected


#: Neighbours of activations, which are none.
NEAR = {
    "swish": lambda x: x * torch.sigmoid(1.7 * x),
    "scaled-silu": lambda x: 2 * x * torch.sigmoid(x),
    "scaled-sine": lambda x: 2 * torch.sin(3 * x),
    "sine-with-phase": lambda x: torch.sin(3 * x + 0.1),
    "sine-and-offset": lambda x: torch.sin(3 * x) + 0.1,
    "negated-relu": lambda x: -torch.relu(x),
    "tanh-of-double": lambda x: torch.tanh(2 * x),
    "gelu-with-another-number": lambda x: 0.5 * x
    * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * x**3))),
    "softplus-by-hand": lambda x: torch.log(1 + torch.exp(x)),
    "masked-elsewhere": lambda x: x * (x > 0.1),
    "wire": lambda x: torch.cos(5 * x) * torch.exp(-((2 * x) ** 2)),
    "gauss": lambda x: torch.exp(-((2 * x) ** 2)),
    "squared-relu": lambda x: torch.relu(x) ** 2,
    "shifted": lambda x: x + 1,
    "scaled": lambda x: 3 * x,
    "divided-down": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "maximum-of-steep": lambda x: torch.maximum(x, 3 * x),
    "clamped-the-wrong-way": lambda x: x.clamp(2, 1),
    "nan": lambda x: torch.sin(math.nan * x),
    "infinite": lambda x: torch.sin(math.inf * x),
    "steps": torch.round,
    "train": lambda x: F.rrelu(x, training=True),
    "long": lambda x: longer(x, 300),
    "doubled-each-time": lambda x: doubled(x, 60),
}


def longer(x: Tensor, count: int) -> Tensor:
    for number in range(count):
        x = torch.tanh(x) + number
    return x


def doubled(x: Tensor, count: int) -> Tensor:
    for _ in range(count):
        x = x * x
    return x


@pytest.mark.parametrize("function", NEAR.values(), ids=NEAR)
def test_neighbours_of_activations_are_refused(function: Callable[[Tensor], Tensor]):
    with pytest.raises(UnsupportedModuleError, match=r"to_graph\(module, example_inputs\) takes"):
        recorded(function)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)
        self.w0 = nn.Parameter(torch.tensor(30.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sin(self.w0 * self.first(x)))


def test_a_learned_frequency_is_no_option():
    with pytest.raises(UnsupportedModuleError, match=r"'w0'.* not the w0 of a sine"):
        to_graph(Learned())


def test_a_number_that_is_a_tensor_is_not_kept_on_the_module():
    module = Between(lambda x: torch.sin(torch.tensor(3.0) * x))
    before = set(vars(module))
    assert to_graph(module).architecture.groups[1].activation == Activation("sine", w0=3)
    assert set(vars(module)) == before


def test_tables_name_the_arguments_that_torch_has():
    """Options are passed by name, so that a wrong name would make every activation unknown."""
    for name, make in OPERATORS.items():
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None:
            known = {a.name for a in getattr(packet, packet.overloads()[0])._schema.arguments}
            named = {
                p.name for p in inspect.signature(make).parameters.values()
                if p.kind is not inspect.Parameter.VAR_KEYWORD
            }
            assert named <= known, name
