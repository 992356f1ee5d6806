"""The neural functional transformer: equivariant, invariant, the same in every layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from state_laws import (
    check_mixed_batch,
    check_symmetry,
    check_wrong_states_are_noticed,
    relative,
    without_gradient,
)

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.graph.topology.topology import Topology
from nngraph.nn import SetAttentionLayer, SetAttentionNetwork, TensorAttention
from nngraph.testing import random_architectures, random_stack, structured_architectures

mlp = Architecture.mlp
NAMED = dict(random_architectures())
STRUCTURED = dict(structured_architectures())


def build(architecture: Architecture | list[Architecture], **changes: Any) -> SetAttentionNetwork:
    torch.manual_seed(0)
    options: dict[str, Any] = {"channels": 4, "keys": 2, "hidden": 8, **changes}
    return SetAttentionNetwork(architecture, 3, **options).double()


@pytest.mark.parametrize("architecture", NAMED.values(), ids=NAMED)
def test_states_are_equivariant_and_answers_invariant(architecture: Architecture):
    check_symmetry(build(architecture), architecture)


@pytest.mark.parametrize("name", ["residual", "grouped"])
def test_structures_that_are_no_chains(name: str):
    check_symmetry(build(STRUCTURED[name]), STRUCTURED[name])


def test_order_of_neurons_would_be_noticed():
    check_wrong_states_are_noticed(build(mlp([2, 4, 3, 2])), mlp([2, 4, 3, 2]))


def test_mixed_widths_depths_and_structures():
    architectures = [
        mlp([2, 5, 1]), mlp([2, 3, 4, 1]), mlp([2, 1]), mlp([2, 3, 4, 1]),
        mlp([2, 2, 2, 2, 1], bias=False), mlp([2, 5, 2], "tanh"), mlp([1, 4, 3, 1]),
        *STRUCTURED.values(),
    ]  # fmt: skip
    check_mixed_batch(build(architectures).eval(), architectures)


def test_depths_and_widths_it_never_saw():
    model = build(mlp([2, 4, 2]))
    for widths in ([2, 9, 3, 5, 1], [1, 6, 2]):
        check_symmetry(model, mlp(widths))
    with pytest.raises(ArchitectureError, match="3 outputs; the model was built for 2"):
        model(random_stack(mlp([2, 4, 3]), 2, 0))


def test_inputs_and_outputs_are_told_apart():
    architecture = mlp([2, 4, 3, 2])
    networks = random_stack(architecture, 4, 0)
    model = build(architecture).eval()
    for name, axis in (("0.weight", 2), ("2.weight", 1)):
        values = networks.parameters()
        values[name] = values[name].flip(axis)
        swapped = NeuralGraphStack.from_parameters(architecture, values)
        assert relative(model(swapped), model(networks)) > 1e-6


def test_every_parameter_learns():
    architectures = [mlp([2, 4, 3, 2]), mlp([2, 3, 3, 3, 2])]
    assert without_gradient(build(architectures), architectures) == []


def test_one_round_joins_what_meets_and_the_tensors_join_the_rest():
    """A weight changes the states of others only through attention."""
    architecture = mlp([2, 3, 3, 3, 1])
    topology = Topology.of(architecture)
    layer = SetAttentionLayer(4, 2, 2).double()
    with torch.no_grad():  # without the attention among tensors
        layer.blocks.weight.zero_()
        layer.groups.weight.zero_()
    x = torch.randn(topology.num_nodes, 4, dtype=torch.float64)
    e = torch.randn(topology.num_edges, 4, dtype=torch.float64)
    first = layer(topology, x, e)
    moved = e.clone()
    moved[0, 0] += 1  # in the first weight, which meets the second but no later one
    second = layer(topology, x, moved)
    changed = (first[1] - second[1]).abs().amax(-1) > 1e-12
    ends = [block.stop for block in architecture.blocks]
    assert bool(changed[: ends[0]].any())
    assert bool(changed[ends[0] : ends[1]].all())
    assert not bool(changed[ends[1] :].any())


def test_attention_among_tensors_against_a_loop():
    topology = Topology.of_batch([mlp([2, 3, 1]), mlp([2, 4]), mlp([1, 3, 1])])
    module = TensorAttention(4, 2).double()
    blocks = torch.randn(len(topology.blocks.size), 4, dtype=torch.float64)
    groups = torch.randn(len(topology.groups.size), 4, dtype=torch.float64)
    found = torch.cat(module(topology, blocks, groups))
    graph = torch.cat([topology.blocks.graph.index, topology.groups.graph.index])
    tokens = module.read(torch.cat([blocks, groups]))
    expected = torch.zeros_like(found)
    for network in range(3):
        own = graph == network
        q, k, v = tokens[own].chunk(3, dim=-1)
        for head in (slice(0, 2), slice(2, 4)):
            weight = (q[:, head] @ k[:, head].T / 2**0.5).softmax(-1)
            expected[own, head] = weight @ v[:, head]
    torch.testing.assert_close(found, expected)


def test_heads_that_divide_nothing_are_refused():
    with pytest.raises(ValueError, match="heads is 3; expected a divisor of the 4 channels"):
        SetAttentionLayer(4, 3)
