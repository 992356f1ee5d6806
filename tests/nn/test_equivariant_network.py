"""The networks of complete layers: equivariant, invariant, the same in every layout; they learn."""

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
from nngraph.nn import StateNetwork
from nngraph.nn.layers.shared import SharedTensorNorm
from nngraph.nn.models.dws import EquivariantNetwork
from nngraph.nn.models.nfn_np import SharedEquivariantNetwork
from nngraph.testing import random_architectures, random_stack, structured_architectures

mlp = Architecture.mlp
SMALL: dict[str, Any] = {"channels": 4, "layers": 2, "hidden": 8}
CASES: dict[str, tuple[type[StateNetwork], dict[str, Any]]] = {
    "complete": (EquivariantNetwork, SMALL),
    "complete, linear read-out": (EquivariantNetwork, {**SMALL, "hidden": 0}),
    "complete, I/O relabelled": (EquivariantNetwork, {**SMALL, "permute_io": True}),
    "shared": (SharedEquivariantNetwork, SMALL),
    "shared, narrow weights": (SharedEquivariantNetwork, {**SMALL, "edge_channels": 2}),
    "shared, one level": (SharedEquivariantNetwork, {**SMALL, "levels": 1}),
}
NAMED = dict(random_architectures())
MIXED = [
    mlp([2, 5, 1]), mlp([2, 3, 4, 1]), mlp([2, 7, 1]), mlp([2, 1]), mlp([2, 3, 4, 1]),
    mlp([2, 2, 2, 2, 1], bias=False), mlp([2, 5, 2], "tanh"), mlp([1, 4, 3, 1]),
]  # fmt: skip


def build(case: str, architecture: Architecture | list[Architecture], **changes: Any):
    kind, options = CASES[case]
    torch.manual_seed(0)
    return kind(architecture, 3, **{**options, **changes}).double()


@pytest.mark.parametrize("case", ["complete", "shared"])
@pytest.mark.parametrize("architecture", NAMED.values(), ids=NAMED)
def test_states_are_equivariant_and_answers_invariant(case: str, architecture: Architecture):
    check_symmetry(build(case, architecture), architecture)


@pytest.mark.parametrize("case", [case for case in CASES if "," in case])
@pytest.mark.parametrize("name", ["width-one", "several-outputs"])
def test_variants(case: str, name: str):
    check_symmetry(build(case, NAMED[name]), NAMED[name])


@pytest.mark.parametrize("case", CASES)
def test_order_of_neurons_would_be_noticed(case: str):
    check_wrong_states_are_noticed(build(case, mlp([2, 4, 3, 2])), mlp([2, 4, 3, 2]))


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_outputs_are_told_apart(case: str):
    architecture = mlp([2, 4, 3, 2])
    networks = random_stack(architecture, 4, 0)
    model = build(case, architecture).eval()
    for name, axis in (("0.weight", 2), ("2.weight", 1)):
        values = networks.parameters()
        values[name] = values[name].flip(axis)
        swapped = NeuralGraphStack.from_parameters(architecture, values)
        assert relative(model(swapped), model(networks)) > 1e-6


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case: str):
    architecture = mlp([2, 4, 3, 2])
    model = build(case, architecture)
    others = [] if "complete" in case else [mlp([2, 3, 3, 3, 2]), mlp([2, 2]), mlp([2, 3, 2])]
    assert without_gradient(model, [architecture, *others]) == []


@pytest.mark.parametrize("case", ["complete", "shared"])
def test_learns_a_function_of_the_weights(case: str):
    architecture = mlp([2, 6, 1])
    stack = random_stack(architecture, 32, 0)
    wanted = (stack.edge_attr[:, :12, 0].square().mean(1) * 4 - 2).unsqueeze(-1)
    model = build(case, architecture, dropout=0.0)
    model.fit_statistics(stack)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = (model(stack)[:, :1] - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


class TestComplete:
    def test_refuses_other_architectures(self):
        model = EquivariantNetwork(mlp([2, 3, 1]), 1).double()
        for other in (mlp([2, 4, 1]), mlp([2, 3, 1], bias=False)):
            with pytest.raises(ArchitectureError, match="reads no other"):
                model(random_stack(other, 1, 0))
            with pytest.raises(ArchitectureError, match="reads networks of any architectures"):
                EquivariantNetwork([mlp([2, 3, 1]), other], 1)
        with pytest.raises(ValueError, match="layers is 0"):
            EquivariantNetwork(mlp([2, 3, 1]), 1, layers=0)

    def test_reads_networks_that_differ_in_activations_alone(self):
        kinds = [mlp([2, 3, 1], "relu"), mlp([2, 3, 1], "tanh")]
        model = EquivariantNetwork(kinds, 1).double()
        assert model(random_stack(kinds[1], 2, 0)).shape == (2, 1)

    def test_states_alone(self):
        model = EquivariantNetwork(mlp([2, 3, 1]), 0, channels=5).double()
        states = model.states(random_stack(mlp([2, 3, 1]), 2, 0))
        assert states.x.shape == (2, 6, 5)
        assert states.edge_attr is not None
        assert states.edge_attr.shape == (2, 9, 5)


class TestShared:
    def test_mixed_widths_depths_and_biases(self):
        model = build("shared", mlp([2, 4, 4, 2])).eval()
        check_mixed_batch(model, MIXED)

    def test_structures_that_are_no_chains(self):
        architectures = dict(structured_architectures())
        model = build("shared", list(architectures.values())).eval()
        check_mixed_batch(model, list(architectures.values()))
        for name in ("residual", "grouped"):
            check_symmetry(build("shared", architectures[name]), architectures[name])

    def test_depths_and_widths_it_never_saw(self):
        model = build("shared", mlp([2, 4, 2]))
        for widths in ([2, 9, 3, 5, 1], [1, 6, 2]):
            check_symmetry(model, mlp(widths))

    def test_too_many_inputs_or_outputs_are_refused(self):
        model = build("shared", mlp([2, 4, 2]))
        with pytest.raises(ArchitectureError, match="3 inputs; the model was built for 2"):
            model(random_stack(mlp([3, 4, 2]), 2, 0))
        with pytest.raises(ArchitectureError, match="3 outputs; the model was built for 2"):
            model(random_stack(mlp([2, 4, 3]), 2, 0))
        with pytest.raises(ValueError, match="layers is 0"):
            build("shared", mlp([2, 4, 2]), layers=0)


def test_the_shared_norm_against_a_loop():
    topology = Topology.of_batch([mlp([2, 3, 1]), mlp([2, 4, 3, 1], bias=False), mlp([3, 2])])
    norm = SharedTensorNorm(2, levels=1, eps=0.1).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(topology.num_nodes, 2, dtype=torch.float64)
    e = torch.randn(topology.num_edges, 2, dtype=torch.float64)
    nodes, edges = norm(topology, x, e)
    slots = norm.slots(topology).split([len(topology.blocks.size), len(topology.groups.size)])
    for index, given, found, own in (
        (topology.edge_block, e, edges, slots[0]),
        (topology.nodes.group.index, x, nodes, slots[1]),
    ):  # fmt: skip
        for k, slot in enumerate(own.tolist()):
            rows = given[index == k]
            apart = rows - rows.mean()
            side = 0 if given is e else 1
            row = slot - side * len(norm.kinds.blocks)
            if slot < norm.kinds.slots:
                expected = apart / (apart.square().mean() + 0.1).sqrt() * norm.weights[side][row]
                expected = expected + norm.biases[side][row]
            else:  # neurons without biases
                expected = torch.zeros_like(rows)
            torch.testing.assert_close(found[index == k], expected)
