import math

import pytest
import torch

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import (
    ACTIVATIONS,
    Activation,
    Architecture,
    NeuralGraph,
    NeuralGraphStack,
    Parameter,
    forward,
)
from nngraph.testing import random_architectures, random_parameters, random_stack

ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]

#: The activations again, number by number.
SCALAR = {
    "identity": lambda u: u,
    "relu": lambda u: max(u, 0.0),
    "leaky_relu": lambda u, negative_slope: u if u > 0 else negative_slope * u,
    "elu": lambda u, alpha, scale, input_scale: scale * (
        u if u > 0 else alpha * math.expm1(input_scale * u)
    ),
    "gelu": lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2))),
    "gelu_tanh": lambda u: 0.5 * u * (
        1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))
    ),
    "silu": lambda u: u / (1 + math.exp(-u)),
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
    "softplus": lambda u, beta, threshold: math.log1p(math.exp(beta * u)) / beta,
    "relu6": lambda u: min(max(u, 0.0), 6.0),
    "hardswish": lambda u: u * min(max(u + 3, 0.0), 6.0) / 6,
    "hardsigmoid": lambda u: min(max(u + 3, 0.0), 6.0) / 6,
    "mish": lambda u: u * math.tanh(math.log1p(math.exp(u))),
    "selu": lambda u: 1.0507009873554805 * (u if u > 0 else 1.6732632423543772 * math.expm1(u)),
    "tanh": math.tanh,
    "sine": lambda u, w0: math.sin(w0 * u),
    "celu": lambda u, alpha: max(u, 0.0) + min(alpha * math.expm1(u / alpha), 0.0),
    "hardtanh": lambda u, min_val, max_val: min(max(u, min_val), max_val),
    "softsign": lambda u: u / (1 + abs(u)),
    "tanhshrink": lambda u: u - math.tanh(u),
    "softshrink": lambda u, lambd: math.copysign(max(abs(u) - lambd, 0.0), u),
    "hardshrink": lambda u, lambd: u if abs(u) > lambd else 0.0,
    "threshold": lambda u, threshold, value: u if u > threshold else value,
    "log_sigmoid": lambda u: -math.log1p(math.exp(-u)),
    "exp": math.exp,
    "cosine": lambda u, w0: math.cos(w0 * u),
    "sinc": lambda u: math.sin(math.pi * u) / (math.pi * u) if u else 1.0,
    "erf": math.erf,
    "abs": abs,
    "square": lambda u: u * u,
    "atan": math.atan,
    "asinh": math.asinh,
}


def naive(architecture, values, inputs):
    """All activations of one input, by loops over neurons."""
    everything, previous = list(inputs), list(inputs)
    for layer, group in enumerate(architecture.groups[1:]):
        block = architecture.blocks[layer]
        weight = values[block.parameter.name].tolist()
        bias = values.get(block.parameter.name.replace("weight", "bias"))
        row = []
        for i in range(group.size):
            total = 0.0 if bias is None else bias[i].item()
            for j, value in enumerate(previous):
                total += weight[i][j] * value
            row.append(SCALAR[group.activation.name](total, **dict(group.activation.options)))
        everything += row
        previous = row
    return everything


def graph_of(architecture, seed=0, dtype=torch.float64):
    return NeuralGraph.from_parameters(architecture, random_parameters(architecture, seed, dtype))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graph_and_stack_run_as_naive_loops_do(architecture):
    stack = random_stack(architecture, 3, 0)
    inputs = torch.randn(4, architecture.widths[0], dtype=torch.float64)
    expected = torch.tensor(
        [[naive(architecture, one.parameters(), p.tolist()) for p in inputs] for one in stack],
        dtype=torch.float64,
    )
    outputs = expected[..., -architecture.widths[-1] :]
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(forward(stack, inputs), outputs, **close)
    torch.testing.assert_close(forward(stack, inputs, return_activations=True), expected, **close)
    torch.testing.assert_close(forward(stack.to_batch(), inputs), outputs, **close)
    for b in range(3):
        torch.testing.assert_close(forward(stack[b], inputs), outputs[b], **close)
        torch.testing.assert_close(
            forward(stack[b], inputs, return_activations=True), expected[b], **close
        )
    own = torch.stack([inputs, inputs + 1, inputs * 2])
    torch.testing.assert_close(forward(stack, own)[2], forward(stack[2], own[2]), **close)


OPTIONS = {
    "leaky_relu": {"negative_slope": 0.3},
    "elu": {"alpha": 2.0, "scale": 0.7, "input_scale": 1.5},
    "sine": {"w0": 30.0},
    "softplus": {"beta": 2.0, "threshold": 30.0},
    "celu": {"alpha": 0.4},
    "hardtanh": {"min_val": -0.5, "max_val": 2.0},
    "softshrink": {"lambd": 0.6},
    "hardshrink": {"lambd": 0.8},
    "threshold": {"threshold": 0.1, "value": -2.0},
    "cosine": {"w0": 3.0},
}


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"other"}))
def test_every_activation(name):
    options = OPTIONS.get(name, {})
    architecture = Architecture.mlp([1, 1], [Activation(name, **options)], bias=False)
    values = {"0.weight": torch.ones(1, 1, dtype=torch.float64)}
    graph = NeuralGraph.from_parameters(architecture, values)
    inputs = [-3.0, -0.7, 0.0, 0.2, 2.5]
    expected = [SCALAR[name](u, **options) for u in inputs]
    found = forward(graph, torch.tensor(inputs, dtype=torch.float64)[:, None])[:, 0]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_precision_errs_at_most_twice_as_much_as_plain_torch(architecture, dtype):
    graph = graph_of(architecture, dtype=dtype)
    inputs = torch.randn(64, architecture.widths[0]).to(dtype)
    exact, plain = inputs.double(), inputs
    for layer, group in enumerate(architecture.groups[1:]):
        weight = graph.block(layer)
        name = architecture.blocks[layer].parameter.name.replace("weight", "bias")
        bias = graph.parameters().get(name)
        wide = None if bias is None else bias.double()
        exact = group.activation(torch.nn.functional.linear(exact, weight.double(), wide))
        plain = group.activation(torch.nn.functional.linear(plain, weight, bias))
    allowed = 2 * (plain.double() - exact).abs().mean() + torch.finfo(dtype).eps * 1e-3
    for found in (forward(graph, inputs), forward(_stack_of(graph), inputs)[0]):
        assert found.dtype == dtype
        assert (found.double() - exact).abs().mean() <= allowed


