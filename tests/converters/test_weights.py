import math

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch

from converters import (
    AffineChain,
    mlp_to_graph,
    stacked_to_graphs,
    state_dict_to_graph,
    to_graph,
    to_module,
    to_state_dict,
)
from nngraph.errors import ArchitectureError, InvalidGraphError, NonFiniteError
from nngraph.graph import Activation, Architecture, NeuralGraph, Symmetry, forward
from nngraph.testing import random_architectures, random_parameters, random_stack

ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def same(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


def lists_of(architecture, values):
    weights = [values[b.parameter.name] for b in architecture.blocks]
    biases = [values.get(b.parameter.name.replace("weight", "bias")) for b in architecture.blocks]
    return weights, biases, [g.activation for g in architecture.groups[1:]]


# -- lists of weights --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lists_and_stacks_of_weights(architecture, dtype):
    values = random_parameters(architecture, 0, dtype)
    graph = mlp_to_graph(*lists_of(architecture, values))
    assert graph.architecture == architecture
    assert same(graph.parameters(), values)
    stacked = random_parameters(architecture, 1, dtype, lead=(4,))
    labels = torch.arange(4)
    stack = stacked_to_graphs(*lists_of(architecture, stacked), y=labels)
    assert stack.architecture == architecture
    assert stack.y is labels
    assert same(to_state_dict(stack), stacked)
    one = {name: value[2] for name, value in stacked.items()}
    assert same(stack[2].parameters(), one)


def test_lists_of_weights_with_names_and_defaults():
    weights = [torch.randn(3, 2), torch.randn(1, 3)]
    graph = mlp_to_graph(weights, None, Activation("sine", w0=30), names=["in", "out"])
    assert [p.name for p in graph.architecture.parameters] == ["in.weight", "out.weight"]
    assert [str(g.activation) for g in graph.architecture.groups[1:]] == ["sine(w0=30)", "identity"]
    assert graph.parameters()["in.weight"].data_ptr() == weights[0].data_ptr()


def test_a_stack_of_none_and_of_many():
    assert len(stacked_to_graphs([torch.zeros(0, 3, 2)], None, "relu")) == 0
    stack = stacked_to_graphs([torch.randn(2000, 3, 2)], [torch.randn(2000, 3)], [])
    assert stack.edge_attr.shape == (2000, 6, 1)


def test_gradients_reach_stacked_weights():
    weights = [torch.randn(2, 3, 2, requires_grad=True), torch.randn(2, 1, 3, requires_grad=True)]
    stack = stacked_to_graphs(weights, None, "tanh", differentiable=True)
    inputs = torch.randn(5, 2)
    hidden = torch.tanh(inputs @ weights[0].mT)
    expected = torch.autograd.grad((hidden @ weights[1].mT).sum(), weights)
    found = torch.autograd.grad(forward(stack, inputs).sum(), weights)
    torch.testing.assert_close(found, expected)
    assert not stacked_to_graphs(weights, None, "tanh").edge_attr.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([], None, "relu"), InvalidGraphError, "no weights"),
        (([torch.zeros(3)], None, []), InvalidGraphError, r"matrix \(out, in\)"),
        (([torch.zeros(3, 0)], None, []), InvalidGraphError, "at least one neuron"),
        (([torch.zeros(3, 2), torch.zeros(1, 4)], None, "relu"), InvalidGraphError,
         "takes 4 inputs, but '0.weight' before it gives 3"),
        (([torch.zeros(3, 2)], [torch.zeros(2)], []), InvalidGraphError, r"expected \(3,\)"),
        (([torch.zeros(3, 2)], [], []), InvalidGraphError, "0 biases"),
        (([torch.zeros(3, 2)], None, ["relu", "relu"]), ArchitectureError, "2 activations"),
        (([torch.zeros(3, 2)], None, ["what"]), ArchitectureError, "unknown activation"),
        (([torch.zeros(3, 2).numpy()], None, []), InvalidGraphError, "from_numpy"),
        (([torch.zeros(3, 2, dtype=torch.long)], None, []), InvalidGraphError, "int64"),
        (([torch.full((3, 2), math.nan)], None, []), NonFiniteError, "6 of 6"),
        (([torch.zeros(3, 2)], [torch.zeros(3).half()], []), InvalidGraphError, "one dtype"),
        (([torch.zeros(3, 2).to_sparse()], None, []), InvalidGraphError, "dense"),
    ],
)
def test_lists_that_do_not_fit_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        mlp_to_graph(*arguments)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_refused():
    weight = torch.quantize_per_tensor(torch.zeros(3, 2), 1.0, 0, torch.qint8)
    with pytest.raises(InvalidGraphError, match="quantised"):
        mlp_to_graph([weight], None, [])


