"""What is particular to the general message passing: places of outputs, options of its layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Batch

from nngraph.graph import Architecture
from nngraph.graph.topology import Topology
from nngraph.nn import MessagePassingNetwork
from nngraph.testing import random_stack

mlp = Architecture.mlp
SMALL = {"channels": 8, "messages": 4, "edge_channels": 4, "hidden": 16}


class TestPlacesOfOutputs:
    def states(self, model: MessagePassingNetwork, networks) -> list[Tensor]:
        """Node states that enter the first round."""
        seen: list[Tensor] = []
        hook = model.rounds[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
        model(networks)
        hook.remove()
        return seen

    def test_each_output_neuron_has_its_row_and_no_other_neuron_has_one(self):
        architecture = mlp([2, 4, 3, 3])
        networks = random_stack(architecture, 2, 0)
        model = MessagePassingNetwork(architecture, 1, **SMALL).double().eval()
        (before,) = self.states(model, networks)
        change = torch.randn(3, 8).double()
        with torch.no_grad():
            model.output_place += change
        (after,) = self.states(model, networks)
        expected = torch.zeros_like(before)
        expected[:, -3:] = change
        torch.testing.assert_close(after - before, expected)

    def test_in_a_ragged_batch_of_fewer_outputs_and_other_depths(self):
        model = MessagePassingNetwork(mlp([2, 4, 3]), 1, **SMALL).double().eval()
        graphs = [random_stack(mlp(w), 1, 0)[0] for w in ([2, 3, 2], [2, 2, 2, 3], [2, 5, 1])]
        apart = torch.cat([states for g in graphs for states in self.states(model, g)], dim=-2)
        (together,) = self.states(model, Batch.from_data_list(graphs))
        torch.testing.assert_close(together.squeeze(0), apart.squeeze(0))
        with torch.no_grad():
            model.output_place += 1
        moved = self.states(model, Batch.from_data_list(graphs))[0] - together
        role = Topology.of_batch([g.architecture for g in graphs]).node_role
        torch.testing.assert_close(moved, (role == 2).double().unsqueeze(-1).expand_as(moved))
