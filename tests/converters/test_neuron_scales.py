"""Scales and signs that an architecture states: derived, kept in files, and no function moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from converters import symmetry_spec, to_architecture, to_graph, verify
from nngraph.datasets import ScaleNeurons
from nngraph.errors import ArchitectureError
from nngraph.graph import (
    Architecture,
    NeuralGraph,
    NeuronScale,
    sample_scales,
    scale_parameters,
    scales_of,
)
from nngraph.zoo.classifiers.spec import ClassifierSpec


class Residual(nn.Module):
    """Two blocks, of which one makes its own shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.wide, self.short = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm(self.stem(x)))
        x = relu(x + self.second(self.first(x)))
        x = relu(self.wide(x) + self.short(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """A depthwise part, a concatenation and a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.deep = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.parts, self.last = nn.Conv2d(8, 3, 1), nn.Linear(3 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.one(x))
        x = torch.cat([relu(self.deep(x)), leaky_relu(x)], 1)
        return self.last(relu(self.parts(x)).flatten(1))  # type: ignore[no-any-return]


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    module = module.double().eval()
    for value in module.state_dict().values():
        if value.is_floating_point():
            value += 0.3 * torch.rand_like(value)
    return module


def image(side: int = 6) -> Tensor:
    return torch.randn(2, 1, side, side, dtype=torch.float64)


MODULES = {
    "residual": (Residual, image),
    "depthwise": (Depthwise, image),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
        lambda: torch.randn(2, 3, 4, dtype=torch.float64),
    ),
}


@pytest.mark.parametrize(("make", "inputs"), MODULES.values(), ids=MODULES)
def test_what_an_architecture_states_changes_no_function(make, inputs):
    module, x = shaken(make()), inputs()
    architecture, spec = to_architecture(module, x), symmetry_spec(module, x)
    factors = [maps for maps in spec.generators if not maps.is_matrix]
    assert len(architecture.scales) == len(factors) > 0
    assert Architecture.from_json(architecture.to_json()) == architecture
    state = {name: value.clone() for name, value in module.state_dict().items()}
    own = {p.name: state[p.name] for p in architecture.parameters}
    before, drawn = module(x).detach(), sample_scales(architecture, bound=1e3)
    moved = scale_parameters(architecture, own, drawn)
    module.load_state_dict({**state, **moved})
    torch.testing.assert_close(module(x), before, rtol=1e-10, atol=1e-10)
    for scale, factor in zip(architecture.scales, drawn, strict=True):
        # One slab less, and the function is another.
        less = replace(architecture, scales=(replace(scale, powers=scale.powers[1:]),))
        drawn = factor if scale.kind == "positive_scale" else -torch.ones_like(factor)
        module.load_state_dict({**state, **scale_parameters(less, own, [drawn])})
        assert float((module(x).detach() - before).abs().max()) > 1e-6


def test_a_graph_is_verified_with_its_scales():
    module, x = shaken(Depthwise()), image()
    graph = to_graph(module, x)
    assert verify(graph, module, x).holds
    first = graph.architecture.scales[0]
    wrong = replace(graph.architecture, scales=(replace(first, powers=first.powers[1:]),))
    claimed = NeuralGraph.from_parameters(wrong, graph.parameters())
    assert not verify(claimed, module, x).holds


@pytest.mark.parametrize(
    "spec",
    [
        ClassifierSpec((6, 6, 1), 3, (3, 3), (3, 3)),
        ClassifierSpec((6, 6, 1), 3, (3, 3, 2), (3, 3, 3), norm=True, residual=True),
        ClassifierSpec((6, 6, 1), 3, (3, 3), (3, 3), "tanh", norm=True),
        ClassifierSpec((6, 6, 1), 3, (3, 3), (), "gelu", norm=True),
    ],
    ids=["plain", "residual", "tanh", "no convolution"],
)
def test_classifiers_of_a_zoo_state_all_that_is_derived(spec: ClassifierSpec):
    module, x = shaken(spec.module()), image()
    architecture = spec.architecture()
    derived = to_architecture(module, x)
    for kind in ("positive_scale", "sign"):
        numbers = [sum(s.kind == kind for s in a.scales) for a in (architecture, derived)]
        assert numbers[0] == numbers[1]
    graph = NeuralGraph.from_parameters(
        architecture, {p.name: module.state_dict()[p.name] for p in architecture.parameters}
    )
    before = module(x).detach()
    module.load_state_dict(ScaleNeurons(100.0)(graph).parameters())
    torch.testing.assert_close(module(x), before, rtol=1e-10, atol=1e-10)


def test_a_chain_has_those_of_its_activations():
    chain = Architecture.mlp([2, 3, 3, 3, 3, 1], ["relu", "tanh", "gelu", "identity"])
    assert not chain.scales
    found = [(scale.space, scale.kind) for scale in scales_of(chain)]
    assert found == [
        ("hidden.1", "positive_scale"), ("hidden.2", "sign"), ("hidden.4", "positive_scale"),
        ("hidden.4", "sign"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "match"),
    [
        (NeuronScale("elsewhere", "sign", ()), "of 'elsewhere'; expected"),
        (NeuronScale("hidden.1", "phase", ()), "'phase' of"),  # type: ignore[arg-type]
        (NeuronScale("hidden.1", "sign", ((9, "t", 1),)), "of slab 9"),  # type: ignore[arg-type]
        (NeuronScale("hidden.1", "sign", ((0, "f", 1),)), "end 'f'"),  # type: ignore[arg-type]
        (NeuronScale("hidden.1", "sign", ((0, "t", 10**9),)), "has power"),  # type: ignore[arg-type]
        (NeuronScale("hidden.1", "sign", ((0, "s", 1),)), "counts it 0 times"),  # type: ignore[arg-type]
    ],
)
def test_scales_of_what_is_not_there_are_refused(scale: NeuronScale, match: str):
    with pytest.raises(ArchitectureError, match=match):
        replace(Architecture.mlp([2, 3, 1]), scales=(scale,))