@pytest.mark.parametrize(
    ("weights", "biases", "words"),
    [
        ([torch.zeros(3, 2)], None, "networks stacked"),
        ([torch.zeros(5, 3, 2)], [torch.zeros(3)], "networks stacked"),
        ([torch.zeros(5, 3, 2)], [torch.zeros(5, 3, 1)], "networks stacked"),
        ([torch.zeros(5, 3, 2)], [torch.zeros(4, 3)], r"\[4, 5\] networks"),
        ([torch.zeros(5, 3, 2), torch.zeros(5, 1, 2)], None, "chain"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(weights, biases, words):
    with pytest.raises(InvalidGraphError, match=words):
        stacked_to_graphs(weights, biases, "relu")


def test_one_nonfinite_network_among_many_is_refused():
    weight = torch.zeros(1000, 3, 2)
    weight[700, 1, 1] = math.inf
    with pytest.raises(NonFiniteError, match="1 of 6000"):
        stacked_to_graphs([weight], None, [])
    assert len(stacked_to_graphs([weight], None, [], allow_nonfinite=True)) == 1000


# -- state dicts -------------------------------------------------------------------------------


def state_dict_of(layers, **more):
    found = {}
    for name, (outputs, inputs) in layers.items():
        found[f"{name}.weight"] = torch.randn(outputs, inputs)
        found[f"{name}.bias"] = torch.randn(outputs)
    return {**found, **more}


def order_of(graph):
    return [b.parameter.name.removesuffix(".weight") for b in graph.architecture.blocks]


@pytest.mark.parametrize(
    ("layers", "order"),
    [
        ({"fc10": (4, 4), "fc2": (4, 4), "fc1": (4, 4)}, ["fc1", "fc2", "fc10"]),
        ({"net.2": (4, 4), "net.0": (4, 2), "net.11": (1, 4)}, ["net.0", "net.2", "net.11"]),
        ({"b1.fc2": (4, 4), "b0.fc10": (4, 4), "b0.fc9": (4, 4), "b1.fc1": (4, 4)},
         ["b0.fc9", "b0.fc10", "b1.fc1", "b1.fc2"]),
        # Other names, but only one order is a chain.
        ({"output": (1, 5), "hidden": (5, 3), "input": (3, 2)}, ["input", "hidden", "output"]),
        ({"head": (1, 4), "body.0": (4, 4), "body.1": (4, 4), "stem": (4, 2)},
         ["stem", "body.0", "body.1", "head"]),
    ],
)
def test_an_mlp_is_inferred_where_only_one_order_is_possible(layers, order):
    values = state_dict_of(layers)
    graph = state_dict_to_graph(values)
    assert order_of(graph) == order
    assert same(to_state_dict(graph), values)
    assert {str(g.activation) for g in graph.architecture.groups[1:-1]} == {"relu"}
    assert graph.parameters()[f"{order[0]}.weight"].data_ptr() == (
        values[f"{order[0]}.weight"].data_ptr()
    )


def test_a_single_layer_and_activations():
    assert state_dict_to_graph(nn.Linear(3, 2).state_dict()).architecture.widths == (3, 2)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    graph = state_dict_to_graph(module.state_dict(), activations="tanh")
    assert graph.architecture == to_graph(module).architecture
    again = state_dict_to_graph(module.state_dict(), graph.architecture)
    assert again.architecture == graph.architecture


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "empty"),
        (state_dict_of({"encoder": (4, 4), "decoder": (4, 4)}), "more than one order"),
        (state_dict_of({"a.0": (4, 4), "b.0": (4, 4), "a.1": (4, 4)}), "more than one order"),
        (state_dict_of({"fc1": (4, 3), "fc2": (4, 3)}), "no order"),
        # The numbers say one thing and the widths another.
        (state_dict_of({"fc1": (1, 4), "fc2": (4, 2)}), "no order"),
        (state_dict_of({"fc": (3, 2)}, extra=torch.zeros(1)), "'extra'"),
        (state_dict_of({"fc": (3, 2)}, **{"norm.weight": torch.zeros(3)}), r"'norm\.weight'"),
        (state_dict_of({"fc": (3, 2)}, **{"conv.weight": torch.zeros(3, 2, 1)}), "'conv"),
        (state_dict_of({"fc": (3, 2)}, **{"x.bias": torch.zeros(3)}), "without a weight"),
        (state_dict_of({"fc": (3, 2)}, **{"fc.bias": torch.zeros(2)}), r"expected \(3,\)"),
        (state_dict_of({"fc": (3, 2)}, **{"fc.bias": 3}), "is a int"),
        ([("weight", torch.zeros(3, 2))], "is a list"),
    ],
)
def test_what_is_no_mlp_is_refused(values, words):
    with pytest.raises(InvalidGraphError, match=words):
        state_dict_to_graph(values)


