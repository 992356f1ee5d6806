"""A selection of networks that is empty, as a filter leaves it, goes through every model."""

import pytest
import torch

from nngraph import Architecture, forward
from nngraph.datasets import CanonicaliseSines, InputMotion, Relabel, ScaleNeurons, WeightNoise
from nngraph.errors import InvalidGraphError
from nngraph.graph import Symmetry
from nngraph.nn import MODELS
from nngraph.testing import random_stack

ARCHITECTURES = {
    "one hidden layer": Architecture.mlp([2, 5, 1], ["relu"]),
    "two hidden layers": Architecture.mlp([2, 8, 8, 1], ["relu", "relu"]),
    "sines": Architecture.mlp([2, 6, 6, 1], "sine"),
}


def none_of(architecture):
    return random_stack(architecture, 2, 0)[:0]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_an_empty_stack(model, architecture):
    built = MODELS[model](architecture, num_outputs=3).double()
    with torch.no_grad():
        assert built.eval()(none_of(architecture)).shape == (0, 3)
    answers = built.train()(none_of(architecture))
    assert answers.shape == (0, 3)
    answers.sum().backward()
    assert built.eval()(random_stack(architecture, 2, 0)).isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        CanonicaliseSines(),
        InputMotion(),
        Relabel(),
        WeightNoise(0.1),
        ScaleNeurons(2.0),
        lambda none: Symmetry(none.architecture).sample_stack(0, 0).act_on_stack(none),
        lambda none: none.to(torch.float32),
        lambda none: none[torch.zeros(0, dtype=torch.bool)],
    ],
    ids=["canonical", "moved", "relabelled", "noise", "scaled", "symmetry", "to", "mask"],
)
def test_transforms_of_an_empty_stack_are_empty(change):
    none = none_of(ARCHITECTURES["sines"])
    changed = change(none)
    assert len(changed) == 0
    assert changed.architecture == none.architecture
    assert changed.edge_attr.shape == none.edge_attr.shape


def test_an_empty_stack_runs_and_is_no_batch():
    none = none_of(ARCHITECTURES["two hidden layers"])
    assert forward(none, torch.ones(3, 2, dtype=torch.float64)).shape == (0, 3, 1)
    assert {len(value) for value in none.parameters().values()} == {0}
    assert list(none) == []
    with pytest.raises(InvalidGraphError, match="no graphs to batch"):
        none.to_batch()
