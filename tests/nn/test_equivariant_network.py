"""The network of complete layers: invariant, the same in every layout, and it learns."""

from __future__ import annotations

import pytest
import torch

from nngraph.errors import ArchitectureError
from nngraph.graph import Architecture, NeuralGraphStack
from nngraph.nn.equivariant_network import EquivariantNetwork
from nngraph.testing import assert_invariant, random_architectures, random_stack

ARCHITECTURES = [pytest.param(a, id=name) for name, a in random_architectures()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_is_invariant_in_every_layout(architecture):
    model = EquivariantNetwork(architecture, 3, channels=4, layers=2).double().eval()
    stack = random_stack(architecture, 4, 0)
    assert_invariant(
        lambda x, e: model(NeuralGraphStack(architecture, x, e)),
        architecture,
        features=(stack.x, stack.edge_attr),
    )
    answers = model(stack)
    assert answers.shape == (4, 3)
    torch.testing.assert_close(model(stack.to_batch()), answers)
    torch.testing.assert_close(model(stack[2]), answers[2:3])


def test_learns_a_function_of_the_weights():
    architecture = Architecture.mlp([2, 6, 1])
    stack = random_stack(architecture, 64, 0, torch.float32)
    wanted = (stack.edge_attr[:, :12, 0].square().mean(1) * 4 - 2).unsqueeze(-1)
    model = EquivariantNetwork(architecture, 1, channels=8, layers=2, dropout=0.0)
    model.fit_statistics(stack)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (model(stack) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_refuses_other_architectures():
    model = EquivariantNetwork(Architecture.mlp([2, 3, 1]), 1)
    for other in (Architecture.mlp([2, 4, 1]), Architecture.mlp([2, 3, 1], bias=False)):
        with pytest.raises(ArchitectureError, match="reads no other"):
            model(random_stack(other, 1, 0))
    with pytest.raises(ValueError, match="layers is 0"):
        EquivariantNetwork(Architecture.mlp([2, 3, 1]), 1, layers=0)