def _stack_of(graph):
    values = {name: value[None] for name, value in graph.parameters().items()}
    return NeuralGraphStack.from_parameters(graph.architecture, values)


def test_any_leading_shape_and_no_inputs():
    graph = graph_of(Architecture.mlp([2, 4, 3]))
    assert forward(graph, torch.zeros(2, dtype=torch.float64)).shape == (3,)
    assert forward(graph, torch.zeros(5, 6, 2, dtype=torch.float64)).shape == (5, 6, 3)
    assert forward(graph, torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 3)
    inputs = torch.zeros(5, 6, 2, dtype=torch.float64)
    assert forward(graph, inputs, return_activations=True).shape == (5, 6, 9)


def test_many_inputs_are_run_in_parts(monkeypatch):
    graph = graph_of(Architecture.mlp([2, 4, 3]))
    inputs = torch.randn(50, 2, dtype=torch.float64)
    expected = forward(graph, inputs)
    monkeypatch.setattr("nngraph.graph.run._MAX_MESSAGES", 84)
    torch.testing.assert_close(forward(graph, inputs), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("stacked", [False, True])
def test_gradients_reach_inputs_and_weights(stacked):
    architecture = Architecture.mlp([2, 3, 2], Activation("sine", w0=3), bias=[True, False])
    values = random_parameters(architecture, 0, lead=(2,) if stacked else ())
    inputs = torch.randn(2, 3, 2, dtype=torch.float64) if stacked else torch.randn(3, 2).double()

    def run(inputs, *tensors):
        named = dict(zip(values, tensors, strict=True))
        if stacked:
            network = NeuralGraphStack.from_parameters(architecture, named)
        else:
            network = NeuralGraph.from_parameters(architecture, named)
        return forward(network, inputs, return_activations=True)

    tensors = [t.requires_grad_() for t in (inputs, *values.values())]
    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


def test_order_of_the_edges_does_not_matter_but_where_they_lead_does():
    graph = graph_of(Architecture.mlp([2, 4, 3]))
    inputs = torch.randn(5, 2, dtype=torch.float64)
    expected = forward(graph, inputs)
    order = torch.randperm(graph.edge_index.shape[1])
    shuffled = graph.clone()
    shuffled.edge_index, shuffled.edge_attr = graph.edge_index[:, order], graph.edge_attr[order]
    torch.testing.assert_close(forward(shuffled, inputs), expected, rtol=1e-12, atol=1e-12)
    wrong = graph.clone()
    wrong.edge_index[0, :2] = torch.tensor([1, 0])
    assert (forward(wrong, inputs) - expected).abs().max() > 1e-3


def test_zero_weights_are_edges():
    architecture = Architecture.mlp([2, 3, 1])
    graph = NeuralGraph.from_parameters(
        architecture, random_parameters(architecture, 0, zero_fraction=1.0)
    )
    assert graph.edge_index.shape == (2, 9)
    assert forward(graph, torch.ones(2, dtype=torch.float64)).tolist() == [0.0]


def test_what_does_not_fit_is_refused():
    architecture = Architecture.mlp([2, 3, 1])
    graph, stack = graph_of(architecture), random_stack(architecture, 2, 0)
    for network in (graph, stack):
        with pytest.raises(InvalidGraphError, match=r"expects \(..., 2\)"):
            forward(network, torch.zeros(5, 3, dtype=torch.float64))
        with pytest.raises(InvalidGraphError, match="one dtype"):
            forward(network, torch.zeros(5, 2))
        with pytest.raises(InvalidGraphError):
            forward(network, torch.zeros((), dtype=torch.float64))
    for shape in ((2,), (3, 5, 2), (2, 1, 5, 2)):
        with pytest.raises(InvalidGraphError, match="2 networks expect"):
            forward(stack, torch.zeros(shape, dtype=torch.float64))
    batch = random_stack(architecture, 1, 0).to_batch()
    mixed = type(batch).from_data_list([graph, graph_of(Architecture.mlp([2, 4, 1]))])
    with pytest.raises(InvalidGraphError, match="different architectures"):
        forward(mixed, torch.zeros(5, 2, dtype=torch.float64))


def test_what_is_no_chain_is_refused():
    chain = Architecture.mlp([2, 3, 3])
    skip = Architecture(chain.groups, (*chain.parameters, Parameter("skip", (3, 2), (2, 0))))
    scaled = Architecture(chain.groups, (*chain.parameters, Parameter("s", (3,), (1,), "scale")))
    biased = Architecture(chain.groups, (*chain.parameters, Parameter("b", (2,), (0,), "bias")))
    for architecture in (skip, scaled, biased):
        with pytest.raises(ArchitectureError, match="not a chain"):
            forward(graph_of(architecture), torch.zeros(2, dtype=torch.float64))
