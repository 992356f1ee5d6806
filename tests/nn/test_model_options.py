"""Options and networks that do not fit a model are named, by every model alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nngraph.errors import InvalidGraphError
from nngraph.graph import Architecture
from nngraph.nn import MODELS
from nngraph.testing import random_stack

ARCHITECTURE = Architecture.mlp([2, 8, 8, 1], ["relu", "relu"])


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("message-passing", {"channels": 0}),
        ("message-passing", {"channels": "8"}),
        ("message-passing", {"messages": 0}),
        ("message-passing", {"edge_channels": -1}),
        ("message-passing", {"rounds": -1}),
        ("message-passing", {"probes": -1}),
        ("message-passing", {"max_levels": 0}),
        ("symmetric", {"max_levels": 0}),
        ("symmetric", {"messages": 0}),
        ("probe", {"probes": 0}),
        ("statistics", {"probes": -1}),
        ("ng-gnn", {"messages": 0}),
        ("dws", {"channels": 1.5}),
        ("ng-t", {"heads": 0}),
        ("ng-t", {"head_channels": 0}),
        ("dws", {"channels": 0}),
        ("nfn-np", {"channels": 0}),
    ],
)
def test_sizes_that_are_none_are_named(model: str, options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is"):
        MODELS[model](ARCHITECTURE, 3, **options)


@pytest.mark.parametrize("model", MODELS)
def test_numbers_of_answers_are_whole(model: str):
    with pytest.raises(ValueError, match="num_outputs is '3'; expected an integer"):
        MODELS[model](ARCHITECTURE, "3")  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["message-passing", "statistics"])
def test_a_generator_says_that_probes_are_missing(model: str):
    with pytest.raises(ValueError, match="generator=True makes probes; probes, their number, is"):
        MODELS[model](ARCHITECTURE, 3, generator=True)


def test_no_aggregations_are_refused():
    with pytest.raises(ValueError, match="aggregations are none"):
        MODELS["ng-gnn"](ARCHITECTURE, 3, aggregations=())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model", MODELS)
def test_networks_of_another_precision_are_refused_in_words(model: str, dtype: torch.dtype):
    made = MODELS[model](ARCHITECTURE, 3).eval()
    stack = random_stack(ARCHITECTURE, 2, 0).to(dtype)
    for networks in (stack, stack[:0], stack.to_batch()):
        with pytest.raises(InvalidGraphError, match=rf"parameters of torch.float32.*{dtype}"):
            made(networks)