def test_a_search_for_the_order_ends():
    # Names that say nothing, and widths that leave a great many orders but no chain.
    names = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(40)]
    values = state_dict_of({**dict.fromkeys(names, (2, 2)), "end": (3, 4)})
    with pytest.raises(InvalidGraphError, match="too many ways"):
        state_dict_to_graph(values)
    deep = state_dict_of({f"fc{i}": (2, 2) for i in range(1500)})
    assert len(state_dict_to_graph(deep).architecture.blocks) == 1500


def test_a_wrong_architecture_is_refused():
    values = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).state_dict()
    right = Architecture.mlp([3, 4, 2], "tanh", names=["0", "2"])
    state_dict_to_graph(values, right)
    for wrong in (
        Architecture.mlp([3, 5, 2], "tanh", names=["0", "2"]),
        Architecture.mlp([3, 4, 2], "tanh"),
        Architecture.mlp([3, 4, 2], "tanh", bias=False, names=["0", "2"]),
        Architecture.mlp([3, 4, 2, 2], "tanh", names=["0", "2", "4"]),
    ):
        with pytest.raises(InvalidGraphError):
            state_dict_to_graph(values, wrong)
    with pytest.raises(InvalidGraphError, match="both"):
        state_dict_to_graph(values, right, activations="relu")
    values["0.bias"][0] = math.nan
    with pytest.raises(NonFiniteError):
        state_dict_to_graph(values, right)
    state_dict_to_graph(values, right, allow_nonfinite=True)


# -- back to torch -----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_modules_of_any_architecture(architecture):
    graph = NeuralGraph.from_parameters(architecture, random_parameters(architecture, 0))
    module = to_module(graph)
    assert isinstance(module, nn.Sequential)
    assert same(module.state_dict(), to_state_dict(graph))
    inputs = torch.randn(6, architecture.widths[0], dtype=torch.float64)
    torch.testing.assert_close(module(inputs), forward(graph, inputs), rtol=1e-12, atol=1e-12)
    assert to_graph(module).architecture == architecture
    moved = Symmetry(architecture).sample(0).act_on_graph(graph)
    torch.testing.assert_close(to_module(moved)(inputs), module(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("names", "sequential"),
    [
        (["0", "1", "2"], True),
        (["0", "2", "1"], True),
        (["a.b.0", "a.b.2", "a.c"], True),
        (["0", "0_activation", "1"], True),
        (["a.0", "b", "a.1"], False),
        (["a", "a.b", "c"], False),
        (["", "a", "b"], False),
    ],
)
def test_modules_of_any_names(names, sequential):
    architecture = Architecture.mlp([2, 3, 4, 1], "sigmoid", names=names)
    graph = NeuralGraph.from_parameters(architecture, random_parameters(architecture, 0))
    module = to_module(graph)
    assert isinstance(module, nn.Sequential if sequential else AffineChain)
    assert same(module.state_dict(), to_state_dict(graph))
    inputs = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(module(inputs), forward(graph, inputs), rtol=1e-12, atol=1e-12)
    assert to_graph(module).architecture == architecture
    assert "sigmoid" in repr(module).lower()


@pytest.mark.parametrize("names", [["forward"], ["a..b"], [".a"], ["training"]])
def test_names_that_no_module_can_have_are_refused(names):
    graph = mlp_to_graph([torch.zeros(3, 2)], None, [], names=names)
    with pytest.raises(InvalidGraphError, match="cannot all be"):
        to_module(graph)


def test_batches_and_other_graphs_have_no_module():
    batch = random_stack(Architecture.mlp([2, 3, 1]), 2, 0).to_batch()
    assert isinstance(batch, Batch)
    for convert in (to_module, to_state_dict):
        with pytest.raises(InvalidGraphError, match="to_data_list"):
            convert(batch)
    data = Architecture.mlp([2, 3, 1]).to_dict()
    data["parameters"].append({"name": "skip", "shape": [1, 2], "axes": [2, 0], "column": None})
    architecture = Architecture.from_dict(data)
    graph = NeuralGraph.from_parameters(architecture, random_parameters(architecture, 0))
    with pytest.raises(ArchitectureError, match=r"'skip' of shape .* leads from"):
        to_module(graph)


def test_training_the_module_leaves_the_graph_alone():
    graph = mlp_to_graph([torch.ones(3, 2)], None, [])
    module = to_module(graph)
    with torch.no_grad():
        module[0].weight.zero_()
    assert graph.block(0).sum() == 6
