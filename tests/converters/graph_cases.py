"""The laws that hold for the graph of every module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from converters import spec_spaces, to_graph
from converters.from_modules import build_architecture
from converters.symmetry import Derivation, permutation_spec
from nngraph.graph import Architecture, NeuralGraph, Symmetry
from nngraph.graph.topology.topology import Topology


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def check_graph(
    module: nn.Module,
    inputs: Any,
    kwargs: dict[str, Any] | None = None,
    derivation: Derivation | None = None,
) -> NeuralGraph:
    """Hold a module's graph to the laws, in float64 and in evaluation mode.

    Given a derivation, the architecture is made of that, as ``to_graph`` makes it of one of its
    own, which traces the module once more; else it is ``to_graph`` that is held to them.
    """
    module = copy.deepcopy(module).double().eval()
    inputs, kwargs = tree_map(_double, inputs), tree_map(_double, kwargs)
    state = module.state_dict()
    if derivation is None:
        graph = to_graph(module, inputs, kwargs=kwargs)
        spec = permutation_spec(module, inputs, kwargs=kwargs)
    else:
        graph = graph_of(build_architecture(derivation, state), state)
        spec = derivation.spec
    architecture = graph.architecture
    # Every tensor exactly once, and all of them.
    names = [p.name for p in architecture.parameters]
    assert sorted(names) == sorted(spec.parameters)
    assert {p.name: p.aliases for p in architecture.parameters if p.aliases} == spec.aliases
    aliases = [name for others in spec.aliases.values() for name in others]
    assert sorted([*names, *aliases]) == sorted(state)
    kept = {name: value.clone() for name, value in graph.parameters().items()}
    assert all(torch.equal(kept[name], state[name]) for name in names)
    assert graph.x.shape[0] == architecture.num_nodes
    assert all(torch.equal(v, kept[k]) for k, v in graph.parameters().items())
    Topology.of(architecture)
    # The graph's symmetry is the spec's: one relabelling does the same to both.
    symmetry = Symmetry(architecture)
    spaces = spec_spaces(architecture, spec)
    assert spaces.keys() == {name for name, size in symmetry.spaces.items() if size > 1}
    assert set(spaces.values()) == {space.name for space in spec.free_spaces}
    relabelling = symmetry.sample(0)
    moved = relabelling.act_on_parameters(kept)
    sampled = {
        name: relabelling.indices[own].reshape(
            *(spec.by_name[outer].size for outer in spec.by_name[name].within), -1
        )
        for own, name in spaces.items()
    }
    by_spec = spec.permute(state, sampled)
    assert all(torch.equal(moved[name], by_spec[name]) for name in names)
    assert all(
        torch.equal(v, moved[k]) for k, v in relabelling.act_on_graph(graph).parameters().items()
    )
    # And it leaves the function as it is: to float32 where a module computes in that by itself.
    other = copy.deepcopy(module)
    other.load_state_dict(by_spec)
    if derivation is None:
        again = to_graph(other, inputs, kwargs=kwargs)
        assert again.architecture == architecture
    else:
        again = graph_of(architecture, other.state_dict())
    assert torch.equal(again.edge_attr, relabelling.act_on_graph(graph).edge_attr)
    expected, found = _outputs(module, inputs, kwargs), _outputs(other, inputs, kwargs)
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    return graph


def graph_of(architecture: Architecture, state: dict[str, Tensor]) -> NeuralGraph:
    return NeuralGraph.from_parameters(
        architecture, {p.name: state[p.name] for p in architecture.parameters}
    )


def _outputs(module: nn.Module, inputs: Any, kwargs: dict[str, Any] | None) -> list[Tensor]:
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        found = module(*arguments, **(kwargs or {}))
    return [value for value in tree_leaves(found) if isinstance(value, Tensor)]


def _double(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if is_float else value
