"""Several networks as one: the joined network computes the average, to the last bits."""

from __future__ import annotations

import pytest
import torch

from nngraph.errors import ArchitectureError, InvalidGraphError
from nngraph.graph import Architecture, NeuralGraphStack, forward, join_ensemble, run_ensemble
from nngraph.testing import random_architectures, random_stack, structured_architectures

mlp = Architecture.mlp
LINEAR_OUTPUT = {
    name: architecture
    for name, architecture in random_architectures()
    if architecture.groups[-1].activation.name == "identity"
}


def copies_of(architecture: Architecture, count: int) -> list[NeuralGraphStack]:
    return [random_stack(architecture, 3, seed) for seed in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("architecture", LINEAR_OUTPUT.values(), ids=LINEAR_OUTPUT)
def test_the_joined_network_is_the_average(architecture: Architecture, count: int):
    copies = copies_of(architecture, count)
    inputs = torch.randn(7, architecture.widths[0], dtype=torch.float64)
    average = sum(forward(copy, inputs) for copy in copies) / count
    torch.testing.assert_close(run_ensemble(copies, inputs), average, rtol=1e-12, atol=1e-12)
    joined = join_ensemble(copies)
    torch.testing.assert_close(forward(joined, inputs), average, rtol=1e-12, atol=1e-12)
    hidden = [width * count for width in architecture.widths[1:-1]]
    ends = architecture.widths[0], architecture.widths[-1]
    assert joined.architecture.widths == (ends[0], *hidden, ends[1])
    names = [p.name for p in architecture.parameters]
    assert [p.name for p in joined.architecture.parameters] == names  # a missing bias is missing
    # Through a graph of its own, by the definition.
    torch.testing.assert_close(forward(joined[1], inputs), average[1], rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_copy():
    copies = copies_of(mlp([2, 3, 2, 1], "tanh"), 2)
    for copy in copies:
        copy.x.requires_grad_()
        copy.edge_attr.requires_grad_()
    inputs = torch.randn(5, 2, dtype=torch.float64)
    leaves = [value for copy in copies for value in (copy.x, copy.edge_attr)]
    one = torch.autograd.grad(run_ensemble(copies, inputs).square().sum(), leaves)
    other = torch.autograd.grad(forward(join_ensemble(copies), inputs).square().sum(), leaves)
    for found, expected in zip(other, one, strict=True):
        torch.testing.assert_close(found, expected)
        assert found.abs().max() > 0


def test_labels_stay():
    copies = copies_of(mlp([2, 3, 1]), 2)
    copies[0].y = torch.tensor([4, 5, 6])
    assert torch.equal(join_ensemble(copies).y, copies[0].y)


def test_what_has_no_average_of_its_kind_is_refused():
    bent = mlp([2, 3, 1], ["tanh", "sigmoid"])
    with pytest.raises(ArchitectureError, match="sigmoid is applied to its outputs"):
        join_ensemble(copies_of(bent, 2))
    assert join_ensemble(copies_of(bent, 1)).architecture == bent
    for _, architecture in structured_architectures()[:2]:
        with pytest.raises(ArchitectureError, match="not a chain of affine maps"):
            join_ensemble(copies_of(architecture, 2))
    with pytest.raises(InvalidGraphError, match="there are no copies"):
        join_ensemble([])
    with pytest.raises(InvalidGraphError, match="2 copies were given 1 shares"):
        join_ensemble(copies_of(mlp([2, 3, 1]), 2), [1.0])
    for other in (mlp([2, 3, 3, 1]), mlp([2, 3, 2]), mlp([2, 3, 1], "tanh")):
        with pytest.raises(ArchitectureError, match="differ in the widths of their hidden layers"):
            join_ensemble([*copies_of(mlp([2, 3, 1]), 1), *copies_of(other, 1)])


def test_a_sum_of_networks_of_other_widths():
    parts = [random_stack(mlp(w, "tanh"), 2, i) for i, w in enumerate([[2, 3, 4, 2], [2, 5, 1, 2]])]
    inputs = torch.randn(7, 2, dtype=torch.float64)
    joined = join_ensemble(parts, [0.5, 2.0])
    assert joined.architecture == mlp([2, 8, 5, 2], "tanh")
    expected = 0.5 * forward(parts[0], inputs) + 2 * forward(parts[1], inputs)
    torch.testing.assert_close(forward(joined, inputs), expected, rtol=1e-12, atol=1e-12)
