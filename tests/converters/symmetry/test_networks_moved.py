"""The whole symmetry acts on graphs and stacks as it does on tensors by name, bit by bit."""

from __future__ import annotations

import group_cases
import pytest
import torch
from torch.func import functional_call

from converters import symmetry_spec, to_graph, to_state_dict
from nngraph.errors import ArchitectureError
from nngraph.graph import NeuralGraphStack, to_batch

CASES = ["residual CNN", "attention in one matrix", "tied autoencoder of tanh"]


@pytest.mark.parametrize("name", CASES)
def test_graphs_and_stacks_are_moved_as_state_dicts_are(name: str):
    module, inputs = group_cases.build(name)
    spec, state = symmetry_spec(module, inputs[:3]), module.state_dict()
    graph = to_graph(module, inputs[:3])
    graph.y = torch.tensor([1.0])
    elements = [spec.sample(seed) for seed in range(3)]
    expected = [spec.act(state, element) for element in elements]
    moved = spec.act(graph, elements[0])
    assert moved.y is graph.y
    found = to_state_dict(moved)
    assert all(torch.equal(found[n], expected[0][n]) for n in state)
    y = functional_call(module, found, (inputs[:3],))
    assert torch.allclose(y, module(inputs[:3]), rtol=1e-10, atol=1e-10)

    values = {n: v.expand(3, *v.shape) for n, v in graph.parameters().items()}
    stack = NeuralGraphStack.from_parameters(graph.architecture, values, torch.arange(3.0))
    each, alike = spec.act(stack, elements), spec.act(stack, elements[1])
    assert torch.equal(each.y, stack.y)
    for i in range(3):
        for moved, own in ((each[i], expected[i]), (alike[i], expected[1])):
            assert all(torch.equal(value, own[n]) for n, value in moved.parameters().items())
    assert len(spec.act(stack[:0], elements[0])) == 0


def test_a_wrong_element_is_noticed():
    module, inputs = group_cases.build("MLP of relu")
    spec, graph = symmetry_spec(module, inputs), to_graph(module, inputs)
    element = spec.sample(0)
    wrong = type(element)((-element.maps[0], element.maps[1]), element.relabelling)
    for each, same in ((element, True), (wrong, False)):
        y = functional_call(module, to_state_dict(spec.act(graph, each)), (inputs,))
        assert torch.allclose(y, module(inputs), rtol=1e-10, atol=1e-10) is same


def test_what_is_no_network_or_too_few_elements_is_refused():
    module, inputs = group_cases.build("MLP of relu")
    spec, graph = symmetry_spec(module, inputs), to_graph(module, inputs)
    element = spec.sample(0)
    with pytest.raises(ArchitectureError, match="of 1 networks and 2 elements"):
        spec.act(graph.parameters(), [element, element])
    with pytest.raises(ArchitectureError, match="NeuralGraphBatch of 1 networks"):
        spec.act(to_batch([graph, graph]), element)
