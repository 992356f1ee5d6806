"""Layers and models on networks that are no MLPs: exact, or refused in words."""

from __future__ import annotations

import pytest
import torch
from test_general import MODELS as NETWORKS

from converters import to_graph
from nngraph.errors import ArchitectureError, NNGraphError
from nngraph.graph import Architecture, NeuralGraph, Symmetry, to_batch
from nngraph.graph.topology.topology import Topology
from nngraph.nn import (
    MODELS,
    EquivariantLinear,
    InvariantLinear,
    SharedEquivariantLinear,
    SharedPoolingLayer,
)
from nngraph.testing import random_features, structured_architectures

STRUCTURED = [pytest.param(a, id=name) for name, a in structured_architectures()]


@pytest.fixture(scope="module")
def graphs() -> list[NeuralGraph]:
    torch.manual_seed(0)
    modules = [(make().double().eval(), x) for make, x in NETWORKS.values()]
    return [to_graph(m, x.double() if x.is_floating_point() else x) for m, x in modules]


def shaken(layer: torch.nn.Module) -> torch.nn.Module:
    """No weight is special."""
    torch.manual_seed(1)
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return layer.double()


def check_equivariant(layer: torch.nn.Module, architecture: Architecture) -> None:
    topology = Topology.of(architecture)
    x, edges = random_features(architecture, 2, 4, 4, 0)
    nodes_out, edges_out = layer(topology, x, edges)
    assert nodes_out.shape[-1] == edges_out.shape[-1] == 3
    relabelling = Symmetry(architecture).sample(2)
    moved = layer(topology, relabelling.act_on_nodes(x), relabelling.act_on_edges(edges))
    expected = relabelling.act_on_nodes(nodes_out), relabelling.act_on_edges(edges_out)
    for found, right in zip(moved, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    # Another permutation of the edges than the symmetry's must not do.
    first = architecture.blocks[0]
    edges = edges.clone()
    edges[:, first.start : first.stop] = edges[:, first.start : first.stop].roll(1, 1)
    assert not torch.allclose(layer(topology, x, edges)[1], edges_out, atol=1e-6)


LAYERS = {
    "shared": lambda: SharedEquivariantLinear(4, 3),
    "maximum": lambda: SharedPoolingLayer(4, 3, "max"),
    "attention": lambda: SharedPoolingLayer(4, 3, "attention", heads=2),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("architecture", STRUCTURED)
def test_shared_layers_are_equivariant_on_every_structure(make, architecture: Architecture):
    check_equivariant(shaken(make()), architecture)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_shared_layers_are_equivariant_on_converted_modules(make, graphs: list[NeuralGraph]):
    for graph in graphs:
        check_equivariant(shaken(make()), graph.architecture)


@pytest.mark.parametrize("layer", [EquivariantLinear, InvariantLinear])
@pytest.mark.parametrize("architecture", STRUCTURED)
def test_basis_layers_are_exact_or_say_what_they_do_not_know(layer, architecture: Architecture):
    spaces = [group.space for group in architecture.groups if group.space is not None]
    plain = all(isinstance(space, str) for space in spaces) and len(set(spaces)) == len(spaces)
    if not plain:
        with pytest.raises(ArchitectureError, match="equivariant linear layers know"):
            layer(architecture, 2, 3)
        return
    made = shaken(layer(architecture, 2, 3))
    x, edges = random_features(architecture, 2, 2, 2, 0)
    relabelling = Symmetry(architecture).sample(2)
    out = made(x, edges)
    moved = made(relabelling.act_on_nodes(x), relabelling.act_on_edges(edges))
    if layer is EquivariantLinear:
        out = relabelling.act_on_nodes(out[0]), relabelling.act_on_edges(out[1])
    torch.testing.assert_close(moved, out, rtol=1e-10, atol=1e-10)


def test_one_model_reads_a_batch_of_them_all(graphs: list[NeuralGraph]):
    model = MODELS["message-passing"]([graph.architecture for graph in graphs], 3).double().eval()
    answers = model(to_batch(graphs))
    moved = [Symmetry(g.architecture).sample(i).act_on_graph(g) for i, g in enumerate(graphs)]
    torch.testing.assert_close(model(to_batch(moved)), answers, rtol=1e-10, atol=1e-10)
    # A network whose weights were exchanged between neurons is another one.
    other = graphs[0].parameters()
    other["conv.weight"] = other["conv.weight"].roll(1, 0)
    changed = model(to_batch([graphs[0].with_parameters(other), *graphs[1:]]))
    assert not torch.allclose(changed[0], answers[0], atol=1e-6)
    torch.testing.assert_close(changed[1:], answers[1:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", [name for name, model in MODELS.items() if model.traits.chains_only or name == "probe"]
)
def test_models_of_mlps_refuse_them(name: str, graphs: list[NeuralGraph]):
    for graph in graphs:
        with pytest.raises(ArchitectureError, match=r"not a chain; expected an MLP"):
            MODELS[name](graph.architecture, 2)
    model = MODELS[name](Architecture.mlp([2, 4, 1], "relu"), 2)
    with pytest.raises(NNGraphError):
        model.double()(to_batch(graphs))
